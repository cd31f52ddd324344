//! The image's files for the workspace: skills, and whatever else the image offers.
//!
//! An empty workspace gets them at once. Into one that is in use they come only when somebody asks
//! ([`upgrade`]), and never over anything that the user has written: see [`plan`].
//!
//! The image's folder holds `version`, a whole number, and `workspace`, which is copied. Links in it are ignored.

pub mod plan;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::Serialize;

use super::durable::{self, PRIVATE_FILE};
use crate::files::Files;
use crate::files::error::FileError;
use crate::files::etag::{ContentHash, ETag, Expect};
use crate::files::meta::Kind;
use crate::files::path::{TRASH_DIR, VIRTUAL_ROOT, WorkspacePath};
use crate::files::{read, write};
use plan::{Action, BESIDE_SUFFIX, Content, Installed, Offer, OnDisk, Why};

const RECORD_FILE: &str = "workspace.json";

/// What is there before anybody has written anything.
const EMPTY_NAMES: [&str; 3] = [".git", TRASH_DIR, "lost+found"];

/// Skills are texts and small programs.
const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: u32 = 16;

/// What the workspace has of the image's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filled {
    /// Files that were put there now.
    pub copied: u64,
    /// The version that it has; `None` for a workspace that never had any.
    pub version: Option<u32>,
    /// The version that the image has; `None` if it has none.
    pub offered: Option<u32>,
}

/// What an upgrade did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    pub from: Option<u32>,
    pub to: u32,
    /// Every file that the image offers, by its path below the workspace.
    pub steps: BTreeMap<String, Action>,
}

/// Fills `workspace` from the image, if it is empty or was being filled when a process ended. `own` is the
/// sidecar's folder. Blocks.
pub(super) fn fill_if_empty(workspace: &Path, image: &Path, own: &Path) -> io::Result<Filled> {
    let record = own.join(RECORD_FILE);
    let installed = load(&record)?;
    let offer = offer(image)?;
    let mut filled = Filled {
        copied: 0,
        version: installed.as_ref().map(|installed| installed.version),
        offered: offer.as_ref().map(|offer| offer.version),
    };
    let Some(offer) = offer else { return Ok(filled) };
    let is_unfinished = installed.as_ref().is_some_and(|installed| installed.unfinished);
    if !is_unfinished && !is_empty(workspace)? {
        return Ok(filled);
    }
    // Whatever was there once is gone, and nobody has removed a single file on purpose.
    let steps = install(workspace, image, &record, &offer, Installed::default())?;
    filled.copied = steps.values().filter(|action| **action == Action::Copy).count() as u64;
    filled.version = Some(offer.version);
    Ok(filled)
}

/// Brings the image's files into a workspace that is in use; with `dry`, only says what that would do. Blocks.
///
/// # Errors
/// The image, the record or the workspace cannot be read or written. What was done until then is done, and the
/// call can be repeated.
pub fn upgrade(workspace: &Path, image: &Path, own: &Path, dry: bool) -> io::Result<Option<Upgrade>> {
    let record = own.join(RECORD_FILE);
    let Some(offer) = offer(image)? else { return Ok(None) };
    let installed = load(&record)?;
    let from = installed.as_ref().map(|installed| installed.version);
    let installed = installed.unwrap_or_default();
    let steps = if dry {
        let files = Files::open(workspace)?;
        plan::plan(&offer, &installed, |path| look(&files, path)).into_iter().collect()
    } else {
        install(workspace, image, &record, &offer, installed)?
    };
    Ok(Some(Upgrade { from, to: offer.version, steps }))
}

fn install(
    workspace: &Path,
    image: &Path,
    record: &Path,
    offer: &Offer,
    mut installed: Installed,
) -> io::Result<BTreeMap<String, Action>> {
    let files = Files::open(workspace)?;
    let steps = plan::plan(offer, &installed, |path| look(&files, path));
    installed.unfinished = true;
    store(record, &installed)?;
    let mut done = BTreeMap::new();
    for (path, action) in steps {
        let Some(content) = offer.files.get(&path) else { continue };
        let action = perform(&files, image, &path, action)?;
        match &action {
            Action::Copy | Action::Replace { .. } | Action::Leave { why: Why::Same } => {
                installed.files.insert(path.clone(), content.clone());
            }
            Action::Beside { .. } | Action::Leave { why: Why::Offered } => {
                installed.beside.insert(path.clone(), content.clone());
            }
            Action::Leave { why: Why::Changed | Why::Removed | Why::InTheWay } => {}
        }
        done.insert(path, action);
    }
    installed.version = offer.version;
    installed.unfinished = false;
    store(record, &installed)?;
    Ok(done)
}

/// Performs one step. Each write holds only if what was decided upon is still there; if the agent was quicker, the
/// file is left to it.
fn perform(files: &Files, image: &Path, path: &str, action: Action) -> io::Result<Action> {
    let (to, expect) = match &action {
        Action::Leave { .. } => return Ok(action),
        Action::Copy => (path.to_owned(), Expect::Absent),
        Action::Replace { old } => (path.to_owned(), is(old)),
        Action::Beside { old: None } => (format!("{path}{BESIDE_SUFFIX}"), Expect::Absent),
        Action::Beside { old: Some(old) } => (format!("{path}{BESIDE_SUFFIX}"), is(old)),
    };
    let source = image.join("workspace").join(path);
    let Some(to) = workspace_path(&to) else { return Ok(Action::Leave { why: Why::InTheWay }) };
    match write::bytes(files, &to, &fs::read(&source)?, true, &expect) {
        Ok(_) => {}
        Err(
            FileError::Precondition { .. }
            | FileError::NotAFile
            | FileError::NotADirectory
            | FileError::Outside,
        ) => {
            return Ok(Action::Leave { why: Why::InTheWay });
        }
        Err(error) => return Err(io::Error::other(error)),
    }
    if fs::metadata(&source)?.permissions().mode() & 0o100 != 0
        && let Ok((file, _)) = files.root.open_file(&to)
    {
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
    }
    Ok(action)
}

fn is(content: &Content) -> Expect {
    ETag::parse(&content.0).map_or(Expect::Absent, |tag| Expect::OneOf(vec![tag]))
}

fn workspace_path(path: &str) -> Option<WorkspacePath> {
    WorkspacePath::parse(&format!("{VIRTUAL_ROOT}/{path}")).ok()
}

fn look(files: &Files, path: &str) -> OnDisk {
    let Some(path) = workspace_path(path) else { return OnDisk::Other };
    match files.root.target(&path).and_then(|target| target.metadata()) {
        Ok(Some(meta)) if meta.kind == Kind::File => {}
        Ok(None) | Err(FileError::NotFound) => return OnDisk::Nothing,
        Ok(Some(_)) | Err(_) => return OnDisk::Other,
    }
    match read::whole(files, &path, u64::MAX) {
        Ok(content) => OnDisk::File(content_of(&content.bytes)),
        Err(_) => OnDisk::Other,
    }
}

fn content_of(bytes: &[u8]) -> Content {
    Content(ETag::strong(ContentHash::of(bytes)).to_string())
}

fn is_empty(workspace: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(workspace)? {
        let name = entry?.file_name();
        if !EMPTY_NAMES.iter().any(|empty| name == *empty) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None`: there is no image here, as on a developer's machine.
fn offer(image: &Path) -> io::Result<Option<Offer>> {
    let version = match fs::read_to_string(image.join("version")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let version = version.trim().parse().map_err(|_| invalid("the image's version is no number"))?;
    let mut files = BTreeMap::new();
    collect(&image.join("workspace"), "", MAX_DEPTH, &mut files)?;
    Ok(Some(Offer { version, files }))
}

fn collect(dir: &Path, below: &str, depth: u32, files: &mut BTreeMap<String, Content>) -> io::Result<()> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let depth = depth.checked_sub(1).ok_or_else(|| invalid("the image's folders are too deep"))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let name = name.to_str().ok_or_else(|| invalid("a name in the image is no UTF-8"))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if kind.is_dir() {
            collect(&entry.path(), &path, depth, files)?;
        } else if kind.is_file() {
            if files.len() >= MAX_FILES || entry.metadata()?.len() > MAX_FILE_BYTES {
                return Err(invalid("the image has too many files or too large a one"));
            }
            files.insert(path, content_of(&fs::read(entry.path())?));
        }
    }
    Ok(())
}

fn load(record: &Path) -> io::Result<Option<Installed>> {
    match fs::read(record) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn store(record: &Path, installed: &Installed) -> io::Result<()> {
    durable::replace(record, &serde_json::to_vec_pretty(installed)?, PRIVATE_FILE)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Bed(tempfile::TempDir);

    impl Bed {
        fn new() -> Self {
            let bed = Self(tempfile::tempdir().unwrap());
            for dir in ["ws", "own", "image/workspace/skills/a"] {
                fs::create_dir_all(bed.path(dir)).unwrap();
            }
            bed.offer(1, "v1");
            let script = bed.path("image/workspace/skills/a/run");
            fs::write(&script, "#!/bin/sh\n").unwrap();
            fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
            bed
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn offer(&self, version: u32, text: &str) {
            fs::write(self.path("image/version"), format!("{version}\n")).unwrap();
            fs::write(self.path("image/workspace/skills/a/SKILL.md"), text).unwrap();
        }

        fn fill(&self) -> Filled {
            fill_if_empty(&self.path("ws"), &self.path("image"), &self.path("own")).unwrap()
        }

        fn upgrade(&self, dry: bool) -> Upgrade {
            upgrade(&self.path("ws"), &self.path("image"), &self.path("own"), dry).unwrap().unwrap()
        }

        fn skill(&self) -> PathBuf {
            self.path("ws/skills/a/SKILL.md")
        }
    }

    fn filled(copied: u64, version: Option<u32>, offered: u32) -> Filled {
        Filled { copied, version, offered: Some(offered) }
    }

    #[test]
    fn an_empty_workspace_is_filled_once() {
        let bed = Bed::new();
        fs::create_dir(bed.path("ws/.git")).unwrap();
        assert_eq!(bed.fill(), filled(2, Some(1), 1));
        assert_eq!(fs::read_to_string(bed.skill()).unwrap(), "v1");
        let mode = fs::metadata(bed.path("ws/skills/a/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(bed.fill(), filled(0, Some(1), 1));
        bed.offer(2, "v2");
        assert_eq!(bed.fill(), filled(0, Some(1), 2), "a workspace in use gets nothing by itself");
        assert_eq!(fs::read_to_string(bed.skill()).unwrap(), "v1");
    }

    #[test]
    fn a_workspace_that_came_from_elsewhere_gets_nothing_by_itself() {
        let bed = Bed::new();
        fs::write(bed.path("ws/SOUL.md"), "soul").unwrap();
        assert_eq!(bed.fill(), filled(0, None, 1));
        assert!(!bed.path("ws/skills").exists());
        let steps = bed.upgrade(false).steps;
        assert!(steps.values().all(|action| *action == Action::Copy), "{steps:?}");
        assert!(bed.skill().exists());
    }

    #[test]
    fn a_workspace_that_was_reset_is_filled_again() {
        let bed = Bed::new();
        bed.fill();
        fs::remove_dir_all(bed.path("ws/skills")).unwrap();
        fs::create_dir(bed.path("ws/.trash")).unwrap();
        assert_eq!(bed.fill(), filled(2, Some(1), 1));
    }

    #[test]
    fn filling_goes_on_after_a_crash() {
        let bed = Bed::new();
        let unfinished = Installed { unfinished: true, ..Installed::default() };
        store(&bed.path("own/workspace.json"), &unfinished).unwrap();
        fs::create_dir_all(bed.path("ws/skills/a")).unwrap();
        fs::write(bed.path("ws/skills/a/run"), "#!/bin/sh\n").unwrap();
        assert_eq!(bed.fill(), filled(1, Some(1), 1));
        assert_eq!(bed.fill(), filled(0, Some(1), 1));
    }

    #[test]
    fn an_upgrade_replaces_what_is_ours_and_lays_the_rest_beside() {
        let bed = Bed::new();
        bed.fill();
        bed.offer(2, "v2");
        fs::remove_file(bed.path("ws/skills/a/run")).unwrap();
        let dry = bed.upgrade(true);
        assert_eq!(fs::read_to_string(bed.skill()).unwrap(), "v1");
        let real = bed.upgrade(false);
        assert_eq!(dry, real);
        assert_eq!((real.from, real.to), (Some(1), 2));
        assert_eq!(real.steps["skills/a/run"], Action::Leave { why: Why::Removed });
        assert_eq!(fs::read_to_string(bed.skill()).unwrap(), "v2");

        fs::write(bed.skill(), "mine").unwrap();
        bed.offer(3, "v3");
        assert_eq!(bed.upgrade(false).steps["skills/a/SKILL.md"], Action::Beside { old: None });
        assert_eq!(fs::read_to_string(bed.skill()).unwrap(), "mine");
        let beside = bed.path("ws/skills/a/SKILL.md.new");
        assert_eq!(fs::read_to_string(&beside).unwrap(), "v3");
        assert_eq!(bed.upgrade(false).steps["skills/a/SKILL.md"], Action::Leave { why: Why::Offered });
        bed.offer(4, "v4");
        bed.upgrade(false);
        assert_eq!(fs::read_to_string(&beside).unwrap(), "v4");
    }

    #[test]
    fn a_link_out_of_the_workspace_is_in_the_way() {
        let bed = Bed::new();
        fs::write(bed.path("outside"), "theirs").unwrap();
        fs::create_dir_all(bed.path("ws/skills/a")).unwrap();
        std::os::unix::fs::symlink(bed.path("outside"), bed.skill()).unwrap();
        let steps = bed.upgrade(false).steps;
        assert_eq!(steps["skills/a/SKILL.md"], Action::Leave { why: Why::InTheWay });
        assert_eq!(fs::read_to_string(bed.path("outside")).unwrap(), "theirs");
    }

    #[test]
    fn without_an_image_nothing_happens() {
        let bed = Bed::new();
        fs::remove_file(bed.path("image/version")).unwrap();
        assert_eq!(bed.fill(), Filled::default());
        fs::write(bed.path("image/version"), "one").unwrap();
        let refused = fill_if_empty(&bed.path("ws"), &bed.path("image"), &bed.path("own"));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
