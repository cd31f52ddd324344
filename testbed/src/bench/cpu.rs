//! CPU time of a process.

use std::fs;

use anyhow::{Context as _, Result};

/// Nanoseconds that all threads of `pid` have been on a processor. Threads that have ended are not in it: what is
/// measured here keeps its threads.
///
/// # Errors
/// When the process is gone.
pub fn nanoseconds(pid: i32) -> Result<u64> {
    let tasks =
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    let mut total: u64 = 0;
    for task in tasks {
        let path = task?.path().join("schedstat");
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(path) else { continue };
        let on_cpu: u64 =
            text.split(' ').next().unwrap_or_default().parse().context("unknown form of schedstat")?;
        total = total.saturating_add(on_cpu);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = nanoseconds(pid).unwrap();
        let sum: u64 = (0..5_000_000_u64).fold(0, |sum, n| sum ^ n.wrapping_mul(2_654_435_761));
        assert!(nanoseconds(pid).unwrap() > before, "{sum}");
    }
}
