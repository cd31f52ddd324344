//! Whether answers are what the description says. [`crate::harness`] asks this of every answer that any test gets.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::{Answer, Sidecar};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../openapi.json")).unwrap());

/// By operation, status and media type.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Validator>>> = LazyLock::new(Mutex::default);

/// What other headers an answer has is no matter of the operation.
const GENERAL: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
    "x-automna-sidecar",
    "x-automna-refusal",
    "x-request-id",
    "cache-control",
    "x-content-type-options",
    "content-security-policy",
];

/// The description's name of the path in `target`.
fn template(target: &str) -> Option<&'static str> {
    let path = target.split('?').next().unwrap();
    let path = match path.strip_prefix("/ws") {
        Some(rest) if path != "/ws/api/history" => rest,
        _ => path,
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let exact = paths.keys().find(|known| *known == path);
    let found = exact.or_else(|| {
        paths.keys().find(|known| {
            let open = known.split_once('{').filter(|_| !path.ends_with('/'));
            open.is_some_and(|(before, name)| {
                let rest = path.strip_prefix(before).unwrap_or_default();
                !rest.is_empty() && (name == "path}" || !rest.contains('/'))
            })
        })
    });
    found.map(String::as_str)
}

/// Compares an answer with the description. Paths that are not ours pass.
#[track_caller]
pub(crate) fn check(method: &str, target: &str, headers: &[(&str, &str)], answer: &Answer) {
    let Some(path) = template(target) else { return };
    let spelt = headers.iter().find(|(name, _)| *name == "x-http-method-override");
    let method = spelt.map_or(method, |(_, method)| method).to_lowercase();
    let item = &DOCUMENT["paths"][path];
    // A HEAD is a GET without the body, unless it is described.
    let operation = item.get(&method).or_else(|| item.get("get").filter(|_| method == "head"));
    let (name, status) = (format!("{method} {path}"), answer.status());
    let Some(operation) = operation else {
        assert!(matches!(status, 401 | 405 | 409 | 412), "{name} is not described, and answers {status}");
        return;
    };
    if status == 405 {
        return;
    }
    let response = &operation["responses"][status.to_string()];
    assert!(!response.is_null(), "{name}: {status} is not described: {:?}", answer.body);
    let response = match response["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(&reference[1..]).unwrap(),
        None => response,
    };
    for header in answer.head.headers().keys().map(http::HeaderName::as_str) {
        let mut known = response["headers"].as_object().into_iter().flatten().map(|(known, _)| known);
        let is_described = known.any(|known| known.eq_ignore_ascii_case(header));
        assert!(is_described || GENERAL.contains(&header), "{name}: {status} has a header {header}");
    }
    if answer.body.is_empty() {
        return;
    }
    let media_type = answer.header("content-type").unwrap().split(';').next().unwrap();
    let content = response["content"].as_object();
    let content = content.unwrap_or_else(|| panic!("{name}: {status} has a body: {:?}", answer.body));
    let content = content.get(media_type).or_else(|| content.get("*/*"));
    let content = content.unwrap_or_else(|| panic!("{name}: {status} is of type {media_type}"));
    let Some(schema) = content.get("schema") else { return };

    let mut validators = VALIDATORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let validator = validators.entry(format!("{name} {status} {media_type}")).or_insert_with(|| {
        // What is not described must not be there.
        let components = &DOCUMENT["components"];
        let mut whole = json!({ "allOf": [schema], "components": components });
        if schema["$ref"] != "#/components/schemas/Description" {
            whole["unevaluatedProperties"] = false.into();
        }
        jsonschema::validator_for(&whole).unwrap()
    });
    let body = serde_json::from_slice(&answer.body).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&body).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{name}: {status} is not as described: {faults:#?}\n{body:#}");
}

#[tokio::test]
async fn what_is_served_is_what_is_checked_in() {
    let (sidecar, _gateway) = Sidecar::start().await;
    for target in ["/api/openapi.json", "/ws/api/openapi.json"] {
        assert_eq!(sidecar.get(target).await.json(), *DOCUMENT, "{target}");
    }
    sidecar.send("GET", "/api/openapi.json", &[]).await.assert_error(401, "ticket_missing");
}

/// Every method that is described is taken, and no other.
#[tokio::test]
async fn methods_are_those_of_the_description() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        // With a cursor that is none: else the stream of events would begin, which has no end.
        let target = path.replace("{path}", "none").replace("{id}", "none") + "?cursor=none";
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let asked = method.to_lowercase();
            let described = item.get(&asked).is_some() || asked == "head" && item.get("get").is_some();
            // Not the protocol's version: else an upload would begin.
            let answer = sidecar.call(method, &target, &[("content-type", "none/none")], "").await;
            let taken = answer.status() != 405;
            // tus refuses who does not speak it before it looks at the method.
            assert!(taken == described || answer.status() == 412, "{method} {target}: {}", answer.status());
        }
    }
}

#[tokio::test]
async fn conditional_headers_on_the_json_routes() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let write = |content: &str| json!({"path": "/root/clawd/a", "content": content}).to_string();
    let post = async |headers: &[(&str, &str)], content: &str| {
        sidecar.post("/api/files/write", headers, &write(content)).await
    };
    let etag = post(&[("if-none-match", "*")], "one").await.json()["etag"].as_str().unwrap().to_owned();
    post(&[("if-none-match", "*")], "two").await.assert_error(412, "precondition_failed");
    post(&[("if-match", "\"x\"")], "two").await.assert_error(412, "precondition_failed");
    post(&[("if-match", "x")], "two").await.assert_error(400, "bad_precondition");
    post(&[("x-require-precondition", "1")], "two").await.assert_error(428, "precondition_required");
    let both = json!({"path": "/root/clawd/a", "content": "two", "ifMatch": "\"x\""}).to_string();
    let refused = sidecar.post("/api/files/write", &[("if-match", &etag)], &both).await;
    refused.assert_error(412, "precondition_failed");
    let field = json!({"path": "/root/clawd/a", "content": "two", "ifMatch": etag}).to_string();
    let required = [("x-require-precondition", "1")];
    assert_eq!(sidecar.post("/api/files/write", &required, &field).await.status(), 200);
    let old = etag;
    let read = sidecar.get("/api/files/read?path=/root/clawd/a").await.json();
    let etag = read["etag"].as_str().unwrap();
    assert_eq!(read["content"], "two");

    let ends = json!({"from": "/root/clawd/a", "to": "/root/clawd/b"}).to_string();
    let go = async |headers: &[(&str, &str)]| sidecar.post("/api/files/move", headers, &ends).await;
    go(&[("if-match", &old)]).await.assert_error(412, "precondition_failed");
    go(&[("if-none-match", "\"x\"")]).await.assert_error(400, "bad_precondition");
    assert_eq!(go(&[("if-match", etag), ("if-none-match", "*")]).await.status(), 200);
    post(&[], "two").await;
    go(&[("if-none-match", "*")]).await.assert_error(412, "precondition_failed");

    let delete = async |headers: &[(&str, &str)], query: &str| {
        let target = format!("/api/files?path=/root/clawd/b{query}");
        sidecar.call("DELETE", &target, headers, "").await
    };
    delete(&[("if-match", &old)], "").await.assert_error(412, "precondition_failed");
    delete(&[("if-match", &old)], "&permanent=true").await.assert_error(412, "precondition_failed");
    delete(&[("x-require-precondition", "1")], "").await.assert_error(428, "precondition_required");
    assert_eq!(delete(&[("if-match", etag)], "&permanent=true").await.status(), 200);
}

#[test]
fn a_wrong_answer_is_noticed() {
    let answer = |status: u16, header: &str, body: &Value| {
        let head = http::Response::builder().status(status).header(header, "1");
        let head = head.header("content-type", "application/json").body(()).unwrap();
        Answer { head, body: body.to_string().into() }
    };
    let good = json!({"success": true, "path": "/root/clawd/a"});
    let rows = [
        (answer(200, "date", &good), true),
        (answer(201, "date", &good), false),
        (answer(200, "x-new", &good), false),
        (answer(200, "date", &json!({"success": true})), false),
        (answer(200, "date", &json!({"success": 1, "path": "/root/clawd/a"})), false),
        (answer(200, "date", &json!({"success": true, "path": "/etc/a"})), false),
        (answer(200, "date", &json!({"success": true, "path": "/root/clawd/a", "new": 1})), false),
    ];
    for (n, (answer, expect)) in rows.into_iter().enumerate() {
        let checked = std::panic::AssertUnwindSafe(|| check("POST", "/ws/api/files/mkdir?x=1", &[], &answer));
        let checked = std::panic::catch_unwind(checked);
        assert_eq!(checked.is_ok(), expect, "row {n}");
    }
}
