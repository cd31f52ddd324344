//! Whether memory ran out: the kernel's counters, before and after a process.

use std::fs;

use super::supervision::Oom;

/// What node prints when its own limit, not the kernel's, was reached.
const HEAP_FULL: &str = "heap out of memory";

/// Processes that the kernel has killed for lack of memory: in our control group, or else on the whole machine.
/// `None` if neither can be read.
#[must_use]
pub fn kills() -> Option<u64> {
    let group = group_file("memory.events").and_then(|text| field(&text, "oom_kill"));
    group.or_else(|| field(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill"))
}

/// Bytes that our control group holds, and what it may hold at most if there is such a limit.
#[must_use]
pub fn group_memory() -> Option<(u64, Option<u64>)> {
    let current = group_file("memory.current")?.trim().parse().ok()?;
    Some((current, group_file("memory.max").and_then(|text| text.trim().parse().ok())))
}

/// Compares the counters, and reads the process's last words.
#[must_use]
pub fn judge(before: Option<u64>, after: Option<u64>, last_words: &[String]) -> Oom {
    if last_words.iter().any(|line| line.contains(HEAP_FULL)) {
        return Oom::Yes;
    }
    match (before, after) {
        (Some(before), Some(after)) if after > before => Oom::Yes,
        (Some(_), Some(_)) => Oom::No,
        (None, _) | (_, None) => Oom::Unknown,
    }
}

/// A file of our control group (version 2).
fn group_file(name: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field(events, "oom"), Some(2));
        assert_eq!(field(events, "oom_"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn verdicts() {
        let heap =
            ["FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory".to_owned()];
        let rows = [
            (Some(1), Some(2), &[][..], Oom::Yes),
            (Some(2), Some(2), &[], Oom::No),
            (None, Some(2), &[], Oom::Unknown),
            (Some(2), None, &[], Oom::Unknown),
            (Some(2), Some(2), &heap, Oom::Yes),
        ];
        for (before, after, words, expect) in rows {
            assert_eq!(judge(before, after, words), expect, "{before:?} {after:?}");
        }
    }
}
