//! What becomes of each file that the image offers, decided from values alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ends the name of a file that is put beside the user's own.
pub const BESIDE_SUFFIX: &str = ".new";

/// A file's content, by its strong entity tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(pub String);

/// What the image has for the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    pub version: u32,
    /// By path below the workspace, with `/` between the components.
    pub files: BTreeMap<String, Content>,
}

/// What we have put into the workspace so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub version: u32,
    pub files: BTreeMap<String, Content>,
    /// What was put beside a file of the user's own, by that file's path.
    #[serde(default)]
    pub beside: BTreeMap<String, Content>,
    /// It was begun and not finished.
    #[serde(default)]
    pub unfinished: bool,
}

/// What is at a path of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnDisk {
    Nothing,
    File(Content),
    /// A folder, a link, or something that cannot be looked at.
    Other,
}

/// What to do at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Action {
    /// Put it where nothing is.
    Copy,
    /// Put it in the place of what we put there earlier, which nobody has changed.
    Replace { old: Content },
    /// Put it beside the user's own file, under [`BESIDE_SUFFIX`].
    Beside { old: Option<Content> },
    /// Do nothing.
    Leave { why: Why },
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// It is there already.
    Same,
    /// The user has changed it, and we have nothing newer than what they changed.
    Changed,
    /// We put it there once, and the user has removed it.
    Removed,
    /// It has been offered beside the user's own file before.
    Offered,
    /// Something other than a file is there, or under the name beside it something that is not ours.
    InTheWay,
}

/// The files of `offer`, in order, with what to do about each. What the image no longer offers stays.
pub fn plan(
    offer: &Offer,
    installed: &Installed,
    mut look: impl FnMut(&str) -> OnDisk,
) -> Vec<(String, Action)> {
    let mut steps = Vec::new();
    for (path, offered) in &offer.files {
        let before = installed.files.get(path);
        let action = match look(path) {
            OnDisk::Nothing if before.is_some() => Action::Leave { why: Why::Removed },
            OnDisk::Nothing => Action::Copy,
            OnDisk::Other => Action::Leave { why: Why::InTheWay },
            OnDisk::File(there) if there == *offered => Action::Leave { why: Why::Same },
            OnDisk::File(there) if Some(&there) == before => Action::Replace { old: there },
            OnDisk::File(_) if before == Some(offered) => Action::Leave { why: Why::Changed },
            OnDisk::File(_) => beside(path, offered, installed.beside.get(path), &mut look),
        };
        steps.push((path.clone(), action));
    }
    steps
}

fn beside(
    path: &str,
    offered: &Content,
    before: Option<&Content>,
    look: &mut impl FnMut(&str) -> OnDisk,
) -> Action {
    if before == Some(offered) {
        return Action::Leave { why: Why::Offered };
    }
    match look(&format!("{path}{BESIDE_SUFFIX}")) {
        OnDisk::Nothing => Action::Beside { old: None },
        OnDisk::File(there) if there == *offered => Action::Leave { why: Why::Offered },
        OnDisk::File(there) if Some(&there) == before => Action::Beside { old: Some(there) },
        OnDisk::File(_) | OnDisk::Other => Action::Leave { why: Why::InTheWay },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(text: &str) -> Content {
        Content(text.to_owned())
    }

    fn one(text: &str) -> BTreeMap<String, Content> {
        [("f".to_owned(), content(text))].into()
    }

    #[test]
    fn one_file() {
        let leave = |why| Action::Leave { why };
        // (what we put there earlier, beside it, what is there, what is beside it, the decision on "v2")
        type Row =
            (Option<&'static str>, Option<&'static str>, Option<&'static str>, Option<&'static str>, Action);
        let rows: Vec<Row> = vec![
            (None, None, None, None, Action::Copy),
            (None, None, Some("v2"), None, leave(Why::Same)),
            (None, None, Some("mine"), None, Action::Beside { old: None }),
            (None, None, Some("mine"), Some("v2"), leave(Why::Offered)),
            (None, None, Some("mine"), Some("theirs"), leave(Why::InTheWay)),
            (Some("v1"), None, None, None, leave(Why::Removed)),
            (Some("v1"), None, Some("v1"), None, Action::Replace { old: content("v1") }),
            (Some("v1"), None, Some("v2"), None, leave(Why::Same)),
            (Some("v1"), None, Some("mine"), None, Action::Beside { old: None }),
            (Some("v2"), None, Some("mine"), None, leave(Why::Changed)),
            (Some("v0"), Some("v1"), Some("mine"), Some("v1"), Action::Beside { old: Some(content("v1")) }),
            (Some("v0"), Some("v1"), Some("mine"), None, Action::Beside { old: None }),
            (Some("v0"), Some("v2"), Some("mine"), None, leave(Why::Offered)),
            (Some("v0"), Some("v1"), Some("mine"), Some("theirs"), leave(Why::InTheWay)),
        ];
        for (earlier, beside, there, there_beside, expect) in rows {
            let offer = Offer { version: 2, files: one("v2") };
            let installed = Installed {
                version: 1,
                files: earlier.map(one).unwrap_or_default(),
                beside: beside.map(one).unwrap_or_default(),
                unfinished: false,
            };
            let look = |path: &str| {
                let found = if path == "f" { there } else { there_beside };
                found.map_or(OnDisk::Nothing, |text| OnDisk::File(content(text)))
            };
            let steps = plan(&offer, &installed, look);
            let case = format!("{earlier:?} {beside:?} {there:?} {there_beside:?}");
            assert_eq!(steps, [("f".to_owned(), expect)], "{case}");
        }
        let steps = plan(&Offer { version: 1, files: one("v") }, &Installed::default(), |_| OnDisk::Other);
        assert_eq!(steps, [("f".to_owned(), leave(Why::InTheWay))]);
    }

    proptest! {
        /// No step ever takes away what the user has written.
        #[test]
        fn only_what_is_ours_is_replaced(
            offered in "[ab]", earlier in prop::option::of("[ab]"), beside in prop::option::of("[ab]"),
            disk in prop::collection::btree_map("f|f.new", "[abm]", 0..3),
        ) {
            let installed = Installed {
                version: 1,
                files: earlier.as_deref().map(one).unwrap_or_default(),
                beside: beside.as_deref().map(one).unwrap_or_default(),
                unfinished: false,
            };
            let look = |path: &str| disk.get(path).map_or(OnDisk::Nothing, |text| OnDisk::File(content(text)));
            for (_, action) in plan(&Offer { version: 2, files: one(&offered) }, &installed, look) {
                match action {
                    Action::Copy => prop_assert!(!disk.contains_key("f")),
                    Action::Replace { old } => prop_assert_eq!(Some(&old.0), earlier.as_ref()),
                    Action::Beside { old: None } => prop_assert!(!disk.contains_key("f.new")),
                    Action::Beside { old: Some(old) } => prop_assert_eq!(Some(&old.0), beside.as_ref()),
                    Action::Leave { .. } => {}
                }
            }
        }
    }
}
