//! CPU time of a process.

use anyhow::{Context as _, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Nanoseconds that `pid` has been on a processor, all of its threads, those that have ended included.
///
/// # Errors
/// When the process is gone.
pub fn nanoseconds(pid: i32) -> Result<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("process {pid} is gone"))?;
    let time = clock.now().with_context(|| format!("process {pid} is gone"))?;
    let (seconds, rest) = (u64::try_from(time.tv_sec())?, u64::try_from(time.tv_nsec())?);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time_even_of_threads_that_have_ended() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = nanoseconds(pid).unwrap();
        let work =
            || (0..5_000_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n).wrapping_mul(2_654_435_761));
        let sum = std::thread::spawn(work).join().unwrap();
        assert!(nanoseconds(pid).unwrap() > before + 1_000_000, "{sum}");
    }

    #[test]
    fn nobody_has_no_time() {
        // One more than Linux ever gives. Far larger numbers do not fit into the name of a clock.
        assert!(nanoseconds(4_194_305).is_err());
    }
}
