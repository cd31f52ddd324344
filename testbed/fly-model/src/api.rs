//! Requests and answers: who may ask, how often, and who answers.

use serde_json::{Value, json};

use crate::world::Fly;

/// A request, below the base of the API.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub method: &'a str,
    /// With its query.
    pub path: &'a str,
    pub token: &'a str,
    /// `fly-machine-lease-nonce`.
    pub nonce: Option<&'a str>,
    pub body: &'a [u8],
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// `fly-request-id` (rule 24).
    pub request_id: String,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
    /// What making it takes.
    pub took_ms: u64,
}

/// An answer without what every answer has.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn ok(value: &Value) -> Reply {
    with(200, value)
}

pub(crate) fn with(status: u16, value: &Value) -> Reply {
    Reply { status, body: value.to_string().into_bytes() }
}

pub(crate) fn error(status: u16, text: &str) -> Reply {
    with(status, &json!({"error": text}))
}

pub(crate) fn error_with(status: u16, text: &str, word: &str) -> Reply {
    with(status, &json!({"error": text, "status": word}))
}

/// The value of a query parameter; none of ours needs decoding.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

impl Fly {
    /// Answers a request that arrives at `now`.
    pub fn handle(&mut self, now: u64, request: &Request<'_>) -> Response {
        self.respond(now, request, true)
    }

    /// Answers a request that was answered before and waits for another answer: it is not counted again.
    pub fn handle_again(&mut self, now: u64, request: &Request<'_>) -> Response {
        self.respond(now, request, false)
    }

    /// Which action a request is, by the model's own name for it, without its query.
    #[must_use]
    pub fn action(method: &str, path: &str) -> Option<&'static str> {
        let path = path.split('?').next().unwrap_or_default();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        action_of(method, &segments).map(|(action, _)| action)
    }

    fn respond(&mut self, now: u64, request: &Request<'_>, counted: bool) -> Response {
        self.advance(now);
        let reply = self.answer(now, request, counted);
        let took_ms = self.pick(self.profile.answer);
        let serial = self.next_serial();
        let retry_after = (reply.status == 429 && self.profile.retry_after).then(|| "1".to_owned());
        Response {
            status: reply.status,
            request_id: format!("01J{serial}-sim"),
            retry_after,
            body: reply.body,
            took_ms,
        }
    }

    fn answer(&mut self, now: u64, request: &Request<'_>, counted: bool) -> Reply {
        if request.token != self.profile.token {
            return error(401, "Authenticate: token validation error");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let Some((action, on)) = action_of(request.method, &segments) else {
            return error(404, "not found");
        };
        let on = if action == "create_app" && !self.profile.app_creates_per_org {
            name_in(request.body)
        } else {
            on.to_owned()
        };
        if counted && self.profile.limits && !self.rates.take(action, &on, now) {
            self.refused = self.refused.saturating_add(1);
            return error(429, "rate limit exceeded");
        }
        // An array or nothing where an object is due is refused; no body at all is taken for an empty one.
        let body: Value = match request.body {
            [] => json!({}),
            bytes => serde_json::from_slice(bytes).unwrap_or(Value::Null),
        };
        if !body.is_object() {
            return error(400, "json: cannot unmarshal into Go value");
        }
        let app = segments.get(1).copied().unwrap_or_default();
        let id = segments.get(3).copied().unwrap_or_default();
        if segments.first() == Some(&"orgs") {
            return self.org(now, &segments, query);
        }
        match action {
            "list_apps" => return self.list_apps(query, now),
            "placements" => return self.placements(&body),
            "regions" => return self.regions(),
            _ => {}
        }
        if action != "create_app"
            && let Err(reply) = self.may_use(app, now)
        {
            return reply;
        }
        match action {
            "create_app" => self.create_app(&body, now),
            "read_app" => self.read_app(app),
            "delete_app" => self.delete_app(app, now),
            "assign_ip" => self.assign_address(app, &body),
            "list_ips" => self.list_addresses(app),
            "create_volume" => self.create_volume(app, &body, now),
            "list_volumes" => self.list_volumes(app, now),
            "read_volume" => self.read_volume(app, id, now),
            "extend_volume" => self.extend_volume(app, id, &body, now),
            "delete_volume" => self.delete_volume(app, id, now),
            "snapshot_volume" => self.snapshot_volume(app, id, now),
            "list_snapshots" => self.list_snapshots(app, id),
            "create_machine" => self.create_machine(app, &body, now),
            "list_secrets" => self.list_secrets(app, now),
            "set_secrets" => self.set_secrets(app, &body, now),
            "set_secret" => self.set_secret(app, id, &body, now),
            "read_secret" => self.read_secret(app, id),
            "delete_secret" => self.delete_secret(app, id, now),
            "list_machines" => self.list_machines(app, query, now),
            _ if action.contains("metadata") => {
                self.on_metadata(action, app, id, segments.get(5).copied().unwrap_or_default(), &body)
            }
            _ => self.on_machine(action, app, id, request.nonce, query, &body, now),
        }
    }
}

fn name_in(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Which action a request is, and on what it is counted.
fn action_of<'a>(method: &str, path: &[&'a str]) -> Option<(&'static str, &'a str)> {
    Some(match (method, path) {
        ("POST", ["apps"]) => ("create_app", "org"),
        ("GET", ["apps", app]) => ("read_app", app),
        ("DELETE", ["apps", _]) => ("delete_app", "org"),
        ("POST", ["apps", app, "ip_assignments"]) => ("assign_ip", app),
        ("GET", ["apps", app, "ip_assignments"]) => ("list_ips", app),
        ("POST", ["apps", app, "volumes"]) => ("create_volume", app),
        ("GET", ["apps", app, "volumes"]) => ("list_volumes", app),
        ("GET", ["apps", _, "volumes", id]) => ("read_volume", id),
        ("PUT", ["apps", _, "volumes", id, "extend"]) => ("extend_volume", id),
        ("DELETE", ["apps", _, "volumes", id]) => ("delete_volume", id),
        ("POST", ["apps", _, "volumes", id, "snapshots"]) => ("snapshot_volume", id),
        ("GET", ["apps", _, "volumes", id, "snapshots"]) => ("list_snapshots", id),
        ("POST", ["apps", app, "machines"]) => ("create_machine", app),
        ("GET", ["apps", app, "machines"]) => ("list_machines", app),
        ("GET", ["apps", _, "machines", id]) => ("read_machine", id),
        ("POST", ["apps", _, "machines", id]) => ("update", id),
        ("DELETE", ["apps", _, "machines", id]) => ("destroy", id),
        ("POST", ["apps", _, "machines", id, "start"]) => ("start", id),
        ("POST", ["apps", _, "machines", id, "stop"]) => ("stop", id),
        ("POST", ["apps", _, "machines", id, "restart"]) => ("restart", id),
        ("POST", ["apps", _, "machines", id, "cordon"]) => ("cordon", id),
        ("POST", ["apps", _, "machines", id, "uncordon"]) => ("uncordon", id),
        ("POST", ["apps", _, "machines", id, "lease"]) => ("lease", id),
        ("DELETE", ["apps", _, "machines", id, "lease"]) => ("release", id),
        ("GET", ["apps", _, "machines", id, "wait"]) => ("wait", id),
        ("GET", ["apps", _, "machines", id, "events"]) => ("events", id),
        ("POST", ["apps", _, "machines", id, "exec"]) => ("exec", id),
        ("POST", ["apps", _, "machines", id, "signal"]) => ("signal", id),
        ("GET", ["apps", _, "machines", id, "lease"]) => ("read_lease", id),
        ("GET", ["apps", _, "machines", id, "metadata"]) => ("read_metadata", id),
        ("PUT" | "PATCH", ["apps", _, "machines", id, "metadata"]) => {
            (if method == "PUT" { "put_metadata" } else { "patch_metadata" }, id)
        }
        ("GET", ["apps", _, "machines", id, "metadata", _]) => ("read_metadata_key", id),
        ("POST", ["apps", _, "machines", id, "metadata", _]) => ("set_metadata_key", id),
        ("DELETE", ["apps", _, "machines", id, "metadata", _]) => ("delete_metadata_key", id),
        ("GET", ["apps", app, "secrets"]) => ("list_secrets", app),
        ("POST", ["apps", app, "secrets"]) => ("set_secrets", app),
        ("GET", ["apps", app, "secrets", _]) => ("read_secret", app),
        ("POST", ["apps", app, "secrets", _]) => ("set_secret", app),
        ("DELETE", ["apps", app, "secrets", _]) => ("delete_secret", app),
        ("GET", ["apps"]) => ("list_apps", "org"),
        ("POST", ["platform", "placements"]) => ("placements", "org"),
        ("GET", ["platform", "regions"]) => ("regions", "org"),
        ("GET", ["orgs", _, "machines"]) => ("org_machines", "org"),
        ("GET", ["orgs", _, "volumes"]) => ("org_volumes", "org"),
        _ => return None,
    })
}
