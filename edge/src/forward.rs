//! What is sent to a back end, and what its answer means. Headers and URL only: bodies and frames go by.

use shared::id::{Generation, RequestId, UserId};
use shared::ticket::{self, Claims, TICKET_TTL_SECONDS};
use shared::time::UnixMillis;
use shared::wire::{PERMIT_HEADER, REQUEST_ID_HEADER, Refusal, TICKET_HEADER};

use crate::access::Access;
use crate::config::{Config, Keys};
use crate::placement::{self, Machine, Place};
use crate::request::Target;

/// A request to a back end: a new URL, and what to change about the headers that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub url: String,
    /// Separated by spaces.
    pub remove: &'static str,
    pub set: Vec<(&'static str, String)>,
}

/// A ticket or permit. It is a credential for as long as it lives, so it does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof(String);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[proof]")
    }
}

impl Outgoing {
    /// All of it as one text, since each text costs as much as the whole to hand over: the URL, the names to
    /// remove, then names and values to set, a line each. None of them can hold a line break.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let mut lines = format!("{}\n{}", self.url, self.remove);
        for (name, value) in &self.set {
            lines.push('\n');
            lines.push_str(name);
            lines.push('\n');
            lines.push_str(value);
        }
        lines
    }
}

/// What no machine is to see or to believe: our credentials (the session cookie, a dashboard's token, and the
/// signed URL inside a referrer), and everything by which a client could forge where it comes from or steer
/// the platform's proxy. The sidecar drops by prefix what is not named here.
const NOT_FOR_MACHINES: &str = "x-automna-permit \
    authorization \
    cookie \
    fly-client-ip \
    fly-force-region \
    fly-forwarded-port \
    fly-prefer-instance-id \
    fly-prefer-region \
    fly-region \
    fly-replay-src \
    forwarded \
    proxy-authorization \
    referer \
    tailscale-user-login \
    tailscale-user-name \
    true-client-ip \
    x-automna-refusal \
    x-forwarded-for \
    x-forwarded-host \
    x-forwarded-port \
    x-forwarded-proto \
    x-real-ip";

/// Parameters that stay at the edge: the proof, and two that the agent's page would obey (a token, and another
/// server to send it to).
const NOT_IN_MACHINE_URLS: [&str; 5] = ["userId", "exp", "sig", "token", "gatewayUrl"];

/// The ticket or permit by which a back end serves `user` under this target. Made once for each lease: it lives
/// much longer than one.
#[must_use]
pub fn proof(keys: &Keys, user: &UserId, target: &placement::Target, now: UnixMillis) -> Proof {
    let generation = match &target.place {
        Place::Legacy => Generation(0),
        Place::Fly(machine) => machine.generation,
    };
    let claims = Claims {
        backend: target.place.backend(),
        user: user.clone(),
        generation,
        epoch: target.epoch,
        expires: now.floor_seconds().plus(TICKET_TTL_SECONDS),
    };
    Proof(match &target.place {
        Place::Legacy => ticket::issue(&keys.permit, &claims),
        Place::Fly(_) => ticket::issue(&keys.signing.machine_key(user, generation), &claims),
    })
}

/// The request as the browser signed it, to the legacy origin (or, with a service binding, under its own URL),
/// with a permit for the day on which the legacy side asks for one.
#[must_use]
pub fn to_legacy(config: &Config, target: &Target<'_>, access: &Access, permit: &Proof) -> Outgoing {
    let origin = config.legacy_origin.as_deref().unwrap_or(target.origin);
    let mut query = target.query.to_owned();
    if let Some(missing) = access.missing_query() {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(missing);
    }
    Outgoing {
        url: join(origin, target.path, &query),
        // A permit that a client made up is replaced; nothing else means anything to that side.
        remove: "",
        set: vec![(PERMIT_HEADER, permit.0.clone())],
    }
}

/// A public file of the legacy side, without any proof or permit.
#[must_use]
pub fn to_legacy_asset(config: &Config, target: &Target<'_>) -> Outgoing {
    let origin = config.legacy_origin.as_deref().unwrap_or(target.origin);
    Outgoing { url: join(origin, target.path, ""), remove: NOT_FOR_MACHINES, set: Vec::new() }
}

/// The request with a ticket in place of the browser's proof, to this one machine and no other.
#[must_use]
pub fn to_machine(
    config: &Config,
    target: &Target<'_>,
    machine: &Machine,
    ticket: &Proof,
    request_id: &RequestId,
) -> Outgoing {
    let origin = config.machine_origin.of(&machine.app);
    Outgoing {
        url: join(&origin, target.path, &without_credentials(target.query)),
        remove: NOT_FOR_MACHINES,
        set: vec![
            (TICKET_HEADER, ticket.0.clone()),
            ("fly-force-instance-id", machine.machine_id.as_str().to_owned()),
            (REQUEST_ID_HEADER, request_id.as_str().to_owned()),
        ],
    }
}

fn join(origin: &str, path: &str, query: &str) -> String {
    if query.is_empty() { format!("{origin}{path}") } else { format!("{origin}{path}?{query}") }
}

/// The query without our parameters, the rest byte for byte. A name is compared as a server reads it, so that
/// `%75serId` goes as well.
fn without_credentials(query: &str) -> String {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let name = form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name);
            name.is_none_or(|name| !NOT_IN_MACHINE_URLS.contains(&name.as_ref()))
        })
        .collect();
    kept.join("&")
}

/// What a machine's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineAnswer {
    /// The sidecar's own: pass it on.
    Genuine,
    /// The sidecar will not serve under this ticket: ask for the placement again.
    Refused(Refusal),
    /// The platform's proxy speaking for a machine that it did not reach.
    Unreachable,
}

/// Reads an answer by its status, the refusal header, and whether the sidecar has marked it.
#[must_use]
pub fn judge(status: u16, refusal: Option<&str>, from_sidecar: bool) -> MachineAnswer {
    match refusal.and_then(Refusal::parse) {
        Some(refusal) if from_sidecar => MachineAnswer::Refused(refusal),
        _ if from_sidecar || status == 101 => MachineAnswer::Genuine,
        _ => MachineAnswer::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Headers, UserRoute};
    use shared::id::{Backend, Epoch};
    use shared::key::SigningKeys;
    use shared::secret::Secret;
    use shared::signed_url;
    use shared::ticket::Audience;
    use shared::time::UnixSeconds;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    struct Cookie(Option<String>);

    impl Headers for Cookie {
        fn get(&self, name: &str) -> Option<String> {
            self.0.clone().filter(|_| name == "cookie")
        }
    }

    fn config() -> Config {
        Config::read(|name| match name {
            "MOLTBOT_SIGNING_SECRET" => Some("test-secret-key-12345".into()),
            "LEGACY_ORIGIN" => Some("https://legacy.example".into()),
            _ => None,
        })
    }

    fn signed() -> String {
        let keys = SigningKeys::new(Secret::new("test-secret-key-12345").unwrap(), None);
        signed_url::sign(&keys, &"user_a".parse().unwrap(), UnixSeconds(1_800_003_600))
    }

    fn target<'a>(path: &'a str, query: &'a str) -> Target<'a> {
        Target { method: "GET", origin: "https://edge.example", path, query }
    }

    fn access(config: &Config, query: &str, cookie: Option<String>) -> Access {
        let keys = &config.keys.as_ref().unwrap().signing;
        crate::access::authenticate(config, keys, UserRoute::Other, &target("/", query), &Cookie(cookie), NOW)
            .unwrap()
    }

    fn header<'a>(outgoing: &'a Outgoing, name: &str) -> &'a str {
        &outgoing.set.iter().find(|(n, _)| *n == name).unwrap().1
    }

    #[test]
    fn legacy_gets_the_url_as_it_was_signed() {
        let config = config();
        let keys = config.keys.as_ref().unwrap();
        let query = format!("path=%2Froot%2Fclawd&{}&x=+", signed());
        let access = access(&config, &query, None);
        let legacy = placement::Target { epoch: Epoch(4), place: Place::Legacy };
        let permit = proof(keys, access.user(), &legacy, NOW);
        assert_eq!(format!("{permit:?}"), "[proof]");
        let out = to_legacy(&config, &target("/api/files/list", &query), &access, &permit);
        assert_eq!(out.url, format!("https://legacy.example/api/files/list?{query}"));
        let audience =
            Audience { backend: Backend::Legacy, user: Some(access.user()), generation: Generation(0) };
        let claims = ticket::verify(&keys.permit, header(&out, PERMIT_HEADER), audience, NOW).unwrap();
        assert_eq!(claims.epoch, Epoch(4));
    }

    #[test]
    fn lines_read_back() {
        let set = vec![("a", "1".to_owned()), ("b", "2 3".to_owned())];
        let outgoing = Outgoing { url: "https://x/?q".into(), remove: "c d", set };
        assert_eq!(outgoing.to_lines(), "https://x/?q\nc d\na\n1\nb\n2 3");
    }

    #[test]
    fn a_cookie_becomes_the_signed_query_that_legacy_knows() {
        let config = config();
        let from_url = access(&config, &signed(), None);
        let cookie = from_url.cookie_to_set(NOW).unwrap().split(';').next().unwrap().to_owned();
        let access = access(&config, "", Some(cookie));
        for (query, expected) in [("", signed()), ("a=1", format!("a=1&{}", signed()))] {
            let out = to_legacy(&config, &target("/ws", query), &access, &Proof("p".into()));
            assert_eq!(out.url, format!("https://legacy.example/ws?{expected}"));
        }
    }

    #[test]
    fn a_machine_gets_a_ticket_and_no_credential() {
        let config = config();
        let keys = config.keys.as_ref().unwrap();
        let query =
            format!("session=agent%3Amain&{}&token=t&gatewayUrl=wss%3A%2F%2Fevil&%75serId=x&b=+", signed());
        let access = access(&config, &signed(), None);
        let machine = Machine {
            app: "automna-u-1".parse().unwrap(),
            machine_id: "e286".parse().unwrap(),
            generation: Generation(3),
        };
        let id: RequestId = "req-12345".parse().unwrap();
        let on_fly = placement::Target { epoch: Epoch(9), place: Place::Fly(machine.clone()) };
        let ticket = proof(keys, access.user(), &on_fly, NOW);
        let out = to_machine(&config, &target("/chat", &query), &machine, &ticket, &id);
        assert_eq!(out.url, "https://automna-u-1.fly.dev/chat?session=agent%3Amain&b=+");
        assert_eq!(header(&out, "fly-force-instance-id"), "e286");
        let key = keys.signing.machine_key(access.user(), Generation(3));
        let audience =
            Audience { backend: Backend::Fly, user: Some(access.user()), generation: Generation(3) };
        let claims = ticket::verify(&key, header(&out, TICKET_HEADER), audience, NOW).unwrap();
        assert_eq!((claims.epoch, claims.expires), (Epoch(9), NOW.floor_seconds().plus(60)));
        for secret in ["cookie", "authorization", "referer", "x-forwarded-for", PERMIT_HEADER] {
            assert!(out.remove.split(' ').any(|name| name == secret), "{secret}");
        }
    }

    #[test]
    fn answers_of_machines() {
        let rows = [
            (200, None, true, MachineAnswer::Genuine),
            (503, None, true, MachineAnswer::Genuine),
            (101, None, false, MachineAnswer::Genuine),
            (409, Some("stale-epoch"), true, MachineAnswer::Refused(Refusal::StaleEpoch)),
            (409, Some("something-new"), true, MachineAnswer::Genuine),
            (409, Some("stale-epoch"), false, MachineAnswer::Unreachable),
            (502, None, false, MachineAnswer::Unreachable),
            (503, None, false, MachineAnswer::Unreachable),
            (200, None, false, MachineAnswer::Unreachable),
            (404, None, false, MachineAnswer::Unreachable),
        ];
        for (status, refusal, from_sidecar, expected) in rows {
            assert_eq!(judge(status, refusal, from_sidecar), expected, "{status} {refusal:?} {from_sidecar}");
        }
    }
}
