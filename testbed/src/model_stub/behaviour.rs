//! How the stub is asked to misbehave: by a directive in the user's text, or by its default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What opens a directive, as in `[[stub slow=200ms fail=529 times=1]]`.
const OPEN: &str = "[[stub ";
const CLOSE: &str = "]]";

/// Largest reply that can be asked for, in bytes: above what a real model gives, below what exhausts a machine.
pub const MAX_REPLY_BYTES: u64 = 16 << 20;

/// Longest pause between two pieces of a reply.
pub const MAX_DELAY: Duration = Duration::from_secs(600);

/// How a reply comes about. The default is an immediate, whole, short one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Behaviour {
    /// Pause before each piece of the reply, in milliseconds.
    pub slow_ms: u64,
    /// The reply is filled up to this many bytes.
    pub big_bytes: u64,
    /// How it ends.
    pub outcome: Outcome,
    /// How often the outcome is taken before replies are whole again, counted per text (so that the agent's
    /// retries count, and another message begins anew). `None`: always.
    pub times: Option<u32>,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The whole reply.
    #[default]
    Reply,
    /// An error with this HTTP status.
    Fail(u16),
    /// Nothing until the stub is told to release, then the whole reply.
    Hang,
    /// Half of the reply, then the connection breaks.
    Cut,
}

impl Behaviour {
    /// The pause before each piece.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        Duration::from_millis(self.slow_ms)
    }

    /// The behaviour of the attempt with this number (0 is the first) at the same text.
    #[must_use]
    pub fn at_attempt(&self, attempt: u32) -> Self {
        match self.times {
            Some(times) if attempt >= times => Self { outcome: Outcome::Reply, ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// Takes the first directive out of `text`: what it asks for, and the text without it. A directive that cannot
/// be read stays in the text, so that the reply shows the mistake.
#[must_use]
pub fn parse(text: &str) -> (Option<Behaviour>, String) {
    let Some((before, rest)) = text.split_once(OPEN) else { return (None, text.to_owned()) };
    let Some((words, after)) = rest.split_once(CLOSE) else { return (None, text.to_owned()) };
    match parse_words(words) {
        Some(behaviour) => {
            let kept: Vec<&str> =
                [before.trim(), after.trim()].into_iter().filter(|part| !part.is_empty()).collect();
            (Some(behaviour), kept.join(" "))
        }
        None => (None, text.to_owned()),
    }
}

fn parse_words(words: &str) -> Option<Behaviour> {
    let mut behaviour = Behaviour::default();
    let mut any = false;
    for word in words.split_ascii_whitespace() {
        any = true;
        match word.split_once('=').unwrap_or((word, "")) {
            ("slow", value) => behaviour.slow_ms = parse_delay(value)?,
            ("big", value) => behaviour.big_bytes = parse_size(value)?,
            ("fail", value) => {
                let status = value.parse().ok().filter(|status| (400..=599).contains(status))?;
                behaviour.outcome = Outcome::Fail(status);
            }
            ("hang", "") => behaviour.outcome = Outcome::Hang,
            ("cut", "") => behaviour.outcome = Outcome::Cut,
            ("times", value) => behaviour.times = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    any.then_some(behaviour)
}

/// `200ms` or `2s`, in milliseconds.
fn parse_delay(text: &str) -> Option<u64> {
    let ms = match text.strip_suffix("ms") {
        Some(number) => number.parse::<u64>().ok()?,
        None => text.strip_suffix('s')?.parse::<u64>().ok()?.checked_mul(1000)?,
    };
    (u128::from(ms) <= MAX_DELAY.as_millis()).then_some(ms)
}

/// `500`, `900k` (KiB) or `2m` (MiB), in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match (text.strip_suffix('k'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        (None, None) => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes <= MAX_REPLY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        let slow = |slow_ms| Some(Behaviour { slow_ms, ..Behaviour::default() });
        let big = |big_bytes| Some(Behaviour { big_bytes, ..Behaviour::default() });
        let outcome = |outcome| Some(Behaviour { outcome, ..Behaviour::default() });
        let rows = [
            ("hello", None, "hello"),
            ("", None, ""),
            ("[[stub slow=200ms]]", slow(200), ""),
            ("[[stub slow=2s]] hi", slow(2000), "hi"),
            ("hi [[stub slow=0ms]]", slow(0), "hi"),
            ("a [[stub big=900k]] b", big(900 << 10), "a b"),
            ("[[stub big=1m]]", big(1 << 20), ""),
            ("[[stub big=77]]", big(77), ""),
            ("[[stub fail=529]] x", outcome(Outcome::Fail(529)), "x"),
            ("[[stub hang]]", outcome(Outcome::Hang), ""),
            ("[[stub cut]]\nsecond line", outcome(Outcome::Cut), "second line"),
            (
                "[[stub slow=10ms fail=400 times=2]]",
                Some(Behaviour { slow_ms: 10, outcome: Outcome::Fail(400), times: Some(2), big_bytes: 0 }),
                "",
            ),
            // Only the first one is taken.
            ("[[stub cut]] [[stub hang]]", outcome(Outcome::Cut), "[[stub hang]]"),
            // What cannot be read stays.
            ("[[stub ]]", None, "[[stub ]]"),
            ("[[stub fail]]", None, "[[stub fail]]"),
            ("[[stub fail=200]]", None, "[[stub fail=200]]"),
            ("[[stub fail=9999]]", None, "[[stub fail=9999]]"),
            ("[[stub slow=5]]", None, "[[stub slow=5]]"),
            ("[[stub slow=601s]]", None, "[[stub slow=601s]]"),
            ("[[stub slow=-1s]]", None, "[[stub slow=-1s]]"),
            ("[[stub big=17m]]", None, "[[stub big=17m]]"),
            ("[[stub big=99999999999999999999k]]", None, "[[stub big=99999999999999999999k]]"),
            ("[[stub hang=1]]", None, "[[stub hang=1]]"),
            ("[[stub dance]]", None, "[[stub dance]]"),
            ("[[stub cut", None, "[[stub cut"),
            ("[[STUB cut]]", None, "[[STUB cut]]"),
        ];
        for (text, behaviour, rest) in rows {
            assert_eq!(parse(text), (behaviour, rest.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn an_outcome_can_be_limited_to_the_first_attempts() {
        let twice = Behaviour { outcome: Outcome::Fail(529), times: Some(2), ..Behaviour::default() };
        let outcomes: Vec<Outcome> = (0..4).map(|attempt| twice.at_attempt(attempt).outcome).collect();
        assert_eq!(outcomes, [Outcome::Fail(529), Outcome::Fail(529), Outcome::Reply, Outcome::Reply]);
        let always = Behaviour { outcome: Outcome::Cut, ..Behaviour::default() };
        assert_eq!(always.at_attempt(100).outcome, Outcome::Cut);
    }

    #[test]
    fn behaviour_as_json() {
        let rows = [
            ("{}", Some(Behaviour::default())),
            (
                r#"{"slowMs":5,"outcome":{"fail":529},"times":1}"#,
                Some(Behaviour { slow_ms: 5, outcome: Outcome::Fail(529), times: Some(1), big_bytes: 0 }),
            ),
            (r#"{"outcome":"hang"}"#, Some(Behaviour { outcome: Outcome::Hang, ..Behaviour::default() })),
            (r#"{"outcome":"dance"}"#, None),
            (r#"{"slow":5}"#, None),
        ];
        for (text, expected) in rows {
            assert_eq!(serde_json::from_str::<Behaviour>(text).ok(), expected, "{text}");
        }
    }
}
