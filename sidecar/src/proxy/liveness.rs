//! Whether a client is still there. Pure: it is told what happens and when another tick has passed.

use std::time::Duration;

/// How often a session is looked at. A clock read for each message would cost more than it tells.
pub const TICK: Duration = Duration::from_secs(5);

/// A client that has said nothing for so many ticks is asked: after 20 to 25 s. Proxies on the way give up a
/// connection that is silent for a minute, some earlier.
const TICKS_BEFORE_PING: u8 = 4;

/// A client that has said nothing for so many ticks, pings or not, is gone: two pings have stayed without a pong.
const TICKS_UNTIL_GONE: u8 = 12;

/// What to do at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    Ping,
    /// Nobody is there.
    Gone,
}

/// Counts silence.
#[derive(Debug)]
pub struct Liveness {
    heard: bool,
    quiet_ticks: u8,
}

impl Default for Liveness {
    /// A client that has just come was heard, and the first tick may be near.
    fn default() -> Self {
        Self { heard: true, quiet_ticks: 0 }
    }
}

impl Liveness {
    /// Anything came from the client, or it took what it had not taken before.
    pub const fn heard(&mut self) {
        self.heard = true;
    }

    /// Another [`TICK`] has passed. `listening`: whether the client is being read. One that is not, since the agent
    /// takes nothing, cannot be blamed for its silence.
    pub fn tick(&mut self, listening: bool) -> Verdict {
        if std::mem::take(&mut self.heard) || !listening {
            self.quiet_ticks = 0;
            return Verdict::Nothing;
        }
        self.quiet_ticks = self.quiet_ticks.saturating_add(1);
        if self.quiet_ticks >= TICKS_UNTIL_GONE {
            Verdict::Gone
        } else if self.quiet_ticks.is_multiple_of(TICKS_BEFORE_PING) {
            Verdict::Ping
        } else {
            Verdict::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter for each tick: `h` the client was heard before it, `d` we did not listen.
    fn verdicts(ticks: &str) -> String {
        let mut liveness = Liveness::default();
        let verdict = |tick: char| {
            if tick == 'h' {
                liveness.heard();
            }
            match liveness.tick(tick != 'd') {
                Verdict::Nothing => '.',
                Verdict::Ping => 'P',
                Verdict::Gone => 'G',
            }
        };
        ticks.chars().map(verdict).collect()
    }

    #[test]
    fn pings_and_the_end() {
        let rows = [
            ("-------------", "....P...P...G"),
            // Each pong begins it anew.
            ("-----h----h----h", "....P....P....P."),
            ("hhhhhhhhhhhhhhh", "..............."),
            ("--------h------------", "....P.......P...P...G"),
            ("dddddddddddddddd----", "...................P"),
        ];
        for (ticks, expect) in rows {
            assert_eq!(verdicts(ticks), expect, "{ticks}");
        }
    }
}
