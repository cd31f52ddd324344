//! What a process and all that came of it have cost.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Linux tells every process a hundredth of a second, whatever it counts in.
const MS_PER_TICK: u64 = 10;

/// Since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Of the process, its descendants, and the ended ones that were waited for.
    pub cpu_ms: u64,
    /// The largest resident memory that a living one of them has ever had, in KiB. No sum: they share pages.
    pub peak_kib: u64,
}

/// What `pid` and its descendants have cost until now.
///
/// # Errors
/// It is gone.
pub fn cost(pid: i32) -> Result<Cost> {
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ends meanwhile counts with who waits for it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        if let Some(stat) = stat.as_deref().and_then(parse) {
            stats.insert(pid, stat);
        }
    }
    anyhow::ensure!(stats.contains_key(&pid), "process {pid} is gone");
    let mut cost = Cost { cpu_ms: 0, peak_kib: 0 };
    for (&member, stat) in stats.iter().filter(|(member, _)| descends(**member, pid, &stats)) {
        cost.cpu_ms = cost.cpu_ms.saturating_add(stat.ticks.saturating_mul(MS_PER_TICK));
        cost.peak_kib = cost.peak_kib.max(peak_kib(member).unwrap_or_default());
    }
    Ok(cost)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// User and system time, of itself and of those it has waited for.
    ticks: u64,
}

/// The name, in brackets, can hold anything; the parent is the second field after it, the times the 12th to 15th.
fn parse(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let times: Vec<u64> = fields.skip(9).take(4).map_while(|field| field.parse().ok()).collect();
    (times.len() == 4).then(|| Stat { parent, ticks: times.iter().sum() })
}

fn descends(mut pid: i32, from: i32, stats: &BTreeMap<i32, Stat>) -> bool {
    // As many steps as there are processes: what was read at different moments may hold a circle.
    for _ in 0..=stats.len() {
        if pid == from {
            return true;
        }
        match stats.get(&pid) {
            Some(stat) => pid = stat.parent,
            None => return false,
        }
    }
    false
}

fn peak_kib(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "7 (a ) b) S 3 7 7 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 1 0 9988 1 2";
        assert_eq!(parse(line), Some(Stat { parent: 3, ticks: 71 }));
        for line in ["", "7 (a)", "7 (a) S", "7 (a) S 3 7 7 0 -1 4194560 1 2 3 4 50 6 x 8"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn descendants() {
        let stat = |parent| Stat { parent, ticks: 0 };
        let stats = [(2, stat(1)), (3, stat(2)), (4, stat(1)), (8, stat(9)), (9, stat(8))].into();
        let of_2: Vec<i32> = [1, 2, 3, 4, 8, 9].into_iter().filter(|pid| descends(*pid, 2, &stats)).collect();
        assert_eq!(of_2, [2, 3]);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "polls a process, with a deadline, in a test without a runtime"
    )]
    fn the_work_of_a_child_counts() {
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; read -r _";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &format!("sh -c '{script}' <&0; true")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut seen = cost(pid).unwrap();
        while seen.cpu_ms < 20 && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
            seen = cost(pid).unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(seen.cpu_ms >= 20 && seen.peak_kib > 0, "{seen:?}");
        assert!(cost(i32::MAX).is_err());
    }
}
