//! Rule 13: token buckets per action and thing acted on.

use std::collections::BTreeMap;

/// How fast a bucket fills, in tokens a second times 1000, and how many it holds.
#[derive(Clone, Copy)]
struct Rate {
    per_1000_s: u64,
    burst: u64,
}

/// One token, in thousandths of a thousandth: what a bucket of one a second gains in a second.
const TOKEN: u64 = 1_000_000;

const DEFAULT: Rate = Rate { per_1000_s: 1000, burst: 3 };
const READ_MACHINE: Rate = Rate { per_1000_s: 5000, burst: 10 };
const DELETE_APP: Rate = Rate { per_1000_s: 1666, burst: 100 };

#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    buckets: BTreeMap<(&'static str, String), (u64, u64)>,
}

impl Rates {
    /// Takes a token, or says that there is none.
    pub(crate) fn take(&mut self, action: &'static str, on: &str, now: u64) -> bool {
        let rate = match action {
            "read_machine" => READ_MACHINE,
            "delete_app" => DELETE_APP,
            _ => DEFAULT,
        };
        let most = rate.burst.saturating_mul(TOKEN);
        let (tokens, at) = self.buckets.entry((action, on.to_owned())).or_insert((most, now));
        let gained = now.saturating_sub(*at).saturating_mul(rate.per_1000_s);
        *tokens = tokens.saturating_add(gained).min(most);
        *at = now;
        match tokens.checked_sub(TOKEN) {
            Some(rest) => {
                *tokens = rest;
                true
            }
            None => false,
        }
    }
}
