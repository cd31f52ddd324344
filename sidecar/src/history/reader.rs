//! Reads a file's lines from its end to its beginning, as far as somebody wants them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// As much as is read of a file at a time. Fifty messages are mostly in one or two of them.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// As much as is read of it at first. Often only its last message is asked for, to compare its time with others.
pub const FIRST_CHUNK_BYTES: usize = 16 * 1024;

/// The bytes that one request may read, whatever it finds: a page may stand behind any amount of tools' output,
/// and a cursor with fewer messages is better than a slow answer.
pub const MAX_SCAN_BYTES: u64 = 32 * 1024 * 1024;

/// Reads at an offset; a file does, and tests count.
pub trait ReadAt {
    /// As `pread`.
    ///
    /// # Errors
    /// The file's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

/// What is left to be read for one request, over all of its files.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    whole: u64,
}

impl Budget {
    /// A budget of `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { left: bytes, whole: bytes }
    }

    /// How much is left.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Whether an unfinished line of `bytes` is longer than what any request is sure to have for it.
    #[must_use]
    pub const fn too_long(&self, bytes: u64) -> bool {
        bytes >= self.whole / 2
    }
}

/// What comes next, going backwards.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole line, which [`Lines::line`] shows.
    Line,
    /// The file's beginning has been reached.
    Start,
    /// The budget is spent. Reading can go on from [`Lines::position`] under another one.
    Spent,
}

/// The lines of one file, the last one first. What stands behind the last newline before `end` is passed over:
/// it is still being written, or it is the rest of a line too long for one budget.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    /// Bytes of the file from `offset` on, at the end of the buffer, so that more can be put before them.
    buffer: Vec<u8>,
    /// Where they begin in the buffer.
    first: usize,
    /// How many of them are still to be given out.
    pending: usize,
    /// How many of the pending ones have not been searched for a newline, from their beginning.
    unsearched: usize,
    /// Where the pending ones begin in the file.
    offset: u64,
    /// Whether the bytes at the end of the pending ones are no line, because no newline ends them.
    torn: bool,
    line: std::ops::Range<usize>,
    /// How much is read next time.
    chunk: usize,
}

impl<R: ReadAt> Lines<R> {
    /// Lines that end at or before `end`.
    #[must_use]
    pub const fn before(source: R, end: u64) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            first: 0,
            pending: 0,
            unsearched: 0,
            offset: end,
            torn: true,
            line: 0..0,
            chunk: FIRST_CHUNK_BYTES,
        }
    }

    /// The line of the last [`Step::Line`], without its newline.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        self.buffer.get(self.line.clone()).unwrap_or_default()
    }

    /// Where reading stands: the end of what has not been given out.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.offset + u64::try_from(self.pending).unwrap_or(u64::MAX)
    }

    /// How far the file has been read, be it given out or not.
    #[must_use]
    pub const fn reached(&self) -> u64 {
        self.offset
    }

    /// Goes one line back.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self, budget: &mut Budget) -> io::Result<Step> {
        loop {
            let searched = self.buffer.get(self.first..self.first + self.unsearched).unwrap_or_default();
            if let Some(newline) = memchr::memrchr(b'\n', searched) {
                let from = self.first + newline + 1;
                let to = self.first + self.pending;
                self.unsearched = newline;
                // The newline stays: it ends the line before.
                self.pending = newline + 1;
                if self.give(from, to) {
                    return Ok(Step::Line);
                }
                continue;
            }
            self.unsearched = 0;
            if self.offset == 0 {
                let to = self.first + self.pending;
                self.pending = 0;
                // Only a file without any newline, or nothing at all, is torn at its beginning.
                return Ok(if to > self.first && self.give(self.first, to) {
                    Step::Line
                } else {
                    Step::Start
                });
            }
            if budget.left == 0 {
                return Ok(Step::Spent);
            }
            self.read_more(budget)?;
        }
    }

    /// Makes the bytes the current line, unless they are the torn end. The newline that ends them is cut off.
    fn give(&mut self, from: usize, to: usize) -> bool {
        let was_torn = std::mem::take(&mut self.torn);
        self.line = from..to.saturating_sub(1).max(from);
        !was_torn
    }

    fn read_more(&mut self, budget: &mut Budget) -> io::Result<()> {
        // Nothing of a torn end is ever given out, so nothing of it is kept, however long it is.
        if self.torn {
            self.pending = 0;
        }
        let wanted = self.offset.min(budget.left).min(u64::try_from(self.chunk).unwrap_or(u64::MAX));
        let length = usize::try_from(wanted).unwrap_or(self.chunk);
        self.chunk = CHUNK_BYTES;
        self.make_room(length);
        let target = self.first.saturating_sub(length);
        let from = self.offset - wanted;
        let Some(buffer) = self.buffer.get_mut(target..self.first) else {
            return Err(io::Error::other("no room in the buffer"));
        };
        read_exact_at(&self.source, buffer, from)?;
        budget.left -= wanted;
        self.first = target;
        self.pending += length;
        self.unsearched = length;
        self.offset = from;
        Ok(())
    }

    /// Sees to `length` free bytes before the pending ones. A long line doubles the buffer, so that it is not
    /// copied once for each chunk.
    fn make_room(&mut self, length: usize) {
        if self.pending == 0 {
            self.first = self.buffer.len();
        }
        if self.first >= length {
            return;
        }
        let kept = self.first..self.first + self.pending;
        let size = if self.pending + length <= self.buffer.len() {
            self.buffer.len()
        } else {
            (2 * self.buffer.len()).max(self.pending + length)
        };
        if size == self.buffer.len() {
            self.buffer.copy_within(kept, size - self.pending);
        } else {
            let mut larger = vec![0; size];
            if let (Some(from), Some(to)) = (self.buffer.get(kept), larger.get_mut(size - self.pending..)) {
                to.copy_from_slice(from);
            }
            self.buffer = larger;
        }
        self.first = size - self.pending;
    }
}

fn read_exact_at(source: &impl ReadAt, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match source.read_at(buffer, offset) {
            // Somebody has truncated it.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = buffer.get_mut(count..).unwrap_or_default();
                offset += u64::try_from(count).unwrap_or(u64::MAX);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    struct Memory<'a>(&'a [u8], Cell<u64>);

    impl ReadAt for &Memory<'_> {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let from = &self.0[usize::try_from(offset).unwrap()..];
            let count = from.len().min(buffer.len());
            buffer[..count].copy_from_slice(&from[..count]);
            self.1.set(self.1.get() + count as u64);
            Ok(count)
        }
    }

    /// All lines, oldest first, read under budgets of `budget` bytes each.
    fn read(bytes: &[u8], budget: u64) -> Vec<Vec<u8>> {
        let memory = Memory(bytes, Cell::new(0));
        let mut found = Vec::new();
        let mut end = bytes.len() as u64;
        loop {
            let mut left = Budget::new(budget);
            let mut lines = Lines::before(&memory, end);
            loop {
                match lines.step(&mut left).unwrap() {
                    Step::Line => found.push(lines.line().to_vec()),
                    Step::Start => {
                        found.reverse();
                        return found;
                    }
                    Step::Spent => break,
                }
            }
            // A line longer than a budget is given up, so that reading comes to an end.
            end = if lines.position() == end { lines.offset } else { lines.position() };
        }
    }

    fn whole_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines.pop();
        lines
    }

    #[test]
    fn rows() {
        let long = vec![b'x'; CHUNK_BYTES * 3];
        let long = [b"a\n", long.as_slice(), b"\nb\n"].concat();
        for bytes in [
            &b""[..],
            b"\n",
            b"a",
            b"a\n",
            b"a\nb",
            b"a\nb\n",
            b"\n\na\n\n",
            b"a\r\nb\r\n",
            &long,
            &long[..long.len() - 4],
        ] {
            assert_eq!(read(bytes, u64::MAX), whole_lines(bytes), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn the_newest_lines_of_a_large_file_cost_two_chunks() {
        let line = [vec![b'x'; 1000], b"\n".to_vec()].concat();
        let bytes = line.repeat(20_000);
        let memory = Memory(&bytes, Cell::new(0));
        let mut budget = Budget::new(MAX_SCAN_BYTES);
        let mut lines = Lines::before(&memory, bytes.len() as u64);
        for _ in 0..50 {
            assert_eq!(lines.step(&mut budget).unwrap(), Step::Line);
            assert_eq!(lines.line().len(), 1000);
        }
        let read = (FIRST_CHUNK_BYTES + CHUNK_BYTES) as u64;
        assert_eq!((memory.1.get(), budget.left()), (read, MAX_SCAN_BYTES - read));
    }

    proptest! {
        #[test]
        fn backwards_is_forwards_reversed(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200)) {
            prop_assert_eq!(read(&bytes, u64::MAX), whole_lines(&bytes));
        }

        #[test]
        fn small_budgets_come_to_an_end(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200), budget in 1_u64..20) {
            let expected: Vec<_> = whole_lines(&bytes);
            let found = read(&bytes, budget);
            // Nothing is invented, and only lines longer than the budget are missing.
            let short = |lines: &[Vec<u8>]| lines.iter().filter(|l| (l.len() as u64) + 2 < budget).cloned().collect::<Vec<_>>();
            prop_assert_eq!(short(&found), short(&expected));
        }
    }
}
