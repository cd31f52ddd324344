//! Where the agent and its tools keep what is theirs.
//!
//! `HOME` lies on the volume, so that what `gh`, `git`, `npm` and the like remember persists (L-36). What can be
//! had again, caches and temporary files, does not: the volume is small. `ssh` asks the system for the home
//! directory and not the environment, so `.ssh` is linked from there; so are the two places at which everything lay
//! on the old side, since the agent's own notes speak of them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::alert::Alert;
use super::durable::{PRIVATE_DIR, PRIVATE_FILE};

/// Where everything is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) home: &'a Path,
    pub(super) tmp: &'a Path,
    pub(super) state: &'a Path,
    pub(super) workspace: &'a Path,
    /// The home directory of the old side, in which links are made.
    pub(super) legacy_home: Option<&'a Path>,
}

/// Makes the folders with their permissions, and the links.
pub(super) fn set_up(places: Places<'_>) -> io::Result<Vec<Alert>> {
    let ssh = places.home.join(".ssh");
    for dir in [places.home, &ssh, places.state] {
        private_dir(dir)?;
    }
    for dir in [places.workspace, places.tmp, &npm_prefix(places.home)] {
        fs::create_dir_all(dir)?;
    }
    protect_keys(&ssh)?;
    let mut alerts = Vec::new();
    let Some(legacy) = places.legacy_home else { return Ok(alerts) };
    fs::create_dir_all(legacy)?;
    for (name, target) in [(".clawdbot", places.state), ("clawd", places.workspace), (".ssh", ssh.as_path())]
    {
        let link = legacy.join(name);
        if link != target && !make_link(&link, target)? {
            alerts.push(Alert::LinkBlocked { link: link.display().to_string() });
        }
    }
    Ok(alerts)
}

/// The variables by which tools find these places.
pub(super) fn variables(home: &Path, tmp: &Path) -> [(&'static str, OsString); 5] {
    [
        ("HOME", home.into()),
        ("TMPDIR", tmp.into()),
        ("XDG_CACHE_HOME", tmp.join("cache").into()),
        ("NPM_CONFIG_CACHE", tmp.join("npm-cache").into()),
        ("NPM_CONFIG_PREFIX", npm_prefix(home).into()),
    ]
}

/// Where tools are looked for: what the user has installed, then what the image has.
pub(super) fn search_path(home: &Path, node: &Path, system: &str) -> OsString {
    let mut path = OsString::new();
    let dirs = [
        Some(npm_prefix(home).join("bin")),
        Some(home.join(".local/bin")),
        node.parent().map(Path::to_owned),
    ];
    for dir in dirs.into_iter().flatten().filter(|dir| dir.is_absolute()) {
        path.push(dir);
        path.push(":");
    }
    path.push(system);
    path
}

fn npm_prefix(home: &Path) -> PathBuf {
    home.join(".npm-global")
}

fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(dir)?;
    // It may have been there, or come from a copy that kept no permissions.
    fs::set_permissions(dir, fs::Permissions::from_mode(PRIVATE_DIR))
}

/// `ssh` refuses keys that others can read.
fn protect_keys(ssh: &Path) -> io::Result<()> {
    for entry in fs::read_dir(ssh)? {
        let entry = entry?;
        // Not through a link: the file behind it may be meant for others.
        if entry.file_type()?.is_file() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(PRIVATE_FILE))?;
        }
    }
    Ok(())
}

/// `false`: something else is there that somebody may need.
fn make_link(link: &Path, target: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.is_symlink() => {
            if fs::read_link(link)? == target {
                return Ok(true);
            }
            // Left by an image that had its folders elsewhere.
            fs::remove_file(link)?;
        }
        Ok(meta) if meta.is_dir() => match fs::remove_dir(link) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(false),
            removed => removed?,
        },
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(target, link)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    struct Bed(tempfile::TempDir);

    impl Bed {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn set_up(&self) -> Vec<Alert> {
            let [home, tmp, state, workspace, legacy] =
                ["data/home", "tmp", "data/clawdbot", "data/workspace", "root"].map(|name| self.path(name));
            let legacy_home = Some(legacy.as_path());
            set_up(Places { home: &home, tmp: &tmp, state: &state, workspace: &workspace, legacy_home })
                .unwrap()
        }
    }

    #[test]
    fn folders_and_links_are_made_once_and_again() {
        let bed = Bed(tempfile::tempdir().unwrap());
        fs::create_dir_all(bed.path("root/clawd")).unwrap();
        symlink("/somewhere/else", bed.path("root-link")).unwrap();
        for _ in 0..2 {
            assert_eq!(bed.set_up(), []);
            for (link, target) in
                [("clawd", "data/workspace"), (".clawdbot", "data/clawdbot"), (".ssh", "data/home/.ssh")]
            {
                assert_eq!(fs::read_link(bed.path("root").join(link)).unwrap(), bed.path(target));
            }
            for private in ["data/home", "data/home/.ssh", "data/clawdbot"] {
                assert_eq!(mode(&bed.path(private)), 0o700, "{private}");
            }
        }
    }

    #[test]
    fn what_is_in_the_way_stays_and_is_named() {
        let bed = Bed(tempfile::tempdir().unwrap());
        fs::create_dir_all(bed.path("root/clawd")).unwrap();
        fs::write(bed.path("root/clawd/note"), "mine").unwrap();
        fs::write(bed.path("root/.clawdbot"), "mine").unwrap();
        symlink("/old/image", bed.path("root/.ssh")).unwrap();
        let blocked: Vec<_> = bed.set_up().iter().map(Alert::code).collect();
        assert_eq!(blocked, ["link_blocked", "link_blocked"]);
        assert_eq!(fs::read_to_string(bed.path("root/clawd/note")).unwrap(), "mine");
        assert_eq!(fs::read_link(bed.path("root/.ssh")).unwrap(), bed.path("data/home/.ssh"));
    }

    #[test]
    fn l_36_keys_are_for_their_owner_alone() {
        let bed = Bed(tempfile::tempdir().unwrap());
        bed.set_up();
        let key = bed.path("data/home/.ssh/id_ed25519");
        fs::write(&key, "key").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(bed.path("data/home/.ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        bed.set_up();
        assert_eq!((mode(&key), mode(&bed.path("data/home/.ssh"))), (0o600, 0o700));
    }

    #[test]
    fn the_users_tools_come_first() {
        let path = search_path(Path::new("/data/home"), Path::new("/opt/node/bin/node"), "/usr/bin:/bin");
        assert_eq!(path, "/data/home/.npm-global/bin:/data/home/.local/bin:/opt/node/bin:/usr/bin:/bin");
        let path = search_path(Path::new("/h"), Path::new("node"), "/bin");
        assert_eq!(path, "/h/.npm-global/bin:/h/.local/bin:/bin");
    }
}
