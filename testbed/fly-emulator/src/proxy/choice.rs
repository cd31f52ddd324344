//! Which machine a request goes to.

use std::net::SocketAddr;

/// A machine as the proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    /// Where its service listens; `None` if it has none for the public port.
    pub addr: Option<SocketAddr>,
    pub started: bool,
    /// Stopped, and may be started for a request.
    pub wakes: bool,
    pub cordoned: bool,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    To {
        id: String,
        addr: SocketAddr,
        /// The machine that was preferred and could not be had.
        missed: Option<String>,
    },
    /// Has to be started first.
    Wake { id: String, addr: SocketAddr },
    /// 503.
    Nobody,
}

/// Chooses among the machines of an app: the one that is forced and no other, else the one that is preferred, else
/// any, by chance. `at` is that chance.
#[must_use]
pub fn choose(candidates: &[Candidate], force: Option<&str>, prefer: Option<&str>, at: usize) -> Choice {
    let find = |id: &str| candidates.iter().find(|candidate| candidate.id == id);
    let serves = |candidate: &&Candidate| candidate.started && !candidate.cordoned;
    if let Some(id) = force {
        return match find(id).filter(|candidate| !candidate.cordoned) {
            Some(Candidate { id, addr: Some(addr), started: true, .. }) => {
                Choice::To { id: id.clone(), addr: *addr, missed: None }
            }
            Some(Candidate { id, addr: Some(addr), wakes: true, .. }) => {
                Choice::Wake { id: id.clone(), addr: *addr }
            }
            _ => Choice::Nobody,
        };
    }
    let preferred = prefer.and_then(find).filter(serves).and_then(|it| Some((it, it.addr?)));
    if let Some((candidate, addr)) = preferred {
        return Choice::To { id: candidate.id.clone(), addr, missed: None };
    }
    let able: Vec<(&Candidate, SocketAddr)> =
        candidates.iter().filter(serves).filter_map(|it| Some((it, it.addr?))).collect();
    if let Some((candidate, addr)) = at.checked_rem(able.len()).and_then(|n| able.get(n)) {
        let missed = prefer.map(str::to_owned);
        return Choice::To { id: candidate.id.clone(), addr: *addr, missed };
    }
    let mut waking = candidates.iter().filter(|it| it.wakes && !it.cordoned);
    match waking.find_map(|it| Some((it, it.addr?))) {
        Some((candidate, addr)) => Choice::Wake { id: candidate.id.clone(), addr },
        None => Choice::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(id: &str, port: u16, started: bool, wakes: bool, cordoned: bool) -> Candidate {
        let addr = (port > 0).then(|| SocketAddr::from(([127, 10, 0, 1], port)));
        Candidate { id: id.to_owned(), addr, started, wakes, cordoned }
    }

    fn shown(choice: Choice) -> String {
        match choice {
            Choice::To { id, missed, .. } => {
                format!("to {id}{}", missed.map(|id| format!(", not {id}")).unwrap_or_default())
            }
            Choice::Wake { id, .. } => format!("wake {id}"),
            Choice::Nobody => "nobody".to_owned(),
        }
    }

    #[test]
    fn whom_a_request_reaches() {
        let all = [
            machine("up", 1, true, false, false),
            machine("up2", 2, true, false, false),
            machine("down", 3, false, false, false),
            machine("asleep", 4, false, true, false),
            machine("cordoned", 5, true, true, true),
            machine("deaf", 0, true, true, false),
        ];
        for (force, prefer, at, expected) in [
            (Some("up"), None, 1, "to up"),
            (Some("up"), Some("up2"), 1, "to up"),
            (Some("down"), None, 0, "nobody"),
            (Some("asleep"), None, 0, "wake asleep"),
            (Some("cordoned"), None, 0, "nobody"),
            (Some("deaf"), None, 0, "nobody"),
            (Some("else"), None, 0, "nobody"),
            (Some(""), None, 0, "nobody"),
            (None, Some("up2"), 0, "to up2"),
            (None, Some("down"), 0, "to up, not down"),
            (None, Some("else"), 3, "to up2, not else"),
            (None, None, 0, "to up"),
            (None, None, 1, "to up2"),
        ] {
            assert_eq!(shown(choose(&all, force, prefer, at)), expected, "{force:?} {prefer:?} {at}");
        }
        assert_eq!(shown(choose(&all[2..], None, None, 0)), "wake asleep");
        assert_eq!(shown(choose(&all[4..], None, None, 0)), "nobody");
    }

    proptest! {
        /// What makes the header fit for users' data: no other machine is ever reached.
        #[test]
        fn a_forced_request_reaches_that_machine_or_none(
            flags in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_u16..3), 0..6),
            force in 0_usize..8,
            at in any::<usize>(),
        ) {
            let all: Vec<Candidate> = flags
                .iter()
                .enumerate()
                .map(|(n, (a, b, c, port))| machine(&n.to_string(), *port, *a, *b, *c))
                .collect();
            let force = force.to_string();
            match choose(&all, Some(&force), None, at) {
                Choice::To { id, .. } | Choice::Wake { id, .. } => prop_assert_eq!(id, force),
                Choice::Nobody => {}
            }
        }
    }
}
