//! What the file system says about an entry, and points in time as text.

use rustix::fs::{FileType, Stat};
use serde::{Serialize, Serializer};
use shared::time::UnixMillis;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// FIFO, socket or device. Listed, moved and deleted, but never opened.
    Special,
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Self::Special,
        }
    }
}

/// An inode at one moment. Two that are equal mean that nothing was written in between, as far as the clock of
/// the file system can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i128,
    pub ctime_ns: i128,
}

impl Version {
    /// The same but for the ctime, which a rename moves.
    #[must_use]
    pub fn is_but_for_ctime(&self, other: &Self) -> bool {
        Self { ctime_ns: other.ctime_ns, ..*self } == *other
    }
}

/// What a client is told about an entry, and what we need for a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    pub version: Version,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Meta {
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, ns: u64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            version: Version {
                dev: stat.st_dev,
                ino: stat.st_ino,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
                ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
            },
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    #[must_use]
    pub const fn size(&self) -> u64 {
        self.version.size
    }

    /// When the content last changed; before 1970 counts as 1970.
    #[must_use]
    pub fn modified(&self) -> Timestamp {
        Timestamp(UnixMillis(u64::try_from(self.version.mtime_ns / 1_000_000).unwrap_or(0)))
    }
}

/// ISO 8601 with milliseconds and `Z`, as JavaScript's `toISOString` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub UnixMillis);

impl Timestamp {
    /// Without the formatting of numbers, which for ten thousand entries takes longer than their sorting.
    fn digits(self) -> [u8; 24] {
        let ms = self.0.0;
        let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
        let (year, month, day) = civil(days);
        let fields = [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (in_day / 3_600_000, 2, b':'),
            (in_day / 60_000 % 60, 2, b':'),
            (in_day / 1000 % 60, 2, b'.'),
            (in_day % 1000, 3, b'Z'),
        ];
        let mut text = [0_u8; 24];
        let mut rest = text.as_mut_slice();
        for (mut number, width, end) in fields {
            let Some((field, after)) = rest.split_at_mut_checked(width + 1) else { break };
            if let Some((last, digits)) = field.split_last_mut() {
                *last = end;
                for digit in digits.iter_mut().rev() {
                    *digit = b'0' + (number % 10) as u8;
                    number /= 10;
                }
            }
            rest = after;
        }
        text
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Timestamp {}

/// The date of a day counted from 1970-01-01: the usual arithmetic on 400-year eras that begin on 1 March.
const fn civil(days: u64) -> (u64, u64, u64) {
    /// 9999-12-31, the last day with a year of four digits: far beyond any file.
    const LAST: u64 = 2_932_896;
    let days = if days > LAST { LAST } else { days };
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        ];
        for (ms, expect) in rows {
            assert_eq!(Timestamp(UnixMillis(ms)).to_string(), expect);
        }
        assert!(Timestamp(UnixMillis(u64::MAX)).to_string().starts_with("9999-12-31T"));
    }
}
