//! Emptying the workspace without losing anything.

use std::fs;
use std::io;
use std::path::PathBuf;

use shared::time::UnixMillis;

const TRASH: &str = ".trash";

/// Whoever can put the workspace's content away. The file API's trash can take over from [`FolderBin`].
pub trait Bin {
    /// Puts everything away but the trash itself. `false`: there is no workspace.
    ///
    /// # Errors
    /// Something could not be moved. What was moved before is in the trash; the call can be repeated.
    fn take_everything(&self, now: UnixMillis) -> io::Result<bool>;
}

/// Moves everything into `.trash/reset-<ms>` of this workspace.
#[derive(Debug)]
pub struct FolderBin(pub PathBuf);

impl Bin for FolderBin {
    fn take_everything(&self, now: UnixMillis) -> io::Result<bool> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // Read to its end before anything moves; moving would change what is still to be read.
        let names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        let trash = self.0.join(TRASH);
        fs::create_dir_all(&trash)?;
        // A link would lead everything out of the workspace.
        if !fs::symlink_metadata(&trash)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the trash is no folder"));
        }
        let target = trash.join(format!("reset-{}", now.0));
        fs::create_dir_all(&target)?;
        for name in names.into_iter().filter(|name| name != TRASH) {
            match fs::rename(self.0.join(&name), target.join(&name)) {
                // The agent works on, and has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_moves_but_the_trash() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, path) = (FolderBin(dir.path().to_owned()), |name: &str| dir.path().join(name));
        fs::create_dir_all(path("folder/inner")).unwrap();
        fs::create_dir_all(path(".trash/older")).unwrap();
        fs::write(path("SOUL.md"), "soul").unwrap();
        fs::write(path(".hidden"), "").unwrap();
        assert!(bin.take_everything(UnixMillis(7)).unwrap());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [".trash"]);
        for kept in ["older", "reset-7/folder/inner", "reset-7/SOUL.md", "reset-7/.hidden"] {
            assert!(path(".trash").join(kept).exists(), "{kept}");
        }
        assert!(!FolderBin(path("missing")).take_everything(UnixMillis(7)).unwrap());
    }

    #[test]
    fn a_trash_that_leads_elsewhere_takes_nothing() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join(TRASH)).unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        FolderBin(dir.path().to_owned()).take_everything(UnixMillis(7)).unwrap_err();
        assert!(dir.path().join("a").exists());
    }
}
