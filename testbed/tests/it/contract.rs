//! The contract's cases, on both back ends. They are data: `testbed/contract/README.md` says how they read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::id::UserId;
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::signed_url;
use shared::time::UnixSeconds;
use testbed::agent;
use testbed::system::{System, SystemSpec, sign};
use tokio::time::Instant;

use crate::support::{sidecar, tools, user};

/// What the sidecar serves already, of what cases need: "files", "history", "chat", "status", "reset".
const SIDECAR_HAS: &[&str] = &["files", "history", "chat", "status", "reset"];

/// What cases may need.
const NEEDS: [&str; 5] = ["files", "history", "chat", "status", "reset"];

const USER: &str = "user_contract";

/// As long as [`USER`], for its signature.
const OTHER_USER: &str = "user_contrary";

/// How much of an answer a report shows.
const MAX_SHOWN_CHARS: usize = 500;

/// How long what is to come true eventually may take: the agent writes a conversation down when it comes to it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const BOUNDARY: &str = "----contract-boundary";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contract {
    transcripts: BTreeMap<String, Vec<Value>>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    method: String,
    path: String,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    auth: Auth,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<Sent>,
    #[serde(default)]
    setup: Vec<Made>,
    #[serde(default)]
    needs: Option<String>,
    #[serde(default)]
    only: Option<Only>,
    expect: Expect,
    #[serde(default)]
    eventually: bool,
    #[serde(default)]
    then: Vec<Case>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Auth {
    #[default]
    Signed,
    None,
    Partial,
    BadExp,
    Expired,
    ExpiredForged,
    ForeignId,
    Forged,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    json: Option<Value>,
    text: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    multipart: Option<Vec<Part>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    filename: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    fill: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    path: String,
    #[serde(default)]
    directory: bool,
    text: Option<String>,
    base64: Option<String>,
    fill: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Only {
    side: Side,
    because: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Legacy,
    Ours,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    status: u16,
    body: Option<Value>,
    #[serde(default)]
    keys: Vec<String>,
    text: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Case {
    fn runs_on(&self, side: Side) -> bool {
        let lacks = self.needs.as_deref().is_some_and(|needs| !SIDECAR_HAS.contains(&needs));
        self.only.as_ref().is_none_or(|only| only.side == side) && (side == Side::Legacy || !lacks)
    }

    fn target(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.query);
        format!("{}?{}", self.path, query.finish())
    }
}

fn content(text: Option<&str>, base64: Option<&str>, fill: Option<usize>) -> Vec<u8> {
    match (text, base64, fill) {
        (Some(text), None, None) => text.as_bytes().to_vec(),
        (None, Some(base64), None) => STANDARD.decode(base64).expect("base64"),
        (None, None, Some(times)) => vec![b'x'; times],
        _ => panic!("content is one of text, base64 and fill: {text:?} {base64:?} {fill:?}"),
    }
}

/// Puts long texts where they are only named.
fn filled(value: &Value) -> Value {
    match value {
        Value::Object(members) => match members.get("$fill").and_then(Value::as_u64) {
            Some(times) => "x".repeat(usize::try_from(times).unwrap()).into(),
            None => members.iter().map(|(key, member)| (key.clone(), filled(member))).collect(),
        },
        Value::Array(elements) => elements.iter().map(filled).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

impl Sent {
    /// Content type and bytes.
    fn encode(&self) -> (Option<String>, Vec<u8>) {
        match (&self.json, &self.text, &self.multipart) {
            (Some(json), None, None) => {
                (Some("application/json".to_owned()), filled(json).to_string().into_bytes())
            }
            (None, Some(text), None) => {
                (self.kind.clone().or(Some("application/json".to_owned())), text.as_bytes().to_vec())
            }
            (None, None, Some(parts)) => form(parts),
            _ => panic!("a body is one of json, text and multipart: {self:?}"),
        }
    }
}

fn form(parts: &[Part]) -> (Option<String>, Vec<u8>) {
    let mut body = Vec::new();
    for part in parts {
        let mut head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{}\"", part.name);
        if let Some(filename) = &part.filename {
            head += &format!("; filename=\"{filename}\"");
        }
        if let Some(kind) = &part.kind {
            head += &format!("\r\nContent-Type: {kind}");
        }
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        body.extend(content(part.text.as_deref(), part.base64.as_deref(), part.fill));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (Some(format!("multipart/form-data; boundary={BOUNDARY}")), body)
}

struct Runner {
    side: Side,
    base: String,
    secret: Secret,
    user: UserId,
    http: reqwest::Client,
}

struct Reply {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Runner {
    fn proof(&self, auth: Auth) -> String {
        let expired = || {
            let keys = SigningKeys::new(self.secret.clone(), None);
            signed_url::sign(&keys, &self.user, UnixSeconds(1_700_000_000))
        };
        let signed = || sign(&self.secret, &self.user, 3600);
        match auth {
            Auth::Signed => signed(),
            Auth::None => String::new(),
            Auth::Partial => signed().split_once("&sig=").unwrap().0.to_owned(),
            Auth::BadExp => format!("userId={USER}&exp=soon&sig=x"),
            Auth::Expired => expired(),
            Auth::ExpiredForged => expired().replace(USER, OTHER_USER),
            Auth::ForeignId => "userId=abc123&exp=4102444800&sig=x".to_owned(),
            Auth::Forged => signed().replace(USER, OTHER_USER),
        }
    }

    async fn ask(&self, case: &Case) -> Result<Reply, String> {
        let target = case.target();
        let (path, query) = target.split_once('?').unwrap();
        let proof = self.proof(case.auth);
        let url = format!("{}{path}?{proof}{}{query}", self.base, if proof.is_empty() { "" } else { "&" });
        let mut request = self.http.request(case.method.parse().unwrap(), url.trim_end_matches(['?', '&']));
        for (name, value) in &case.headers {
            request = request.header(name, value);
        }
        if let Some(sent) = &case.body {
            let (kind, bytes) = sent.encode();
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            request = request.body(bytes);
        }
        // The proof stays out of the report.
        let said = |error: reqwest::Error| format!("no answer: {:?}", error.without_url());
        let answer = request.send().await.map_err(said)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.map_err(said)?.to_vec();
        Ok(Reply { status, headers, body })
    }

    /// Makes what a case wants to be there.
    async fn make(&self, made: &Made) -> Result<(), String> {
        let (path, body) = if made.directory {
            ("/api/files/mkdir", json!({"json": {"path": made.path}}))
        } else {
            let bytes = content(made.text.as_deref(), made.base64.as_deref(), made.fill);
            let file = json!({"name": "file", "filename": "x", "base64": STANDARD.encode(bytes)});
            ("/api/files/upload", json!({"multipart": [file, {"name": "path", "text": made.path}]}))
        };
        let case = json!({"method": "POST", "path": path, "body": body, "expect": {"status": 200}});
        self.check(&serde_json::from_value(case).unwrap()).await
    }

    /// Asks once and compares.
    async fn check(&self, case: &Case) -> Result<(), String> {
        let reply = self.ask(case).await?;
        let wrong = compare(&case.expect, &reply);
        if wrong.is_empty() {
            return Ok(());
        }
        let shown: String = String::from_utf8_lossy(&reply.body).chars().take(MAX_SHOWN_CHARS).collect();
        let wrong = wrong.join("\n    ");
        Err(format!("{} {}\n    {wrong}\n    answer: {} {shown}", case.method, case.target(), reply.status))
    }

    async fn run(&self, case: &Case) -> Result<(), String> {
        for made in &case.setup {
            self.make(made).await.map_err(|error| format!("setup of {}: {error}", made.path))?;
        }
        self.check(case).await?;
        for then in &case.then {
            let deadline = Instant::now() + if then.eventually { PATIENCE } else { Duration::ZERO };
            while let Err(error) = self.check(then).await {
                if Instant::now() >= deadline {
                    return Err(format!("then: {error}"));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Runs all cases of the side. The text is its report; how many failed.
    async fn run_all(&self, cases: &[Case]) -> (String, usize) {
        let (mut report, mut passed, mut failed) = (String::new(), 0, 0);
        for case in cases.iter().filter(|case| case.runs_on(self.side)) {
            match self.run(case).await {
                Ok(()) => passed += 1,
                Err(error) => {
                    failed += 1;
                    report += &format!("{:?} | {}\n  {error}\n", self.side, case.name);
                }
            }
        }
        let left_out = cases.len() - passed - failed;
        report += &format!("{:?}: {passed} passed, {failed} failed, {left_out} not for it\n", self.side);
        (report, failed)
    }
}

fn compare(expect: &Expect, reply: &Reply) -> Vec<String> {
    let mut wrong = Vec::new();
    if reply.status != expect.status {
        wrong.push(format!("status: expected {}, found {}", expect.status, reply.status));
    }
    for (name, expected) in &expect.headers {
        let found = reply.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into());
        differences(&format!("header {name}"), &expected.as_str().into(), found.as_ref(), &mut wrong);
    }
    if let Some(text) = &expect.text
        && reply.body != text.as_bytes()
    {
        wrong.push(format!("text: expected {text:?}"));
    }
    if let Some(body) = &expect.body {
        match serde_json::from_slice(&reply.body) {
            Ok(found) => differences("$", body, Some(&found), &mut wrong),
            Err(error) => wrong.push(format!("the answer is no JSON: {error}")),
        }
    }
    let text = String::from_utf8_lossy(&reply.body);
    let mut from = 0;
    for key in &expect.keys {
        let quoted = format!("\"{key}\":");
        match text[from..].find(&quoted) {
            Some(at) => from += at + quoted.len(),
            None => wrong.push(format!("key {key} is not where it should be: {:?}", expect.keys)),
        }
    }
    wrong
}

/// Says where `found` is not what is expected.
fn differences(at: &str, expected: &Value, found: Option<&Value>, wrong: &mut Vec<String>) {
    let mut complain = || {
        let found = found.map_or("nothing".to_owned(), ToString::to_string);
        let found: String = found.chars().take(MAX_SHOWN_CHARS).collect();
        wrong.push(format!("{at}: expected {expected}, found {found}"));
    };
    let text = expected.as_str().unwrap_or_default();
    let Some(found) = found else {
        if text != "$absent" {
            complain();
        }
        return;
    };
    match expected {
        Value::String(_) if text.starts_with('$') => {
            let holds = match text {
                "$any" => true,
                "$absent" => false,
                "$string" => found.is_string(),
                "$number" => found.is_number(),
                "$iso" => found.as_str().is_some_and(is_iso),
                _ => {
                    let part =
                        text.strip_prefix("$contains:").unwrap_or_else(|| panic!("no matcher: {text}"));
                    found.as_str().is_some_and(|found| found.contains(part))
                }
            };
            if !holds {
                complain();
            }
        }
        Value::Object(members) => match (members.get("$includes").and_then(Value::as_array), found) {
            (Some(elements), Value::Array(found)) => {
                for element in elements {
                    let equal = |candidate: &&Value| {
                        let mut wrong = Vec::new();
                        differences("", element, Some(candidate), &mut wrong);
                        wrong.is_empty()
                    };
                    if !found.iter().any(|candidate| equal(&candidate)) {
                        wrong.push(format!("{at}: no element is {element}"));
                    }
                }
            }
            (None, Value::Object(_)) => {
                for (key, member) in members {
                    differences(&format!("{at}.{key}"), member, found.get(key), wrong);
                }
            }
            _ => complain(),
        },
        Value::Array(elements) => match found.as_array().filter(|found| found.len() == elements.len()) {
            Some(found) => {
                for (index, (element, found)) in elements.iter().zip(found).enumerate() {
                    differences(&format!("{at}[{index}]"), element, Some(found), wrong);
                }
            }
            None => complain(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            if expected != found {
                complain();
            }
        }
    }
}

/// `2026-02-03T04:05:06.789Z`
fn is_iso(text: &str) -> bool {
    let like = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == like.len()
        && text.chars().zip(like.chars()).all(|(c, l)| if l == 'd' { c.is_ascii_digit() } else { c == l })
}

/// Puts the conversations into an agent's state directory.
fn put_transcripts(state: &Path, transcripts: &BTreeMap<String, Vec<Value>>) {
    let sessions = state.join("agents/main/sessions");
    std::fs::create_dir_all(&sessions).unwrap();
    let mut store = serde_json::Map::new();
    for (key, lines) in transcripts {
        let id = lines[0]["id"].as_str().expect("a transcript begins with its id");
        // With nothing but a beginning, the store knows of a transcript that is not there.
        if lines.len() > 1 {
            let lines: String = lines.iter().map(|line| format!("{}\n", filled(line))).collect();
            std::fs::write(sessions.join(format!("{id}.jsonl")), lines).unwrap();
        }
        store.insert(key.clone(), json!({"sessionId": id, "updatedAt": 1_767_225_600_000_u64}));
    }
    std::fs::write(sessions.join("sessions.json"), Value::Object(store).to_string()).unwrap();
}

fn contract() -> Contract {
    let path = tools().repository().join("testbed/contract/cases.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn contract_cases_are_well_formed() {
    let contract = contract();
    let mut names = BTreeSet::new();
    for case in &contract.cases {
        let name = &case.name;
        assert!(!name.is_empty() && names.insert(name), "a name is missing or doubled: {name:?}");
        let known = case.needs.as_deref().is_none_or(|needs| NEEDS.contains(&needs));
        assert!(known, "{name}: needs {:?}", case.needs);
        assert!(case.only.as_ref().is_none_or(|only| !only.because.is_empty()), "{name}: because of what?");
        let later_ones_are_plain = case.then.iter().all(|then| {
            then.name.is_empty()
                && then.setup.is_empty()
                && then.then.is_empty()
                && then.needs.is_none()
                && then.only.is_none()
        });
        assert!(later_ones_are_plain, "{name}: what follows is only asked and compared");
        // Without it, a case of files that ours is to pass would run before there are files.
        let about_files = case.path.contains("/api/files/") && case.method != "OPTIONS";
        let refused_before = case.expect.status == 401;
        let legacy_alone = case.only.as_ref().is_some_and(|only| only.side == Side::Legacy);
        assert!(
            !about_files || refused_before || legacy_alone || case.needs.as_deref() == Some("files"),
            "{name}: needs files"
        );
    }
}

#[test]
fn contract_matchers_tell_what_is_wrong() {
    for (expected, found, complaints) in [
        (json!({"a": 1}), json!({"a": 1, "b": 2}), 0),
        (json!({"a": 1, "b": 1}), json!({"a": 2}), 2),
        (json!({"a": "$absent"}), json!({"a": null}), 1),
        (json!({"a": "$any"}), json!({"a": null}), 0),
        (json!({"a": "$any"}), json!({}), 1),
        (json!([{}, {}]), json!([{"a": 1}]), 1),
        (json!({"$includes": [{"n": 2}]}), json!([{"n": 1}, {"n": 2, "m": 3}]), 0),
        (json!({"$includes": [{"n": 3}]}), json!([{"n": 1}]), 1),
        (json!(["$iso", "$number", "$string"]), json!(["2026-02-03T04:05:06.789Z", 1, ""]), 0),
        (json!(["$iso", "$number", "$string"]), json!(["2026-02-03T04:05:06Z", "1", 1]), 3),
        (json!("$contains:b"), json!("abc"), 0),
        (json!("$contains:b"), json!("ac"), 1),
    ] {
        let mut wrong = Vec::new();
        differences("$", &expected, Some(&found), &mut wrong);
        assert_eq!(wrong.len(), complaints, "{expected} {found}: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_holds_on_both_back_ends() {
    let contract = contract();
    let dir = tempfile::tempdir().unwrap();
    let spec = SystemSpec {
        dir: dir.path().to_owned(),
        user: user(USER),
        sidecar: sidecar(),
        edge_vars: BTreeMap::default(),
        machine_env: BTreeMap::default(),
        legacy_sleeps_after: None,
        legacy_cold_start: Duration::ZERO,
    };
    let system = System::start(&tools(), spec, |_| {}).await.unwrap();
    system.change_policy(json!({"default": "fly"})).await.unwrap();
    put_transcripts(&agent::state_dir(&system.legacy.container_dir(&system.user)), &contract.transcripts);
    put_transcripts(&system.machine.state_dir(), &contract.transcripts);

    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let (mut reports, mut failures) = (String::new(), 0);
    for (side, base) in [(Side::Legacy, system.legacy.url()), (Side::Ours, system.edge.url().to_owned())] {
        let requests = system.legacy.stats().requests;
        let secret = system.secrets.signing.clone();
        let runner = Runner { side, base, secret, user: system.user.clone(), http: http.clone() };
        let (report, failed) = runner.run_all(&contract.cases).await;
        reports += &report;
        failures += failed;
        if side == Side::Ours {
            assert_eq!(system.legacy.stats().requests, requests, "ours is not answered by legacy");
        }
    }
    println!("{reports}");
    assert_eq!(failures, 0, "\n{reports}");
    system.stop().await.unwrap();
}
