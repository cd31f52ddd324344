//! The volume: that it is there, that it can be written, and that it is this user's.
//!
//! An identity file names the user. It is written before anything else, on a volume that holds nothing. A volume
//! that holds data and no identity is refused: it may be another user's, or a half-made copy. Whoever knows better
//! says so with `AUTOMNA_ADOPT_VOLUME`, which must name the user.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::id::{Generation, UserId};
use shared::time::UnixMillis;

use super::durable::{self, PRIVATE_FILE, TEMPORARY_SUFFIX};
use crate::epoch::STATE_DIR;

const IDENTITY_FILE: &str = "identity.json";
const IDENTITY_VERSION: u32 = 1;

/// A fresh ext4 has it.
const LOST_AND_FOUND: &str = "lost+found";

/// Under the twentieth part of free space, or this, somebody should know.
const LOW_BYTES: u64 = 64 << 20;
const LOW_SHARE: u64 = 20;
const LOW_INODES: u64 = 1000;

/// The longest identity file: a user id and some numbers.
const MAX_IDENTITY_BYTES: u64 = 4096;

/// What is known of a volume that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub ownership: Ownership,
    pub size_bytes: u64,
    pub free_bytes: u64,
    pub free_inodes: u64,
}

/// How the volume came to be this user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// It says so.
    Known,
    /// It held nothing, and says so from now on.
    New,
    /// It held data, and the operator said whose.
    Adopted,
}

/// Why the volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("The volume is not there: {0}.")]
    Missing(#[source] io::Error),
    #[error("The data directory is no mount point: the volume is not mounted.")]
    NotMounted,
    #[error("The volume cannot be written: {0}.")]
    NotWritable(#[source] io::Error),
    #[error("The volume belongs to another user.")]
    OtherUser,
    #[error("The volume holds data but does not say whose; AUTOMNA_ADOPT_VOLUME can name the user.")]
    NoIdentity,
    #[error("The volume's identity file holds something else than an identity.")]
    Garbage,
    #[error("The volume's identity cannot be read or written: {0}.")]
    Identity(#[source] io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    version: u32,
    user: UserId,
    /// Of the machine that first had the volume. For people; nothing is decided by it.
    generation: Generation,
    created_at_ms: u64,
}

/// What a volume says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    DataOnly,
    Garbage,
    Of(UserId),
}

/// Whose machine this is, and who may take over a volume without an identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) user: &'a UserId,
    pub(super) generation: Generation,
    pub(super) adopt: Option<&'a UserId>,
}

/// Checks the volume at `dir`, and writes its identity if it has none and may get one.
pub(super) fn check(
    dir: &Path,
    require_mount: bool,
    owner: Owner<'_>,
    now: UnixMillis,
) -> Result<Volume, VolumeError> {
    let real = fs::canonicalize(dir).map_err(VolumeError::Missing)?;
    if !real.is_dir() {
        return Err(VolumeError::Missing(io::ErrorKind::NotADirectory.into()));
    }
    if require_mount && !is_mounted(&real)? {
        return Err(VolumeError::NotMounted);
    }
    let ownership = judge(&look(&real)?, owner)?;
    let own = real.join(STATE_DIR);
    durable::make_private_dir(&own).map_err(VolumeError::NotWritable)?;
    try_to_write(&own).map_err(VolumeError::NotWritable)?;
    if ownership != Ownership::Known {
        let identity = Identity {
            version: IDENTITY_VERSION,
            user: owner.user.clone(),
            generation: owner.generation,
            created_at_ms: now.0,
        };
        let failed = VolumeError::Identity;
        let text = serde_json::to_vec_pretty(&identity).map_err(|error| failed(error.into()))?;
        durable::replace(&own.join(IDENTITY_FILE), &text, PRIVATE_FILE).map_err(failed)?;
        durable::sync(&real).map_err(failed)?;
    }
    let space = rustix::fs::statvfs(&real).map_err(|error| VolumeError::Missing(error.into()))?;
    Ok(Volume {
        ownership,
        size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        free_inodes: space.f_favail,
    })
}

impl Volume {
    /// Whether there is so little space that somebody should know.
    pub(super) const fn is_nearly_full(&self) -> bool {
        self.free_bytes < LOW_BYTES || self.free_bytes < self.size_bytes / LOW_SHARE
    }

    /// The same of files. A file system that does not count them says 0 of 0, or very many.
    pub(super) const fn is_nearly_out_of_inodes(&self) -> bool {
        self.free_inodes < LOW_INODES && self.free_inodes > 0
    }
}

fn judge(found: &Found, owner: Owner<'_>) -> Result<Ownership, VolumeError> {
    match found {
        Found::Of(user) if user == owner.user => Ok(Ownership::Known),
        Found::Of(_) => Err(VolumeError::OtherUser),
        Found::Nothing => Ok(Ownership::New),
        Found::DataOnly if owner.adopt == Some(owner.user) => Ok(Ownership::Adopted),
        Found::DataOnly => Err(VolumeError::NoIdentity),
        Found::Garbage => Err(VolumeError::Garbage),
    }
}

fn look(dir: &Path) -> Result<Found, VolumeError> {
    let own = dir.join(STATE_DIR);
    match fs::metadata(own.join(IDENTITY_FILE)) {
        Ok(meta) if meta.len() > MAX_IDENTITY_BYTES => return Ok(Found::Garbage),
        Ok(_) => {
            let bytes = fs::read(own.join(IDENTITY_FILE)).map_err(VolumeError::Identity)?;
            return Ok(match serde_json::from_slice::<Identity>(&bytes) {
                Ok(identity) if identity.version == IDENTITY_VERSION => Found::Of(identity.user),
                _ => Found::Garbage,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(VolumeError::Identity(error)),
    }
    let names = |dir: &Path| -> io::Result<Vec<Vec<u8>>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().as_bytes().to_vec())).collect()
    };
    let mut has_data = names(dir)
        .map_err(VolumeError::Missing)?
        .into_iter()
        .any(|name| name != LOST_AND_FOUND.as_bytes() && name != STATE_DIR.as_bytes());
    // A crash while the identity was being written leaves our folder, with a temporary file at most.
    match names(&own) {
        Ok(names) => has_data |= !names.iter().all(|name| name.ends_with(TEMPORARY_SUFFIX.as_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(VolumeError::Identity(error)),
    }
    Ok(if has_data { Found::DataOnly } else { Found::Nothing })
}

fn is_mounted(dir: &Path) -> Result<bool, VolumeError> {
    let table = fs::read("/proc/self/mountinfo").map_err(VolumeError::Missing)?;
    Ok(is_mount_point(&table, dir))
}

/// Whether `/proc/self/mountinfo` names `dir` as a mount point. The device numbers of it and of its parent would
/// not tell a bind mount.
fn is_mount_point(table: &[u8], dir: &Path) -> bool {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|field| unescape(field) == dir.as_os_str().as_bytes())
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'\\'
            && let Some((digits, after)) = after.split_at_checked(3)
            && let Some(byte) =
                std::str::from_utf8(digits).ok().and_then(|text| u8::from_str_radix(text, 8).ok())
        {
            plain.push(byte);
            rest = after;
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

fn try_to_write(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".write-test.{}{TEMPORARY_SUFFIX}", crate::random::name()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&path)?;
    let written = file.write_all(b"x").and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    fn check_as(dir: &Path, who: &str, adopt: Option<&str>) -> Result<Ownership, VolumeError> {
        let (user, adopt) = (user(who), adopt.map(user));
        let owner = Owner { user: &user, generation: Generation(1), adopt: adopt.as_ref() };
        check(dir, false, owner, UnixMillis(7)).map(|volume| volume.ownership)
    }

    #[test]
    fn an_empty_volume_becomes_the_users_and_stays_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
        assert_eq!(check_as(dir.path(), "user_a", None).unwrap(), Ownership::New);
        assert_eq!(check_as(dir.path(), "user_a", None).unwrap(), Ownership::Known);
        assert!(matches!(check_as(dir.path(), "user_b", None), Err(VolumeError::OtherUser)));
        assert!(matches!(check_as(dir.path(), "user_A", Some("user_A")), Err(VolumeError::OtherUser)));
    }

    #[test]
    fn a_crash_while_the_identity_was_written_leaves_an_empty_volume() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(STATE_DIR);
        fs::create_dir(&own).unwrap();
        fs::write(own.join(".identity.json.00.tmp"), "{").unwrap();
        assert_eq!(check_as(dir.path(), "user_a", None).unwrap(), Ownership::New);
    }

    #[test]
    fn data_without_an_identity_is_refused_unless_the_user_is_named() {
        for name in ["workspace", ".automna/epoch", ".hidden"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "1\n").unwrap();
            for adopt in [None, Some("user_b")] {
                let refused = check_as(dir.path(), "user_a", adopt);
                assert!(matches!(refused, Err(VolumeError::NoIdentity)), "{name} {adopt:?}");
                assert!(!dir.path().join(".automna/identity.json").exists());
            }
            assert_eq!(check_as(dir.path(), "user_a", Some("user_a")).unwrap(), Ownership::Adopted);
            assert_eq!(check_as(dir.path(), "user_a", None).unwrap(), Ownership::Known);
        }
    }

    #[test]
    fn garbage_is_no_identity() {
        let later = r#"{"version":2,"user":"user_a","generation":1,"createdAtMs":1}"#;
        for text in ["", "{}", "user_a", later, &"x".repeat(5000)] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(STATE_DIR)).unwrap();
            fs::write(dir.path().join(STATE_DIR).join(IDENTITY_FILE), text).unwrap();
            let refused = check_as(dir.path(), "user_a", Some("user_a"));
            assert!(matches!(refused, Err(VolumeError::Garbage)), "{text}");
        }
    }

    #[test]
    fn a_volume_that_is_not_there_or_not_mounted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(check_as(&missing, "user_a", None), Err(VolumeError::Missing(_))));
        fs::write(&missing, "").unwrap();
        assert!(matches!(check_as(&missing, "user_a", None), Err(VolumeError::Missing(_))));
        let user = user("user_a");
        let owner = Owner { user: &user, generation: Generation(1), adopt: None };
        let refused = check(dir.path(), true, owner, UnixMillis(7));
        assert!(matches!(refused, Err(VolumeError::NotMounted)));
        assert!(!dir.path().join(STATE_DIR).exists(), "nothing is written where no volume is");
        assert!(is_mounted(Path::new("/proc")).unwrap());
    }

    #[test]
    fn mount_points() {
        let table = b"22 1 0:20 / / rw - overlay overlay rw\n\
                      23 22 254:1 / /data rw,relatime shared:1 - ext4 /dev/vdc rw\n\
                      24 22 254:1 /sub /mnt/with\\040space rw - ext4 /dev/vdc rw\n";
        let rows = [
            ("/", true),
            ("/data", true),
            ("/dat", false),
            ("/data/workspace", false),
            ("/mnt/with space", true),
            ("/mnt/with\\040space", false),
        ];
        for (dir, expect) in rows {
            assert_eq!(is_mount_point(table, Path::new(dir)), expect, "{dir}");
        }
    }

    #[test]
    fn when_somebody_should_know() {
        let volume = |size_bytes, free_bytes, free_inodes| Volume {
            ownership: Ownership::Known,
            size_bytes,
            free_bytes,
            free_inodes,
        };
        const GB: u64 = 1 << 30;
        assert!(!volume(GB, GB / 10, 5000).is_nearly_full());
        assert!(volume(GB, GB / 25, 5000).is_nearly_full());
        assert!(volume(100 * GB, 4 * GB, 5000).is_nearly_full());
        assert!(volume(GB, GB, 999).is_nearly_out_of_inodes());
        assert!(!volume(GB, GB, 1000).is_nearly_out_of_inodes());
    }
}
