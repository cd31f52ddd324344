#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sidecar::history::reader::{Budget, Lines, ReadAt, Step};
use sidecar::history::transcript::{self, Roles};

struct Memory<'a>(&'a [u8]);

impl ReadAt for Memory<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = &self.0[usize::try_from(offset).unwrap().min(self.0.len())..];
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }
}

// The first two bytes say how much may be read at a time, the rest is the transcript.
fuzz_target!(|input: &[u8]| {
    let Some(([low, high], bytes)) = input.split_first_chunk() else { return };
    let mut forwards: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // What no newline ends is still being written.
    forwards.pop();

    // Backwards, once in one go and once with a new budget whenever one is spent.
    for budget in [u64::MAX, 1 + u64::from(u16::from_le_bytes([*low, *high]))] {
        let mut left = Budget::new(budget);
        let mut lines = Lines::before(Memory(bytes), bytes.len() as u64);
        let mut backwards = Vec::new();
        loop {
            match lines.step(&mut left).unwrap() {
                Step::Line => backwards.push(lines.line().to_vec()),
                Step::Start => break,
                Step::Spent => {
                    assert!(left.left() == 0 || budget != u64::MAX);
                    left = Budget::new(budget);
                }
            }
        }
        backwards.reverse();
        assert_eq!(backwards, forwards);
    }
    for line in forwards {
        agree(line);
    }
});

/// A plain reading of the line finds the same message.
fn agree(line: &[u8]) {
    let _time = transcript::line_time_ms(line);
    let found = transcript::parse(line, Roles::All);
    let talk = transcript::parse(line, Roles::Talk);
    assert!(talk.is_none() || found.is_some());
    let Some(found) = found else { return };
    assert_eq!(talk.is_some(), ["user", "assistant"].contains(&found.role()));
    let entry = found.to_entry(Roles::All);
    let shown: Value = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap_or(Value::Null);
    // A plain reader gives up on numbers and escapes that are passed on as they were written.
    let Ok(plain) = serde_json::from_slice::<Value>(line) else { return };
    let message = plain.get("message").filter(|message| !message.is_null()).unwrap_or(&plain);
    assert_eq!(message.get("role").and_then(Value::as_str), Some(found.role()));
    assert_eq!(shown.get("content"), Some(message.get("content").unwrap_or(&Value::Null)));
    if let Some(Value::String(text)) = message.get("content") {
        assert_eq!(found.text(), *text);
    }
}
