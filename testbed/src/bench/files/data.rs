//! What the servers serve: made for each run, and removed after it.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

/// Bytes of the large file.
pub(super) const LARGE_BYTES: u64 = 1 << 30;

/// Bytes of the small file.
pub(super) const SMALL_BYTES: usize = 4096;

/// Entries of the folder that is listed. A tenth has a letter in the name that is not ASCII.
pub(super) const ENTRIES: usize = 10_000;

/// Bytes of the conversation.
const TRANSCRIPT_BYTES: u64 = 1_000_000_000;

/// The root of all servers, with `small`, `large`, `many/` and `put/`.
pub(super) fn workspace(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("workspace");
    let many = root.join("many");
    fs::create_dir_all(&many).context("cannot create the files to serve")?;
    fs::create_dir(root.join("put"))?;
    fs::write(root.join("small"), noise(SMALL_BYTES))?;
    let block = noise(1 << 20);
    let mut large = File::create(root.join("large"))?;
    for _ in 0..LARGE_BYTES >> 20 {
        large.write_all(&block).context("cannot write the large file")?;
    }
    large.sync_all()?;
    for n in 0..ENTRIES {
        // Not in any order, as the hashes of a directory would not be either.
        let number = n.wrapping_mul(7919) % ENTRIES;
        let word = ["notes", "Report", "image", "draft"].get(n % 4).unwrap_or(&"x");
        let word = if n % 10 == 0 { "Übersicht" } else { word };
        fs::write(many.join(format!("{word}-{number:05}.md")), "a line\n")?;
    }
    Ok(root)
}

/// An agent's state with one conversation of a gigabyte, its main one. Returns the state and the transcript.
pub(super) fn history(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let state = dir.join("agent");
    let sessions = state.join("agents/main/sessions");
    fs::create_dir_all(&sessions).context("cannot create the conversation")?;
    let transcript = sessions.join("bench.jsonl");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&transcript)?);
    let (mut written, mut n) = (0_u64, 0_u64);
    let words = "the agent reads, thinks, runs a tool and writes what it has found; ".repeat(200);
    while written < TRANSCRIPT_BYTES {
        // What people write is short, what agents write longer, and what tools print longest.
        let (role, length) = match n % 4 {
            0 => ("user", 120),
            1 | 3 => ("assistant", 1500),
            _ => ("toolResult", 9000),
        };
        let text = words.get(..length).unwrap_or(&words);
        let (minute, second) = (n / 60 % 60, n % 60);
        let line = format!(
            "{{\"type\":\"message\",\"id\":\"{n:08x}\",\"timestamp\":\"2026-11-01T10:{minute:02}:{second:02}.000Z\",\
             \"message\":{{\"role\":\"{role}\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}],\
             \"timestamp\":{}}}}}\n",
            1_793_000_000_000_u64.wrapping_add(n)
        );
        out.write_all(line.as_bytes()).context("cannot write the conversation")?;
        written = written.wrapping_add(line.len() as u64);
        n = n.wrapping_add(1);
    }
    out.into_inner()?.sync_all()?;
    let store = json!({"agent:main:main": {"sessionId": "bench", "updatedAt": 1_793_000_000_000_u64}});
    fs::write(sessions.join("sessions.json"), store.to_string())?;
    Ok((state, transcript))
}

/// Bytes that no file system finds a pattern in.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_long_enough_and_not_all_the_same() {
        let bytes = noise(1001);
        assert_eq!(bytes.len(), 1001);
        assert!((0..=u8::MAX).all(|byte| bytes.iter().filter(|b| **b == byte).count() < 50));
    }
}
