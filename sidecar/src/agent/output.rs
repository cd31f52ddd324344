//! What the agent prints: taken line by line, without the secrets that we know, into memory for
//! `GET /api/agent/logs` and into a file on the volume. Nothing of it goes into our own log, as it can hold what
//! people write.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::time::UnixMillis;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::log_file::LogFile;
use super::redact::Redactor;
use crate::clock;

/// Of one line as it is kept; the rest of a longer one is left out.
pub const MAX_LINE_BYTES: usize = 4 * 1024;

/// Of one line as it is read, before it is redacted.
const MAX_RAW_BYTES: usize = 16 * 1024;

/// Of all lines in memory.
const MAX_KEPT_BYTES: usize = 256 * 1024;

/// What a line costs beside its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// Lines that a follower may be behind before it misses some.
const FOLLOWER_LINES: usize = 256;

const READ_BYTES: usize = 8 * 1024;

/// Which of its two outputs a line came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// A line as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: UnixMillis,
    pub stream: Stream,
    pub text: String,
}

impl Line {
    /// As in the file and in answers: the time, `O` or `E`, the text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut line = String::with_capacity(self.text.len().saturating_add(32));
        let stream = match self.stream {
            Stream::Out => 'O',
            Stream::Err => 'E',
        };
        // Writing into a string does not fail.
        let _written = writeln!(line, "{} {stream} {}", self.at.0, self.text);
        line
    }
}

/// Where lines are kept. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Output(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    redactor: Redactor,
    kept: Mutex<Kept>,
    followers: broadcast::Sender<Arc<Line>>,
    file: Option<LogFile>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    /// Lines since the start, including those that are no longer kept.
    count: u64,
}

/// The lines to come.
#[derive(Debug)]
pub struct Follower(broadcast::Receiver<Arc<Line>>);

impl Output {
    /// Keeps lines in memory, and in `file` if that can be had.
    #[must_use]
    pub fn new(redactor: Redactor, file: Option<PathBuf>) -> Self {
        let file = file.map(LogFile::start).and_then(Result::ok);
        let (followers, _) = broadcast::channel(FOLLOWER_LINES);
        Self(Arc::new(Inner { redactor, kept: Mutex::default(), followers, file }))
    }

    /// Takes all that comes from `source`, until its end.
    pub async fn take(self, mut source: impl AsyncRead + Unpin, stream: Stream) {
        let (mut splitter, mut buffer) = (Splitter::default(), vec![0; READ_BYTES]);
        loop {
            // An error is an end as well: nothing more will come.
            let read = source.read(&mut buffer).await.unwrap_or(0);
            let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
            splitter.feed(chunk, |line, cut| self.keep(line, cut, stream));
        }
        splitter.finish(|line, cut| self.keep(line, cut, stream));
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<Arc<Line>> {
        tail(&self.kept(), count)
    }

    /// The last `count` lines and all that follow; none is missing between the two, and none is twice.
    #[must_use]
    pub fn follow(&self, count: usize) -> (Vec<Arc<Line>>, Follower) {
        let kept = self.kept();
        (tail(&kept, count), Follower(self.0.followers.subscribe()))
    }

    /// Lines so far, for [`Self::since`].
    #[must_use]
    pub fn count(&self) -> u64 {
        self.kept().count
    }

    /// The lines after the first `count`, at most the last `max`.
    #[must_use]
    pub fn since(&self, count: u64, max: usize) -> Vec<String> {
        let kept = self.kept();
        let new = usize::try_from(kept.count.saturating_sub(count)).unwrap_or(usize::MAX);
        tail(&kept, new.min(max)).iter().map(|line| line.text.clone()).collect()
    }

    fn keep(&self, raw: &[u8], cut: bool, stream: Stream) {
        let clean = self.0.redactor.clean(raw, cut);
        let line = Arc::new(Line { at: clock::now(), stream, text: readable(&clean) });
        if let Some(file) = &self.0.file {
            file.write(line.render());
        }
        let mut kept = self.kept();
        kept.bytes = kept.bytes.saturating_add(cost(&line));
        kept.count = kept.count.saturating_add(1);
        kept.lines.push_back(line.clone());
        while kept.bytes > MAX_KEPT_BYTES
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes = kept.bytes.saturating_sub(cost(&oldest));
        }
        // Within the lock, for the sake of `follow`. Without a follower it fails, which is right.
        let _nobody = self.0.followers.send(line);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// The next line as text; one in between says so if some were missed. `None`: there will be none.
    pub async fn next(&mut self) -> Option<String> {
        match self.0.recv().await {
            Ok(line) => Some(line.render()),
            Err(RecvError::Lagged(missed)) => Some(format!("[{missed} lines left out]\n")),
            Err(RecvError::Closed) => None,
        }
    }
}

fn tail(kept: &Kept, count: usize) -> Vec<Arc<Line>> {
    kept.lines.iter().skip(kept.lines.len().saturating_sub(count)).cloned().collect()
}

const fn cost(line: &Line) -> usize {
    line.text.len().saturating_add(LINE_OVERHEAD_BYTES)
}

/// Text for people: no colours or other control characters, and not longer than a line may be.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (mut clean, mut characters) =
        (String::with_capacity(text.len().min(MAX_LINE_BYTES)), text.chars().peekable());
    while let Some(character) = characters.next() {
        if clean.len() >= MAX_LINE_BYTES {
            clean.push('…');
            break;
        }
        match character {
            // A terminal's sequence: its end is the first letter after the bracket.
            '\u{1b}' if characters.next_if_eq(&'[').is_some() => {
                while characters.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                characters.next();
            }
            '\t' => clean.push(' '),
            character if character.is_control() => {}
            character => clean.push(character),
        }
    }
    clean
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    /// Whether something of this line was left out.
    cut: bool,
}

impl Splitter {
    fn feed(&mut self, mut chunk: &[u8], mut take: impl FnMut(&[u8], bool)) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            self.add(line);
            self.finish(&mut take);
            chunk = rest.get(1..).unwrap_or_default();
        }
        self.add(chunk);
    }

    fn add(&mut self, piece: &[u8]) {
        let room = MAX_RAW_BYTES.saturating_sub(self.line.len());
        self.cut |= piece.len() > room;
        self.line.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    /// Hands over what there is, unless that is an empty line.
    fn finish(&mut self, mut take: impl FnMut(&[u8], bool)) {
        if !self.line.is_empty() {
            take(&self.line, self.cut);
        }
        self.line.clear();
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::secret::Secret;

    fn output() -> Output {
        Output::new(Redactor::new(Secret::new("hunter2-hunter2")), None)
    }

    async fn print(output: &Output, text: &[u8]) {
        output.clone().take(text, Stream::Err).await;
    }

    fn texts(lines: &[Arc<Line>]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[tokio::test]
    async fn lines_are_clean_and_bounded() {
        let output = output();
        let long = "x".repeat(MAX_RAW_BYTES * 2);
        print(&output, b"one\r\n\n\x1b[31mred\x1b[0m\tand hunter2-hunter2\n\xff\x07bell").await;
        print(&output, long.as_bytes()).await;
        let tail = output.tail(10);
        let texts = texts(&tail);
        assert_eq!(texts[..3], ["one", "red and [redacted]", "\u{fffd}bell"]);
        assert_eq!(texts[3].chars().count(), MAX_LINE_BYTES + 1);
        assert_eq!(self::texts(&output.tail(1)).len(), 1);
        assert!(tail[0].render().ends_with(" E one\n"), "{}", tail[0].render());
    }

    #[tokio::test]
    async fn a_secret_at_the_place_of_a_cut_leaves_nothing() {
        for offset in 0..20 {
            let output = output();
            let line = format!("{}hunter2-hunter2{}", "x".repeat(MAX_RAW_BYTES - offset), "y".repeat(50));
            print(&output, line.as_bytes()).await;
            assert!(!output.tail(1)[0].text.contains("hunter"), "{offset}");
        }
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let output = output();
        let text = "0123456789\n".repeat(100_000);
        print(&output, text.as_bytes()).await;
        let kept = output.kept();
        assert!(kept.bytes <= MAX_KEPT_BYTES && kept.lines.len() > 1000);
        assert_eq!(kept.count, 100_000);
    }

    #[tokio::test]
    async fn followers_get_every_line_once_and_hear_of_those_they_missed() {
        let output = output();
        print(&output, b"a\nb\n").await;
        let before = output.count();
        let (tail, mut follower) = output.follow(1);
        assert_eq!(texts(&tail), ["b"]);
        print(&output, b"c\n").await;
        assert!(follower.next().await.unwrap().ends_with(" c\n"));
        assert_eq!(output.since(before, 10), ["c"]);
        print(&output, "x\n".repeat(FOLLOWER_LINES + 7).as_bytes()).await;
        assert_eq!(follower.next().await.unwrap(), "[7 lines left out]\n");
        drop(output);
        while follower.next().await.is_some() {}
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_come(text in "[ab\n]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut splitter, mut lines, mut from) = (Splitter::default(), Vec::new(), 0);
            let mut take = |line: &[u8], cut: bool| {
                assert!(!cut);
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            };
            for cut in cuts.into_iter().chain([text.len()]) {
                splitter.feed(&text.as_bytes()[from..cut], &mut take);
                from = cut;
            }
            splitter.finish(&mut take);
            let expect: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(lines, expect);
        }
    }
}
