//! The end of a transcript. The agent appends one line at a time and never fsyncs, so a crash can leave half a
//! line, and its next entry would be written onto that same line and be lost.

use std::fs::{File, FileTimes, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::IgnoredAny;

use crate::boot::durable::{PRIVATE_FILE, Quarantine};

/// How much is read at a time on the way back to the last newline.
const BLOCK_BYTES: u64 = 64 * 1024;

/// A longer tail is not looked into: it is put aside as it is. The agent's longest lines hold images of 5 MB.
const MAX_TAIL_BYTES: u64 = 64 << 20;

/// What was the matter with a transcript, and was put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mended {
    /// Nothing was.
    Whole,
    /// The last line was complete but for its newline, and has it now.
    Completed,
    /// So many bytes after the last newline were put aside.
    Cut { bytes: u64 },
    /// There was no complete line at all. The agent takes a transcript without its first line for an empty one, and
    /// whatever it appends stays unreadable; where there is no file, it begins a good one.
    TakenAway { bytes: u64 },
}

/// What to do with the bytes after the last newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    None,
    CompleteLine,
    Torn,
}

/// Puts the end of the transcript at `path` right. Complete lines stay as they are; what is cut off goes to
/// `quarantine` and is on the disk there before it is cut.
pub(super) fn mend(path: &Path, quarantine: &Quarantine) -> io::Result<Mended> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let meta = file.metadata()?;
    let size = meta.len();
    let end = end_of_lines(&mut file, size)?;
    let torn = size.saturating_sub(end);
    let tail = tail(&mut file, end, torn)?;
    if end == 0 && tail != Tail::CompleteLine {
        quarantine.take(path)?;
        return Ok(Mended::TakenAway { bytes: torn });
    }
    let mended = match tail {
        Tail::None => return Ok(Mended::Whole),
        Tail::CompleteLine => {
            file.seek(SeekFrom::End(0))?;
            file.write_all(b"\n")?;
            Mended::Completed
        }
        Tail::Torn => {
            put_aside(&mut file, end, path, quarantine)?;
            file.set_len(end)?;
            Mended::Cut { bytes: torn }
        }
    };
    // When somebody last said something has not changed.
    if let Ok(modified) = meta.modified() {
        file.set_times(FileTimes::new().set_modified(modified))?;
    }
    file.sync_all()?;
    Ok(mended)
}

/// Where the last newline ends; 0 if there is none.
fn end_of_lines(file: &mut File, size: u64) -> io::Result<u64> {
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::take(&mut *file, end.saturating_sub(start)).read_to_end(&mut block)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(start.saturating_add(at as u64).saturating_add(1));
        }
        end = start;
    }
    Ok(0)
}

fn tail(file: &mut File, end: u64, bytes: u64) -> io::Result<Tail> {
    if bytes == 0 {
        return Ok(Tail::None);
    }
    if bytes > MAX_TAIL_BYTES {
        return Ok(Tail::Torn);
    }
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(end))?;
    file.read_to_end(&mut line)?;
    // A line is an object. A number, for one, would also be complete after its first digit.
    let is_complete = line.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(&line).is_ok();
    Ok(if is_complete { Tail::CompleteLine } else { Tail::Torn })
}

fn put_aside(file: &mut File, from: u64, path: &Path, quarantine: &Quarantine) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("transcript");
    let place = quarantine.place(&format!("{name}.torn"))?;
    let mut kept = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&place)?;
    file.seek(SeekFrom::Start(from))?;
    io::copy(file, &mut kept)?;
    kept.sync_all()?;
    match place.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use shared::time::UnixMillis;

    use super::*;

    struct Bed {
        dir: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn mend(&self, content: &[u8]) -> (Mended, Option<Vec<u8>>, Vec<Vec<u8>>) {
            let path = self.dir.path().join("a.jsonl");
            fs::write(&path, content).unwrap();
            self.again()
        }

        fn again(&self) -> (Mended, Option<Vec<u8>>, Vec<Vec<u8>>) {
            let path = self.dir.path().join("a.jsonl");
            let quarantine = Quarantine::new(self.dir.path().join("kept"), UnixMillis(1));
            let mended = mend(&path, &quarantine).unwrap();
            let kept = fs::read_dir(self.dir.path().join("kept")).map_or_else(
                |_| Vec::new(),
                |files| files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect(),
            );
            (mended, fs::read(&path).ok(), kept)
        }
    }

    #[test]
    fn ends() {
        let long = format!("{{\"a\":1}}\n{}", "x".repeat(200_000));
        type Row<'a> = (&'a [u8], Mended, Option<&'a [u8]>, &'a [u8]);
        let rows: &[Row<'_>] = &[
            (b"{}\n", Mended::Whole, Some(b"{}\n"), b""),
            (b"{}\nnot json\n", Mended::Whole, Some(b"{}\nnot json\n"), b""),
            (b"{}\n{\"a\":", Mended::Cut { bytes: 5 }, Some(b"{}\n"), b"{\"a\":"),
            (b"{}\n{\"a\":1}", Mended::Completed, Some(b"{}\n{\"a\":1}\n"), b""),
            (b"{}\n12", Mended::Cut { bytes: 2 }, Some(b"{}\n"), b"12"),
            (b"{}\n\0\0\0", Mended::Cut { bytes: 3 }, Some(b"{}\n"), b"\0\0\0"),
            (b"{}\n\xff", Mended::Cut { bytes: 1 }, Some(b"{}\n"), b"\xff"),
            (b"{\"type\":\"session\"}", Mended::Completed, Some(b"{\"type\":\"session\"}\n"), b""),
            (b"{\"type\":\"sess", Mended::TakenAway { bytes: 13 }, None, b"{\"type\":\"sess"),
            (b"", Mended::TakenAway { bytes: 0 }, None, b""),
            (long.as_bytes(), Mended::Cut { bytes: 200_000 }, Some(b"{\"a\":1}\n"), &long.as_bytes()[8..]),
        ];
        for (before, expect, after, aside) in rows {
            let bed = Bed::new();
            let (mended, content, kept) = bed.mend(before);
            let name = String::from_utf8_lossy(&before[..before.len().min(40)]);
            assert_eq!(mended, *expect, "{name}");
            assert_eq!(content.as_deref(), *after, "{name}");
            assert_eq!(kept.concat(), *aside, "{name}");
        }
    }

    #[test]
    fn the_time_of_the_last_message_stays() {
        let bed = Bed::new();
        let path = bed.dir.path().join("a.jsonl");
        fs::write(&path, "{}\n{").unwrap();
        let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        assert_eq!(bed.again().0, Mended::Cut { bytes: 1 });
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), then);
    }

    #[test]
    fn a_link_is_not_followed() {
        let bed = Bed::new();
        let outside = bed.dir.path().join("outside");
        fs::write(&outside, "{}\n{").unwrap();
        let link = bed.dir.path().join("a.jsonl");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let quarantine = Quarantine::new(bed.dir.path().join("kept"), UnixMillis(1));
        mend(&link, &quarantine).unwrap_err();
        assert_eq!(fs::read(&outside).unwrap(), b"{}\n{");
    }

    proptest! {
        /// Cut a transcript anywhere: every line that was complete is still there, the rest is kept aside, and to
        /// mend it again changes nothing.
        #[test]
        fn no_complete_line_is_lost(texts in prop::collection::vec(".{0,12}", 1..6), at in 0.0_f64..=1.0) {
            let lines: Vec<String> =
                texts.iter().map(|text| serde_json::json!({"type": "message", "text": text}).to_string()).collect();
            let whole = lines.join("\n") + "\n";
            let cut = (whole.len() as f64 * at) as usize;
            let bed = Bed::new();
            let (_, content, kept) = bed.mend(&whole.as_bytes()[..cut]);
            let after = content.clone().unwrap_or_default();
            prop_assert!(after.is_empty() || after.ends_with(b"\n"));
            // A line is complete when all of its bytes are there, with or without the newline.
            let mut end = 0;
            let mut complete = Vec::new();
            for line in &lines {
                end += line.len();
                if end <= cut {
                    complete.extend_from_slice(line.as_bytes());
                    complete.push(b'\n');
                }
                end += 1;
            }
            prop_assert_eq!(&after, &complete);
            let bytes_before = cut;
            let newline_added = usize::from(after.len() > cut);
            prop_assert_eq!(after.len() + kept.concat().len(), bytes_before + newline_added);
            if content.is_some() {
                let (again, same, _) = bed.again();
                prop_assert_eq!(again, Mended::Whole);
                prop_assert_eq!(same, content);
            }
        }
    }
}
