//! What the dashboard calls: who may, what is answered, and when the answer is to come back later.
//!
//! | route | who | answer |
//! |---|---|---|
//! | `GET /api/user/gateway` | a session token, or the service bearer with `?userId=` | where the agent is, as a signed URL |
//! | `GET /api/user/gateway/renew` | a signed URL that still holds | a fresh one ([`crate::renewal`]) |
//! | `GET /api/user/health` | as the first | whether the agent would answer now |
//!
//! Nothing else exists under `/api/user`: it is answered here or not at all, and reaches no back end.
//!
//! A user without a machine, whom the policy wants to have one, is [`Waiting::NotProvisioned`]. [`next`] is the
//! one place that says so, and the place for whoever provisions to begin.

use serde::{Deserialize, Serialize};
use shared::id::{AppName, Backend, MachineId, UserId};
use shared::key::SigningKeys;
use shared::signed_url::{self, Presented, SignedQuery, VerifiedUser};
use shared::time::{UnixMillis, UnixSeconds};

use crate::access;
use crate::config::DashboardAuth;
use crate::error::EdgeError;
use crate::forward::Proof;
use crate::jwt::{self, PublicKey, TokenPolicy, Unverified};
use crate::lease::Lease;
use crate::placement::{Machine, Place, Stays};
use crate::renewal::{CHAIN_SECONDS, Renewed, URL_TTL_SECONDS};

/// The main conversation's key, as the agent itself calls it. Under its short name `main` the agent stores what
/// it later does not find.
pub const SESSION_KEY: &str = "agent:main:main";

/// The routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Gateway,
    Renew,
    Health,
}

/// Whether `path` is the dashboard's, and if so, which call it is: `Some(None)` is none that exists.
#[must_use]
pub fn call_at(path: &str) -> Option<Option<Call>> {
    let rest = path.strip_prefix("/api/user")?;
    match rest {
        "/gateway" => Some(Some(Call::Gateway)),
        "/gateway/renew" => Some(Some(Call::Renew)),
        "/health" => Some(Some(Call::Health)),
        _ if rest.is_empty() || rest.starts_with('/') => Some(None),
        _ => None,
    }
}

/// A call whose sender has proven to speak for this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(UserId);

impl Caller {
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.0
    }
}

/// What a caller shows.
#[derive(Debug)]
pub enum Credential<'a> {
    /// The dashboard's own server, which names the user whom it acts for.
    Service,
    /// A user's session, once the signature is found to fit the key.
    Session { token: Box<Unverified>, key: &'a PublicKey, policy: &'a TokenPolicy },
}

/// Reads the `authorization` header.
///
/// # Errors
/// 401 without a bearer, or with a token that is none; 503 if nothing is configured to judge it by.
pub fn credential<'a>(auth: &'a DashboardAuth, header: Option<&str>) -> Result<Credential<'a>, EdgeError> {
    let token = header.and_then(access::bearer).ok_or(EdgeError::NoToken)?;
    if auth.service.as_ref().is_some_and(|service| service.matches(token)) {
        return Ok(Credential::Service);
    }
    let clerk = auth.clerk.as_ref().map_err(|missing| EdgeError::NotConfigured { missing })?;
    let token = jwt::parse(token).map_err(EdgeError::Token)?;
    let key = clerk.keys.get(token.kid()).ok_or(EdgeError::Token(jwt::TokenError::UnknownKey))?;
    Ok(Credential::Session { token: Box::new(token), key, policy: &clerk.policy })
}

/// The user whom the service acts for: the query's one `userId`.
///
/// # Errors
/// 400 if it names none, several, or something else.
pub fn service_caller(query: &str) -> Result<Caller, EdgeError> {
    let mut named = named_users(query);
    let user = named.next().and_then(|text| text.parse().ok());
    match (user, named.next()) {
        (Some(user), None) => Ok(Caller(user)),
        _ => Err(EdgeError::BadRequest("Name one user as userId".into())),
    }
}

/// The user of a session, who may name themselves and nobody else.
///
/// # Errors
/// 401 for the token, 403 for another user's name.
pub fn session_caller(
    token: Unverified,
    signature_fits: bool,
    policy: &TokenPolicy,
    query: &str,
    now: UnixMillis,
) -> Result<Caller, EdgeError> {
    let claims = token.settle(signature_fits).map_err(EdgeError::Token)?;
    let user = jwt::check(&claims, now, policy).map_err(EdgeError::Token)?;
    if named_users(query).any(|named| named != user.as_str()) {
        return Err(EdgeError::ForeignUser);
    }
    Ok(Caller(user))
}

fn named_users(query: &str) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "userId").map(|(_, value)| value)
}

/// Whose signed URL asks to be renewed. The cookie does not count: it is hidden from scripts, and an answer that
/// puts its proof into a script's hands would undo that.
///
/// # Errors
/// The contract's 401.
pub fn renewing(keys: &SigningKeys, query: &str, now: UnixMillis) -> Result<VerifiedUser, EdgeError> {
    let Presented::Whole(query) = SignedQuery::read(query) else {
        return Err(EdgeError::Auth(signed_url::AuthError::MissingParams));
    };
    signed_url::verify(keys, &query, now).map_err(EdgeError::Auth)
}

/// Why there is no agent to talk to yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// There is to be a machine, and there is none.
    NotProvisioned,
    /// The user is between two back ends.
    Moving,
    /// The platform does not reach the machine.
    Starting,
    /// The sidecar answers; the agent does not.
    WaitingForGateway,
}

impl Waiting {
    /// The `status` of answers, in the words of the contract's status route.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotProvisioned => "not_provisioned",
            Self::Moving => "moving",
            Self::Starting => "starting",
            Self::WaitingForGateway => "waiting_for_gateway",
        }
    }

    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotProvisioned => "There is no machine for this user yet",
            Self::Moving => "The agent is being moved",
            Self::Starting => "The machine is starting",
            Self::WaitingForGateway => "The agent is starting",
        }
    }

    /// Seconds after which asking again makes sense. The contract's front end asks every two.
    #[must_use]
    pub const fn retry_after_seconds(self) -> u32 {
        2
    }
}

/// What has to be known before there is an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<'a> {
    /// Nothing: the old side starts a sandbox when it is first asked.
    Legacy,
    /// Whether this machine's agent answers, when it is asked under this ticket.
    Probe(&'a Machine, &'a Proof),
    Wait(Waiting),
}

/// What follows from where the user is (nowhere, without a lease), and from why they are not where the policy wants
/// them.
#[must_use]
pub fn next(lease: Option<&Lease>, stays: Stays) -> Next<'_> {
    match lease {
        None => Next::Wait(Waiting::Moving),
        Some(lease) => match (&lease.target.place, stays) {
            (Place::Fly(machine), _) => Next::Probe(machine, &lease.proof),
            (Place::Legacy, Stays::NoMachine) => Next::Wait(Waiting::NotProvisioned),
            (
                Place::Legacy,
                Stays::Settled
                | Stays::Overtaken
                | Stays::IdNotPortable
                | Stays::MoveRequired
                | Stays::Moving
                | Stays::Exhausted,
            ) => Next::Legacy,
        },
    }
}

/// What the sidecar's `/api/status` says, as far as it matters here.
#[derive(Deserialize)]
struct MachineStatus {
    ok: bool,
    #[serde(default)]
    draining: bool,
}

/// Reads the sidecar's own answer to `/api/status`. One that cannot be read is an agent that is not ready: an
/// agent's page with status 200 is not health.
///
/// # Errors
/// Why it is not ready.
pub fn read_status(body: &str) -> Result<(), Waiting> {
    match serde_json::from_str(body) {
        Ok(MachineStatus { ok: true, draining: false }) => Ok(()),
        // It is on its way down, and will come up again.
        Ok(MachineStatus { draining: true, .. }) => Err(Waiting::Starting),
        Ok(MachineStatus { ok: false, .. }) | Err(_) => Err(Waiting::WaitingForGateway),
    }
}

/// The signed URL in the forms in which the front end uses it. The names are the contract's where it has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// For the WebSocket, with the proof that every other call needs as well.
    pub gateway_url: String,
    pub session_key: &'static str,
    /// The origin of those other calls.
    pub http_url: String,
    pub user_id: UserId,
    /// Until when the proof holds, in Unix seconds.
    pub expires_at: UnixSeconds,
    /// Answers with the next one, while this one holds.
    pub renew_url: String,
    /// Until when that goes on, in Unix seconds.
    pub renewable_until: UnixSeconds,
}

impl Links {
    /// The links under `origin` of a URL that holds as `renewed` says.
    #[must_use]
    pub fn new(keys: &SigningKeys, origin: &str, user: &UserId, renewed: Renewed) -> Self {
        let query = signed_url::sign(keys, user, renewed.expires);
        // `http` becomes `ws`, and `https` becomes `wss`.
        let socket =
            origin.strip_prefix("http").map_or_else(|| origin.to_owned(), |rest| format!("ws{rest}"));
        Self {
            gateway_url: format!("{socket}/ws?{query}"),
            session_key: SESSION_KEY,
            http_url: origin.to_owned(),
            user_id: user.clone(),
            expires_at: renewed.expires,
            renew_url: format!("{origin}/api/user/gateway/renew?{query}"),
            renewable_until: renewed.renewable_until(),
        }
    }
}

/// The answer to [`Call::Gateway`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway<'a> {
    #[serde(flatten)]
    pub links: Links,
    pub backend: Backend,
    /// Of the machine. Absent on the old side.
    #[serde(flatten)]
    pub machine: Option<MachineFields<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineFields<'a> {
    pub app_name: &'a AppName,
    pub machine_id: &'a MachineId,
    /// Fly's word. A machine that is not started has not answered the probe.
    pub machine_status: &'static str,
}

impl<'a> Gateway<'a> {
    /// The answer at `now` for a user on the old side, or on this machine, whose agent answers.
    #[must_use]
    pub fn new(
        keys: &SigningKeys,
        origin: &str,
        user: &UserId,
        machine: Option<&'a Machine>,
        now: UnixSeconds,
    ) -> Self {
        let fresh = Renewed { expires: now.plus(URL_TTL_SECONDS), began: now };
        Self {
            links: Links::new(keys, origin, user, fresh),
            backend: if machine.is_some() { Backend::Fly } else { Backend::Legacy },
            machine: machine.map(|Machine { app, machine_id, generation: _ }| MachineFields {
                app_name: app,
                machine_id,
                machine_status: "started",
            }),
        }
    }
}

/// The answer to [`Call::Health`], always with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health<'a> {
    pub ready: bool,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<&'a AppName>,
}

impl<'a> Health<'a> {
    /// What was found out about the user's agent.
    #[must_use]
    pub fn new(machine: Option<&'a Machine>, found: Result<(), Waiting>) -> Self {
        let (ready, status, error) = match (found, machine) {
            (Ok(()), Some(_)) => (true, "ready", None),
            // Nobody has asked the sandbox, since that starts it; it starts for whoever comes.
            (Ok(()), None) => (true, "on_demand", None),
            (Err(waiting), _) => (false, waiting.as_str(), Some(waiting.text())),
        };
        Self { ready, status, error, app_name: machine.map(|machine| &machine.app) }
    }
}

// A chain that ended before the first URL of it would be no chain.
const _: () = assert!(CHAIN_SECONDS > URL_TTL_SECONDS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Keys};
    use crate::forward;
    use crate::placement::Target;
    use shared::id::{Epoch, Generation};
    use shared::secret::Secret;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn keys() -> SigningKeys {
        SigningKeys::new(Secret::new("test-secret-key-12345").unwrap(), None)
    }

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    fn machine() -> Machine {
        Machine {
            app: "app-1".parse().unwrap(),
            machine_id: "m1".parse().unwrap(),
            generation: Generation(1),
        }
    }

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }

    fn token(kid: &str, sub: &str) -> String {
        let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
        let claims = format!(r#"{{"iss":"https://clerk.example","sub":"{sub}","exp":1800000060}}"#);
        format!("{}.{}.{}", encode(header), encode(claims), encode([7; 256]))
    }

    fn auth(with_clerk: bool, with_service: bool) -> DashboardAuth {
        let n = encode([0xc5; 256]);
        let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"k1","n":"{n}","e":"AQAB"}}]}}"#);
        let config = Config::read(|name| match name {
            "CLERK_JWKS" if with_clerk => Some(jwks.clone()),
            "CLERK_ISSUER" if with_clerk => Some("https://clerk.example".into()),
            "DASHBOARD_BEARER" if with_service => Some("service-secret".into()),
            _ => None,
        });
        config.dashboard
    }

    #[test]
    fn paths() {
        let rows = [
            ("/api/user/gateway", Some(Some(Call::Gateway))),
            ("/api/user/gateway/renew", Some(Some(Call::Renew))),
            ("/api/user/health", Some(Some(Call::Health))),
            ("/api/user", Some(None)),
            ("/api/user/", Some(None)),
            ("/api/user/gateway/", Some(None)),
            ("/api/user/sessions", Some(None)),
            ("/api/users", None),
            ("/api/files/list", None),
        ];
        for (path, expected) in rows {
            assert_eq!(call_at(path), expected, "{path}");
        }
    }

    #[test]
    fn credentials() {
        let session = format!("Bearer {}", token("k1", "user_a"));
        let unknown = format!("Bearer {}", token("k2", "user_a"));
        type Row<'a> = (Option<&'a str>, bool, bool, Result<&'a str, &'a str>);
        let rows: &[Row<'_>] = &[
            // header, Clerk configured, service configured, what follows
            (None, true, true, Err("missing_token")),
            (Some(""), true, true, Err("missing_token")),
            (Some("Bearer"), true, true, Err("missing_token")),
            (Some("Basic c2VydmljZS1zZWNyZXQ="), true, true, Err("missing_token")),
            (Some("Bearer service-secret"), true, true, Ok("service")),
            (Some("bearer  service-secret "), true, true, Ok("service")),
            (Some("Bearer service-secret"), false, true, Ok("service")),
            (Some("Bearer service-secret"), true, false, Err("token_malformed")),
            (Some("Bearer service-secrex"), true, true, Err("token_malformed")),
            (Some("Bearer "), true, false, Err("token_malformed")),
            (Some("Bearer "), false, false, Err("not_configured")),
            (Some(&session), true, true, Ok("session")),
            (Some(&session), true, false, Ok("session")),
            (Some(&session), false, true, Err("not_configured")),
            (Some(&unknown), true, true, Err("token_key_unknown")),
        ];
        for (header, clerk, service, expected) in rows {
            let auth = auth(*clerk, *service);
            let got = match credential(&auth, *header) {
                Ok(Credential::Service) => Ok("service"),
                Ok(Credential::Session { key, .. }) => {
                    assert_eq!(key.kid, "k1");
                    Ok("session")
                }
                Err(error) => Err(error.code()),
            };
            assert_eq!(got, *expected, "{header:?} {clerk} {service}");
        }
    }

    #[test]
    fn a_session_speaks_for_its_own_user_only() {
        let auth = auth(true, false);
        let header = format!("Bearer {}", token("k1", "user_a"));
        let rows = [
            (true, "", Ok("user_a")),
            (true, "userId=user_a&x=1", Ok("user_a")),
            (true, "userId=user_b", Err("foreign_user")),
            (true, "userId=user_a&userId=user_b", Err("foreign_user")),
            (true, "%75serId=user_b", Err("foreign_user")),
            (true, "userId=", Err("foreign_user")),
            (false, "", Err("token_signature")),
            (false, "userId=user_b", Err("token_signature")),
        ];
        for (fits, query, expected) in rows {
            let Ok(Credential::Session { token, policy, .. }) = credential(&auth, Some(&header)) else {
                panic!("no session");
            };
            let got = session_caller(*token, fits, policy, query, NOW);
            let got = got.map(|caller| caller.user().to_string()).map_err(|error| error.code());
            assert_eq!(got, expected.map(str::to_owned), "{fits} {query}");
        }
    }

    #[test]
    fn the_service_names_one_user() {
        let rows = [
            ("userId=user_a", Some("user_a")),
            ("x=1&userId=user_a", Some("user_a")),
            ("", None),
            ("userId=", None),
            ("userId=root", None),
            ("userId=user_a&userId=user_a", None),
            ("userId=user_a&userId=user_b", None),
        ];
        for (query, expected) in rows {
            let got = service_caller(query).map(|caller| caller.user().to_string());
            assert_eq!(got.ok().as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn what_follows_from_where_a_user_is() {
        let keys = Keys { permit: keys().permit_key(), signing: keys() };
        let at = |place| {
            let target = Target { epoch: Epoch(1), place };
            let proof = forward::proof(&keys, &user("user_a"), &target, NOW);
            Lease { target, asked: NOW, policy_version: 1, proof }
        };
        let not_provisioned = Next::Wait(Waiting::NotProvisioned);
        let machine = machine();
        assert_eq!(next(None, Stays::Moving), Next::Wait(Waiting::Moving));
        assert_eq!(next(None, Stays::NoMachine), Next::Wait(Waiting::Moving));
        assert_eq!(next(Some(&at(Place::Legacy)), Stays::NoMachine), not_provisioned);
        for stays in [Stays::Settled, Stays::Overtaken, Stays::IdNotPortable, Stays::MoveRequired] {
            assert_eq!(next(Some(&at(Place::Legacy)), stays), Next::Legacy, "{stays:?}");
            let on_fly = at(Place::Fly(machine.clone()));
            assert_eq!(next(Some(&on_fly), stays), Next::Probe(&machine, &on_fly.proof), "{stays:?}");
        }
    }

    #[test]
    fn a_machine_is_ready_when_its_sidecar_says_so() {
        let rows = [
            (r#"{"ok":true,"status":"running","draining":false}"#, Ok(())),
            (r#"{"ok":true,"status":"running"}"#, Ok(())),
            (r#"{"ok":true,"draining":true}"#, Err(Waiting::Starting)),
            (r#"{"ok":false,"status":"not_running"}"#, Err(Waiting::WaitingForGateway)),
            ("<!doctype html>", Err(Waiting::WaitingForGateway)),
            ("", Err(Waiting::WaitingForGateway)),
        ];
        for (body, expected) in rows {
            assert_eq!(read_status(body), expected, "{body}");
        }
    }

    #[test]
    fn answers_have_the_contracts_fields() {
        let now = NOW.floor_seconds();
        let a = user("user_a");
        let machine = machine();
        let on_fly = Gateway::new(&keys(), "https://e.example", &a, Some(&machine), now);
        let query = signed_url::sign(&keys(), &a, UnixSeconds(1_800_003_600));
        let expected = serde_json::json!({
            "gatewayUrl": format!("wss://e.example/ws?{query}"), "sessionKey": "agent:main:main",
            "httpUrl": "https://e.example", "userId": "user_a", "expiresAt": 1_800_003_600_u64,
            "renewUrl": format!("https://e.example/api/user/gateway/renew?{query}"),
            "renewableUntil": 1_800_086_400_u64, "backend": "fly",
            "appName": "app-1", "machineId": "m1", "machineStatus": "started",
        });
        assert_eq!(serde_json::to_value(&on_fly).unwrap(), expected);
        let legacy = serde_json::to_value(Gateway::new(&keys(), "http://h:1", &a, None, now)).unwrap();
        assert_eq!(legacy["gatewayUrl"], format!("ws://h:1/ws?{query}"));
        assert_eq!((&legacy["backend"], legacy.get("machineId")), (&"legacy".into(), None));

        let health = |machine, found| serde_json::to_value(Health::new(machine, found)).unwrap();
        assert_eq!(
            health(Some(&machine), Ok(())),
            serde_json::json!({"ready": true, "status": "ready", "appName": "app-1"})
        );
        assert_eq!(health(None, Ok(())), serde_json::json!({"ready": true, "status": "on_demand"}));
        let starting = health(Some(&machine), Err(Waiting::Starting));
        assert_eq!((&starting["ready"], &starting["status"]), (&false.into(), &"starting".into()));
    }

    #[test]
    fn only_a_url_that_holds_is_renewed() {
        let good = signed_url::sign(&keys(), &user("user_a"), UnixSeconds(1_800_000_010));
        let over = signed_url::sign(&keys(), &user("user_a"), UnixSeconds(1_799_999_999));
        assert_eq!(renewing(&keys(), &good, NOW).unwrap().user(), &user("user_a"));
        for (query, code) in [
            (over.as_str(), "url_expired"),
            ("", "missing_params"),
            ("userId=user_a", "missing_params"),
            (&good.replace("user_a", "user_b"), "invalid_signature"),
        ] {
            assert_eq!(renewing(&keys(), query, NOW).unwrap_err().code(), code, "{query}");
        }
    }
}
