//! What goes wrong on purpose: which calls, how often, and in what way.

use serde::{Deserialize, Serialize};

/// Something that goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(rename = "match", default)]
    pub on: Match,
    pub effect: Effect,
    /// After so many times it is over; without it, never.
    #[serde(default)]
    pub count: Option<u64>,
    /// How many calls have matched, whether or not they were hit.
    #[serde(default)]
    pub seen: u64,
}

/// Which calls. What is absent matches everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The model's name of an action: `create_app`, `create_volume`, `create_machine`, `start`, `read_machine`, …
    pub action: Option<String>,
    pub app: Option<String>,
    pub machine: Option<String>,
    /// Only the call with this number, from 1.
    pub nth: Option<u64>,
    /// Only in so many of 1 cases.
    pub prob: Option<f64>,
}

/// What happens then.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Effect {
    /// Answered in place of the call, which is not made.
    pub status: Option<u16>,
    /// The body of that answer. Without one: what Fly's edge says, in HTML.
    pub body: Option<String>,
    /// The answer comes so many ms later, in the model's time.
    pub delay_ms: u64,
    /// The connection is cut, and the call not made.
    pub drop_before: bool,
    /// The call is made, and the connection cut in place of the answer.
    pub drop_after: bool,
}

/// A call, for the faults.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub action: &'a str,
    pub app: &'a str,
    pub machine: &'a str,
}

/// All that goes wrong. The first that hits a call counts.
#[derive(Debug)]
pub struct Faults {
    list: Vec<Fault>,
    rng: fastrand::Rng,
}

impl Faults {
    /// None yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { list: Vec::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    pub fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// What happens to this call.
    pub fn hit(&mut self, call: Call<'_>) -> Option<Effect> {
        let Self { list, rng } = self;
        let mut hit = None;
        for fault in list.iter_mut().filter(|fault| fault.on.fits(call)) {
            fault.seen = fault.seen.saturating_add(1);
            let now = fault.count != Some(0)
                && fault.on.nth.is_none_or(|nth| nth == fault.seen)
                && fault.on.prob.is_none_or(|prob| rng.f64() < prob);
            if now && hit.is_none() {
                fault.count = fault.count.map(|count| count.saturating_sub(1));
                hit = Some(fault.effect.clone());
            }
        }
        hit
    }
}

impl Match {
    fn fits(&self, call: Call<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        same(&self.action, call.action) && same(&self.app, call.app) && same(&self.machine, call.machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const START: Call<'static> = Call { action: "start", app: "a", machine: "m" };

    fn hits(fault: &Value, calls: usize) -> usize {
        let mut faults = Faults::new(1);
        faults.add(serde_json::from_value(fault.clone()).unwrap());
        (0..calls).filter(|_| faults.hit(START).is_some()).count()
    }

    #[test]
    fn which_calls_are_hit() {
        for (fault, expected) in [
            (json!({"effect": {"drop_after": true}}), 1000),
            (json!({"effect": {"drop_after": true}, "count": 3}), 3),
            (json!({"match": {"action": "stop"}, "effect": {"status": 500}}), 0),
            (json!({"match": {"action": "start", "app": "a", "machine": "m"}, "effect": {}}), 1000),
            (json!({"match": {"app": "b"}, "effect": {}}), 0),
            (json!({"match": {"nth": 7}, "effect": {}}), 1),
            (json!({"match": {"prob": 0.0}, "effect": {}}), 0),
        ] {
            assert_eq!(hits(&fault, 1000), expected, "{fault}");
        }
        let some = hits(&json!({"match": {"prob": 0.05}, "effect": {}}), 1000);
        assert!((20..100).contains(&some), "{some}");
    }

    #[test]
    fn the_same_seed_hits_the_same_calls() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            let fault = json!({"match": {"prob": 0.5}, "effect": {"status": 500}});
            faults.add(serde_json::from_value(fault).unwrap());
            (0..64).map(|_| faults.hit(START).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
