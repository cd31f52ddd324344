//! What the dashboard calls: whose tokens are believed, and what they get.

use serde_json::{Value, json};
use shared::id::Backend;
use shared::signed_url::{Presented, SignedQuery};
use shared::time::UnixSeconds;
use testbed::legacy::now;
use testbed::workerd::EdgeSpec;

use crate::support::{Bed, error_body, eventually, keys, user};
use crate::tokens::{ISSUER, Key, PARTY, claims, hs256, unsigned};

const USER: &str = "user_abc123";
const OTHER: &str = "user_other";
const SERVICE: &str = "test-dashboard-bearer";
const READY: &str = r#"{"ok":true,"status":"running","draining":false}"#;

/// The edge with the public halves of `ours`.
async fn bed_with(ours: &[&Key], change: impl FnOnce(&mut EdgeSpec)) -> Bed {
    let jwks = json!({"keys": ours.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string();
    Bed::with(|spec| {
        let vars = [
            ("CLERK_JWKS", jwks.as_str()),
            ("CLERK_ISSUER", ISSUER),
            ("CLERK_AUTHORIZED_PARTIES", PARTY),
            ("DASHBOARD_BEARER", SERVICE),
        ];
        spec.vars.extend(vars.map(|(name, value)| (name.to_owned(), value.to_owned())));
        change(spec);
    })
    .await
}

impl Bed {
    async fn call(&self, path: &str, bearer: &str) -> reqwest::Response {
        let request = self.http.get(self.url(path)).header("origin", PARTY);
        request.bearer_auth(bearer).send().await.unwrap()
    }

    /// The JSON of a call that succeeds.
    async fn called(&self, path: &str, bearer: &str) -> Value {
        let response = self.call(path, bearer).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Renews the proof in `query`.
    async fn renew(&self, query: &str) -> Value {
        let response = self.get(&format!("/api/user/gateway/renew?{query}")).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The proof in a gateway URL, and until when it holds. It has to be good for `who`, and for nobody else.
fn proof(gateway_url: &Value, who: &str) -> (String, u64) {
    let (_, query) = gateway_url.as_str().unwrap().split_once("/ws?").unwrap();
    let Presented::Whole(signed) = SignedQuery::read(query) else { panic!("no proof in {gateway_url}") };
    let verified = shared::signed_url::verify(&keys(), &signed, now()).unwrap();
    assert_eq!(verified.user(), &user(who));
    (query.to_owned(), verified.expires().0)
}

/// `base` with one member replaced, or removed by `null`.
fn with(mut base: Value, name: &str, value: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    base
}

#[tokio::test]
async fn wrong_and_foreign_tokens_are_refused_and_reach_nobody() {
    let (ours, second, foreign) = (Key::generate("ours"), Key::generate("second"), Key::generate("ours"));
    let bed = bed_with(&[&ours, &second], |_| {}).await;
    let good = ours.token(&claims(USER));
    let at = now().floor_seconds().0;
    let header = |alg: &str| json!({"alg": alg, "kid": "ours", "typ": "JWT"});
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let other_body = ours.token(&claims(OTHER)).split('.').nth(1).unwrap().to_owned();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let rows: Vec<(&str, String, &str)> = vec![
        ("algorithm none", format!("{}.", unsigned(&header("none"), &claims(USER))), "token_algorithm"),
        ("none, with a signature", ours.sign(&header("none"), &claims(USER)), "token_algorithm"),
        ("HS256 under the public key", hs256("ours", &ours.public_pem, &claims(USER)), "token_algorithm"),
        (
            "HS256 under its modulus",
            hs256("ours", ours.jwk()["n"].as_str().unwrap(), &claims(USER)),
            "token_algorithm",
        ),
        ("RS512 by name", ours.sign(&header("RS512"), &claims(USER)), "token_algorithm"),
        ("another key under our id", foreign.token(&claims(USER)), "token_signature"),
        ("our other key under this id", second.sign(&header("RS256"), &claims(USER)), "token_signature"),
        (
            "an unknown key id",
            ours.sign(&json!({"alg": "RS256", "kid": "unknown"}), &claims(USER)),
            "token_key_unknown",
        ),
        ("no key id", ours.sign(&json!({"alg": "RS256"}), &claims(USER)), "token_key_unknown"),
        (
            "a key that it brings along",
            foreign.sign(
                &json!({"alg": "RS256", "kid": "ours", "jwk": foreign.jwk(), "jku": "http://127.0.0.1:1/"}),
                &claims(USER),
            ),
            "token_signature",
        ),
        (
            "an access token for another application",
            ours.sign(&json!({"alg": "RS256", "kid": "ours", "typ": "at+jwt"}), &claims(USER)),
            "token_type",
        ),
        (
            "another's claims under our signature",
            format!("{head}.{other_body}.{signature}"),
            "token_signature",
        ),
        ("a changed signature", format!("{head}.{body}.{flipped}{}", &signature[1..]), "token_signature"),
        ("no signature", format!("{head}.{body}."), "token_signature"),
        ("two parts", format!("{head}.{body}"), "token_malformed"),
        ("no token", "x".to_owned(), "token_malformed"),
        ("too long", "x".repeat(9000), "token_too_long"),
        (
            "another issuer",
            ours.token(&with(claims(USER), "iss", json!("https://clerk.evil.example"))),
            "token_issuer",
        ),
        (
            "another party",
            ours.token(&with(claims(USER), "azp", json!("https://evil.example"))),
            "token_party",
        ),
        ("no party", ours.token(&with(claims(USER), "azp", Value::Null)), "token_party"),
        ("expired", ours.token(&with(claims(USER), "exp", json!(at - 60))), "token_expired"),
        ("without an end", ours.token(&with(claims(USER), "exp", Value::Null)), "token_claims"),
        ("not yet valid", ours.token(&with(claims(USER), "nbf", json!(at + 600))), "token_not_yet_valid"),
        ("from the future", ours.token(&with(claims(USER), "iat", json!(at + 600))), "token_not_yet_valid"),
        ("signed in by half", ours.token(&with(claims(USER), "sts", json!("pending"))), "token_pending"),
        ("no user", ours.token(&with(claims(USER), "sub", json!("org_1"))), "token_subject"),
        ("the service's, but for a letter", SERVICE.replace('t', "T"), "token_malformed"),
    ];
    for (name, token, code) in &rows {
        for path in ["/api/user/gateway", "/api/user/health", "/api/user/gateway?userId=user_abc123"] {
            let response = bed.call(path, token).await;
            assert_eq!(response.status(), 401, "{name} {path}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer", "{name}");
            assert_eq!(response.headers()["access-control-allow-origin"], PARTY, "the page may read why");
            let body = error_body(response).await;
            assert_eq!((&body["error"], &body["code"]), (&json!("Unauthorized"), &json!(code)), "{name}");
        }
    }
    let without = bed.get("/api/user/gateway").await;
    assert_eq!(without.status(), 401);
    assert_eq!(error_body(without).await["code"], "missing_token");
    // A signed URL is no session: it opens the agent, not the account.
    let signed = bed.get(&bed.signed("/api/user/gateway", USER)).await;
    assert_eq!(error_body(signed).await["code"], "missing_token");
    assert_eq!((bed.legacy.count(), bed.machine.count()), (0, 0), "nothing was forwarded");

    // The good ones pass, by either key, and again with the key that was imported.
    for token in [&good, &good, &second.token(&claims(USER))] {
        bed.called("/api/user/gateway", token).await;
    }
}

#[tokio::test]
async fn a_users_token_reads_nothing_of_anothers() {
    let ours = Key::generate("ours");
    let bed = bed_with(&[&ours], |_| {}).await;
    bed.machine.says_of_its_agent(READY);
    bed.put_on_fly(OTHER).await;
    let token = ours.token(&claims(USER));
    for path in ["/api/user/gateway", "/api/user/health"] {
        for query in ["userId=user_other", "userId=user_abc123&userId=user_other", "%75serId=user_other"] {
            let response = bed.call(&format!("{path}?{query}"), &token).await;
            assert_eq!(response.status(), 403, "{path}?{query}");
            assert_eq!(error_body(response).await["code"], "foreign_user");
        }
        let own = bed.called(&format!("{path}?userId={USER}"), &token).await;
        assert_eq!(own.get("appName"), None, "the other one has a machine, this one has not: {own}");
    }
    // Another user's proof in the URL changes nothing.
    let with_proof = bed.call(&bed.signed("/api/user/gateway", OTHER), &token).await;
    assert_eq!(with_proof.status(), 403);

    // The service may ask for anybody, one at a time.
    let other = bed.called(&format!("/api/user/gateway?userId={OTHER}"), SERVICE).await;
    assert_eq!((&other["userId"], &other["appName"]), (&json!(OTHER), &json!("app-1")));
    proof(&other["gatewayUrl"], OTHER);
    for query in ["", "?userId=", "?userId=root", "?userId=user_abc123&userId=user_other"] {
        let response = bed.call(&format!("/api/user/gateway{query}"), SERVICE).await;
        assert_eq!(response.status(), 400, "{query}");
    }
}

#[tokio::test]
async fn the_gateway_url_opens_the_users_agent_on_either_side() {
    let ours = Key::generate("ours");
    let bed = bed_with(&[&ours], |_| {}).await;
    let token = ours.token(&claims(USER));
    let legacy = bed.called("/api/user/gateway", &token).await;
    assert_eq!((&legacy["backend"], &legacy["sessionKey"]), (&json!("legacy"), &json!("agent:main:main")));
    let (query, expires) = proof(&legacy["gatewayUrl"], USER);
    let left = expires - now().floor_seconds().0;
    assert!((3500..=3600).contains(&left), "{left} s");
    assert_eq!(bed.get(&format!("/x?{query}")).await.text().await.unwrap(), "Legacy");

    bed.machine.says_of_its_agent(READY);
    bed.put_on_fly(USER).await;
    let fly = bed.called("/api/user/gateway", &token).await;
    assert_eq!(fly["backend"], serde_json::to_value(Backend::Fly).unwrap());
    assert_eq!((&fly["appName"], &fly["machineId"]), (&json!("app-1"), &json!("m1")));
    assert_eq!((&fly["userId"], &fly["machineStatus"]), (&json!(USER), &json!("started")));
    assert_eq!(fly["httpUrl"], bed.edge.url());
    let (query, _) = proof(&fly["gatewayUrl"], USER);
    let base = fly["httpUrl"].as_str().unwrap();
    let answer = bed.http.get(format!("{base}/x?{query}")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "Machine");
    let seen = bed.machine.seen();
    let probes: Vec<_> = seen.iter().filter(|seen| seen.target == "/api/status").collect();
    assert!(!probes.is_empty() && probes.iter().all(|seen| seen.headers.contains_key("x-automna-ticket")));
    assert!(probes.iter().all(|seen| !seen.headers.contains_key("authorization")), "no token on the machine");
    assert!(bed.legacy.seen().iter().all(|seen| !seen.target.starts_with("/api/user")));
}

#[tokio::test]
async fn an_agent_that_is_not_there_yet_is_a_503_with_its_stage() {
    let ours = Key::generate("ours");
    let bed = bed_with(&[&ours], |_| {}).await;
    let token = ours.token(&claims(USER));
    let expect = async |status: &'static str| {
        eventually(status, async || {
            let response = bed.call("/api/user/gateway", &token).await;
            if response.status() != 503 {
                return false;
            }
            assert_eq!(response.headers()["retry-after"], "2");
            let body = error_body(response).await;
            let needs = body.get("needsProvisioning").is_some();
            assert_eq!(needs, body["status"] == "not_provisioned", "{body}");
            body["status"] == status
        })
        .await;
        let health = bed.called("/api/user/health", &token).await;
        assert_eq!((&health["ready"], &health["status"]), (&json!(false), &json!(status)));
    };
    let health = bed.called("/api/user/health", &token).await;
    assert_eq!(health, json!({"ready": true, "status": "on_demand"}), "the old side wakes up by itself");

    bed.policy(json!({"default": "fly"})).await;
    expect("not_provisioned").await;
    // The sidecar answers; its answer is not the agent's.
    bed.machine.says_of_its_agent(r#"{"ok":false,"status":"not_running","draining":false}"#);
    bed.attach(USER).await;
    expect("waiting_for_gateway").await;
    bed.machine.says_of_its_agent("<!doctype html><title>200 is not health</title>");
    expect("waiting_for_gateway").await;
    bed.machine.says_of_its_agent(r#"{"ok":true,"status":"running","draining":true}"#);
    expect("starting").await;
    bed.machine.says_of_its_agent(READY);
    let ready = json!({"ready": true, "status": "ready", "appName": "app-1"});
    assert_eq!(bed.called("/api/user/health", &token).await, ready);
    bed.called("/api/user/gateway", &token).await;

    // A machine that nobody reaches.
    let unreachable = |spec: &mut EdgeSpec| {
        spec.vars.insert("MACHINE_ORIGIN".into(), "http://127.0.0.1:1".into());
    };
    let bed = bed_with(&[&ours], unreachable).await;
    bed.attach(USER).await;
    bed.policy(json!({"default": "fly"})).await;
    eventually("the machine is missed", async || {
        bed.called("/api/user/health", &token).await["status"] == "starting"
    })
    .await;
    assert_eq!(bed.call("/api/user/gateway", &token).await.status(), 503);
}

#[tokio::test]
async fn a_url_is_renewed_while_it_holds_and_for_a_day() {
    let ours = Key::generate("ours");
    let bed = bed_with(&[&ours], |_| {}).await;
    let sign = |at: u64| shared::signed_url::sign(&keys(), &user(USER), UnixSeconds(at));
    let at = now().floor_seconds().0;

    // One that the dashboard has signed itself, with five minutes left.
    let renewed = bed.renew(&sign(at + 300)).await;
    let (query, expires) = proof(&renewed["gatewayUrl"], USER);
    assert!(expires > at + 3500, "{renewed}");
    assert_eq!(renewed["expiresAt"], expires);
    assert_eq!(bed.get(&format!("/x?{query}")).await.text().await.unwrap(), "Legacy", "it opens the agent");
    // Its chain began when the first one was signed, and renewing does not move that.
    let end = at + 300 - 3600 + 86_400;
    assert_eq!(renewed["renewableUntil"], end);
    let again = bed.renew(&query).await;
    assert_eq!(again["renewableUntil"], end, "{again}");
    // The link that came along is the same call.
    let link = again["renewUrl"].as_str().unwrap();
    let third: Value = bed.http.get(link).send().await.unwrap().json().await.unwrap();
    assert_eq!(third["renewableUntil"], end, "{third}");

    let expired = bed.get(&format!("/api/user/gateway/renew?{}", sign(at - 1))).await;
    assert_eq!(expired.status(), 401);
    assert_eq!(error_body(expired).await["code"], "url_expired");
    let forged = sign(at + 300).replace(USER, OTHER);
    let forged = bed.get(&format!("/api/user/gateway/renew?{forged}")).await;
    assert_eq!(error_body(forged).await["code"], "invalid_signature");
    // Neither a token nor the cookie stands in for the URL.
    let token = bed.call("/api/user/gateway/renew", &ours.token(&claims(USER))).await;
    assert_eq!(error_body(token).await["code"], "missing_params");
    let page = bed.http.get(bed.url(&bed.signed("/page", USER))).header("accept", "text/html");
    let page = page.send().await.unwrap();
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let by_cookie = bed.http.get(bed.url("/api/user/gateway/renew")).header("cookie", cookie);
    assert_eq!(error_body(by_cookie.send().await.unwrap()).await["code"], "missing_params");
}

#[tokio::test]
async fn the_routes_are_there_for_pages_of_the_dashboard_and_closed_unless_configured() {
    let ours = Key::generate("ours");
    let bed = bed_with(&[&ours], |_| {}).await;
    let preflight = bed.http.request("OPTIONS".parse().unwrap(), bed.url("/api/user/gateway"));
    let preflight =
        preflight.header("origin", PARTY).header("access-control-request-headers", "authorization");
    let preflight = preflight.send().await.unwrap();
    assert_eq!(
        (preflight.status().as_u16(), &preflight.headers()["access-control-allow-origin"]),
        (204, &PARTY.parse().unwrap())
    );
    let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("Authorization"), "{allowed}");
    let token = ours.token(&claims(USER));
    let answer = bed.call("/api/user/gateway", &token).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], PARTY);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let foreign = bed.http.get(bed.url("/api/user/gateway")).header("origin", "https://evil.example");
    let foreign = foreign.bearer_auth(&token).send().await.unwrap();
    assert!(!foreign.headers().contains_key("access-control-allow-origin"));
    let post = bed.http.post(bed.url("/api/user/gateway")).bearer_auth(&token).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET"));
    for path in ["/api/user", "/api/user/", "/api/user/sessions", "/api/user/gateway/x"] {
        assert_eq!(bed.call(&bed.signed(path, USER), &token).await.status(), 404, "{path}");
    }

    let bed = bed_with(&[&ours], |spec| {
        for name in ["CLERK_JWKS", "DASHBOARD_BEARER"] {
            spec.vars.remove(name);
        }
    })
    .await;
    for bearer in [token.as_str(), SERVICE, "x"] {
        let response = bed.call("/api/user/gateway?userId=user_abc123", bearer).await;
        assert_eq!(response.status(), 503);
        assert_eq!(error_body(response).await["code"], "not_configured", "{bearer}");
    }
}
