//! What a new file inherits from the one that it replaces: permissions, owner, extended attributes.

use std::fs::File;

use rustix::fs::{Mode, OFlags, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr, fstat, openat};

use super::error::{FileError, failed};
use super::meta::Meta;
use super::root::{Target, give};

/// For a file that replaces nothing.
const FILE_MODE: u32 = 0o644;

/// The kernel's own limits for the list of names and for one value.
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Gives `file` what it will have once it has the name. `old` is what has the name now.
///
/// # Errors
/// The permissions cannot be set. An owner or an attribute that cannot be kept is no error.
pub(super) fn inherit(file: &File, target: &Target, old: Option<&Meta>) -> Result<(), FileError> {
    let Some(old) = old else {
        let around = Meta::of(&fstat(&target.parent).map_err(failed("fstat"))?);
        give(file, around.uid, around.gid);
        return fchmod(file, Mode::from(FILE_MODE)).map_err(failed("chmod"));
    };
    give(file, old.uid, old.gid);
    copy_attributes(file, target);
    // Last, because a change of owner clears the set-id bits.
    fchmod(file, Mode::from(old.mode)).map_err(failed("chmod"))
}

fn copy_attributes(file: &File, target: &Target) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(old) = openat(&target.parent, &target.name, flags, Mode::empty()) else { return };
    // Hardly any file has some, and the buffers below are large.
    if flistxattr(&old, &mut [0_u8; 256]) == Ok(0) {
        return;
    }
    let mut names = vec![0_u8; MAX_XATTR_BYTES];
    let Ok(length) = flistxattr(&old, names.as_mut_slice()) else { return };
    let mut value = vec![0_u8; MAX_XATTR_BYTES];
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0) {
        // Only the user's own: the rest belongs to the system, which sets it by itself.
        if name.starts_with(b"user.")
            && let Ok(length) = fgetxattr(&old, name, value.as_mut_slice())
            && let Some(value) = value.get(..length)
        {
            let _not_kept = fsetxattr(file, name, value, XattrFlags::empty());
        }
    }
}
