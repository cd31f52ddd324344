//! `sessions.json`, the agent's list of conversations. It names each transcript by an absolute path, and that path
//! wins over the state directory: on a volume that came from elsewhere the agent would go on where the file used
//! to be.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::boot::alert::Instead;
use crate::boot::durable::{self, PRIVATE_FILE, Quarantine};

pub(super) const FILE: &str = "sessions.json";

/// How many paths were put right, and how many given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) rewritten: u64,
    pub(super) dropped: u64,
}

/// What was done with the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mended {
    pub(super) moved: Moved,
    /// Where a list is kept that could not be read, and what took its place.
    pub(super) set_aside: Option<(PathBuf, Instead)>,
    /// The list was missing, and the newest unfinished copy became it.
    pub(super) adopted: bool,
}

/// Puts the list in `dir` right. `temporary`: unfinished copies of it.
pub(super) fn mend(dir: &Path, temporary: &[PathBuf], quarantine: &Quarantine) -> io::Result<Mended> {
    let path = dir.join(FILE);
    let transcripts = transcripts(dir)?;
    let found = match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() => Some(parse(&fs::read(&path)?)),
        // A folder, a link: nothing that the agent made.
        Ok(_) => Some(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut mended = Mended { moved: Moved::default(), set_aside: None, adopted: false };
    let (mut sessions, mut changed) = match found {
        Some(Some(sessions)) => (sessions, false),
        missing_or_broken => {
            let older = newest(temporary);
            if missing_or_broken.is_some() {
                let instead = if older.is_some() { Instead::OlderCopy } else { Instead::Nothing };
                mended.set_aside = Some((quarantine.take(&path)?, instead));
            } else {
                mended.adopted = older.is_some();
            }
            let Some(older) = older else { return Ok(mended) };
            (older, true)
        }
    };
    mended.moved = relocate(&mut sessions, dir, &transcripts);
    changed |= mended.moved != Moved::default();
    if changed {
        let text = serde_json::to_vec_pretty(&Value::Object(sessions))?;
        durable::replace(&path, &text, PRIVATE_FILE)?;
    }
    Ok(mended)
}

/// Lets every `sessionFile` name a file in `dir`: the one of the same name if there is one, else none, which the
/// agent takes for the conversation's default name. A path that names `dir` already stays, also before its
/// file is there.
fn relocate(sessions: &mut Map<String, Value>, dir: &Path, transcripts: &BTreeSet<String>) -> Moved {
    let mut moved = Moved::default();
    for session in sessions.values_mut().filter_map(Value::as_object_mut) {
        let Some(file) = session.get("sessionFile") else { continue };
        // The agent trims it.
        let file = file.as_str().map(|text| Path::new(text.trim()));
        let here = file.is_some_and(|file| file.parent() == Some(dir));
        if here {
            continue;
        }
        let name = file.and_then(|file| file.file_name()).and_then(|name| name.to_str());
        match name.filter(|name| transcripts.contains(*name)) {
            Some(name) => {
                session.insert("sessionFile".to_owned(), dir.join(name).to_string_lossy().into());
                moved.rewritten = moved.rewritten.saturating_add(1);
            }
            None => {
                // Not `remove`: that would put the last key into its place.
                session.shift_remove("sessionFile");
                moved.dropped = moved.dropped.saturating_add(1);
            }
        }
    }
    moved
}

/// The list, if it is one. The agent reads it as JSON5 and writes it as JSON.
fn parse(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(sessions)) => Some(sessions),
        Ok(_) => None,
        Err(_) => json5::from_str(std::str::from_utf8(bytes).ok()?).ok(),
    }
}

/// The newest of the unfinished copies that is a list.
fn newest(temporary: &[PathBuf]) -> Option<Map<String, Value>> {
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified());
    let mut copies: Vec<_> =
        temporary.iter().map(|path| (modified(path).unwrap_or(SystemTime::UNIX_EPOCH), path)).collect();
    copies.sort();
    copies.into_iter().rev().find_map(|(_, path)| parse(&fs::read(path).ok()?))
}

fn transcripts(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use shared::time::UnixMillis;

    use super::*;

    const DIR: &str = "/data/clawdbot/agents/main/sessions";

    fn relocated(file: &Value) -> (Option<Value>, Moved) {
        let mut sessions = json!({"k": {"sessionId": "a", "sessionFile": file, "label": "x"}});
        let sessions = sessions.as_object_mut().unwrap();
        let transcripts = ["a.jsonl", "b-topic-7.jsonl"].map(str::to_owned).into();
        let moved = relocate(sessions, Path::new(DIR), &transcripts);
        assert_eq!(sessions["k"]["sessionId"], "a");
        assert_eq!(sessions["k"]["label"], "x");
        (sessions["k"].get("sessionFile").cloned(), moved)
    }

    #[test]
    fn paths() {
        let new = |name: &str| Some(json!(format!("{DIR}/{name}")));
        let (rewritten, dropped) = (Moved { rewritten: 1, dropped: 0 }, Moved { rewritten: 0, dropped: 1 });
        let rows = [
            (json!("/root/.clawdbot/agents/main/sessions/a.jsonl"), new("a.jsonl"), rewritten),
            (json!(" /root/.clawdbot/agents/main/sessions/a.jsonl\n"), new("a.jsonl"), rewritten),
            (json!("/old/b-topic-7.jsonl"), new("b-topic-7.jsonl"), rewritten),
            (json!("relative/a.jsonl"), new("a.jsonl"), rewritten),
            (json!("/data/clawdbot/agents/main/sessions/../sessions/a.jsonl"), new("a.jsonl"), rewritten),
            (json!("/root/.clawdbot/agents/main/sessions/gone.jsonl"), None, dropped),
            (json!("/"), None, dropped),
            (json!(""), None, dropped),
            (json!(7), None, dropped),
            (json!(format!("{DIR}/a.jsonl")), new("a.jsonl"), Moved::default()),
            (json!(format!("{DIR}/not-there-yet.jsonl")), new("not-there-yet.jsonl"), Moved::default()),
        ];
        for (file, expect, moved) in rows {
            assert_eq!(relocated(&file), (expect, moved), "{file}");
        }
    }

    struct Bed {
        dir: tempfile::TempDir,
    }

    impl Bed {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(dir.path().join(name), content).unwrap();
            }
            Self { dir }
        }

        fn mend(&self, temporary: &[&str]) -> Mended {
            let quarantine = Quarantine::new(self.dir.path().join("kept"), UnixMillis(1));
            let temporary: Vec<_> = temporary.iter().map(|name| self.dir.path().join(name)).collect();
            mend(self.dir.path(), &temporary, &quarantine).unwrap()
        }

        fn index(&self) -> Option<Value> {
            serde_json::from_slice(&fs::read(self.dir.path().join(FILE)).ok()?).ok()
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_kept_and_an_older_copy_takes_its_place() {
        let older =
            [("sessions.json.1.a.tmp", r#"{"k":{"sessionId":"a"}}"#), ("sessions.json.2.b.tmp", "{\"k")];
        let names = older.map(|(name, _)| name);
        for broken in ["", "{\"agent:main", "[]", "\0\0\0\0"] {
            let bed = Bed::new(&[("sessions.json", broken), older[0], older[1]]);
            let (kept, instead) = bed.mend(&names).set_aside.unwrap();
            assert_eq!(instead, Instead::OlderCopy);
            assert_eq!(fs::read_to_string(kept).unwrap(), broken);
            assert_eq!(bed.index().unwrap(), json!({"k": {"sessionId": "a"}}));

            let bed = Bed::new(&[("sessions.json", broken)]);
            let (kept, instead) = bed.mend(&[]).set_aside.unwrap();
            assert_eq!((instead, fs::read_to_string(kept).unwrap().as_str()), (Instead::Nothing, broken));
            assert_eq!(bed.index(), None);
        }
    }

    #[test]
    fn a_first_list_that_was_never_renamed_counts() {
        let bed = Bed::new(&[("sessions.json.1.a.tmp", r#"{"k":{"sessionId":"a"}}"#)]);
        assert!(bed.mend(&["sessions.json.1.a.tmp"]).adopted);
        assert_eq!(bed.index().unwrap(), json!({"k": {"sessionId": "a"}}));
    }

    #[test]
    fn a_good_list_is_not_written_again() {
        let text = "{ \"k\" : {\"sessionId\":\"a\"} }";
        let bed = Bed::new(&[("sessions.json", text)]);
        let nothing = Mended { moved: Moved::default(), set_aside: None, adopted: false };
        assert_eq!(bed.mend(&[]), nothing);
        assert_eq!(fs::read_to_string(bed.dir.path().join(FILE)).unwrap(), text);
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(files in prop::collection::vec("(/[a-c]{1,2}){0,3}/?[ab]\\.jsonl", 0..5)) {
            let bed = Bed::new(&[("a.jsonl", "{}\n")]);
            let sessions: Map<String, Value> = files
                .iter()
                .enumerate()
                .map(|(n, file)| (format!("k{n}"), json!({"sessionId": n, "sessionFile": file, "x": [n]})))
                .collect();
            fs::write(bed.dir.path().join(FILE), Value::Object(sessions.clone()).to_string()).unwrap();
            bed.mend(&[]);
            let once = bed.index().unwrap();
            prop_assert_eq!(bed.mend(&[]).moved, Moved::default());
            prop_assert_eq!(&bed.index().unwrap(), &once);
            for (key, session) in &sessions {
                prop_assert_eq!(&once[key]["sessionId"], &session["sessionId"]);
                prop_assert_eq!(&once[key]["x"], &session["x"]);
            }
        }
    }
}
