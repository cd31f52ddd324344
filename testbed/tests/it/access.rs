//! Who gets through, and that nobody else reaches a back end.

use crate::support::{Bed, error_body, keys, query, user};
use shared::id::{Backend, Generation};
use shared::secret::Secret;
use shared::ticket::{self, Audience};
use testbed::legacy::now;
use testbed::system::sign;

const USER: &str = "user_abc123";
const COOKIE: &str = "__Host-automna_session";

/// A query with one part replaced.
fn with(part: &str, value: &str) -> String {
    let good = query(USER);
    let pairs: Vec<String> =
        good.split('&')
            .map(|pair| {
                if pair.starts_with(&format!("{part}=")) {
                    format!("{part}={value}")
                } else {
                    pair.to_owned()
                }
            })
            .collect();
    pairs.join("&")
}

fn part(of: &str, name: &str) -> String {
    of.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap().to_owned()
}

#[tokio::test]
async fn bad_credentials_get_the_contracts_401_and_reach_nobody() {
    let bed = Bed::start().await;
    bed.attach(USER).await;
    let good = query(USER);
    let sig = part(&good, "sig");
    let other_secret = sign(&Secret::new("another").unwrap(), &user(USER), 3600);
    let expired = {
        let keys = keys();
        let at = now().floor_seconds().0 - 10;
        shared::signed_url::sign(&keys, &user(USER), shared::time::UnixSeconds(at))
    };
    let rows: Vec<(&str, String, &str)> = vec![
        ("foreign secret", other_secret, "Invalid signature"),
        ("foreign user", with("userId", "user_other"), "Invalid signature"),
        ("expired", expired, "URL expired"),
        ("expired forgery", "userId=x&exp=1&sig=y".into(), "URL expired"),
        ("later expiry", with("exp", "4102444800"), "Invalid signature"),
        ("exp with a tail", with("exp", "4102444800abc"), "Invalid exp format"),
        ("exp with a dot", with("exp", "9999999999.1700000000"), "Invalid exp format"),
        ("exp too long", with("exp", "4102444800000"), "Invalid exp format"),
        ("tampered signature", with("sig", &flip_first(&sig)), "Invalid signature"),
        ("truncated signature", with("sig", &sig[..42]), "Invalid signature"),
        ("signature twice over", with("sig", &format!("{sig}{sig}")), "Invalid signature"),
        ("all doubled", format!("{good}&{good}"), "Invalid signature"),
        ("second user behind", format!("{good}&userId=user_other"), "Invalid signature"),
        ("second user in front", format!("userId=user_other&{good}"), "Invalid signature"),
        ("second signature", format!("{good}&sig=x"), "Invalid signature"),
        ("user not UTF-8", with("userId", "user_%ff%fe"), "Invalid userId format"),
        ("signature not UTF-8", with("sig", "%ff%fe"), "Invalid signature"),
        ("user with a slash", with("userId", "user_a%2F..%2Fb"), "Invalid userId format"),
        ("user with a NUL", with("userId", "user_a%00"), "Invalid userId format"),
        ("no user at all", with("userId", "abc123"), "Invalid userId format"),
        ("over-long user", with("userId", &format!("user_{}", "a".repeat(5000))), "Invalid userId format"),
        ("over-long signature", with("sig", &"A".repeat(15_000)), "Invalid signature"),
    ];
    for (name, bad, details) in &rows {
        for path in ["/", "/ws", "/api/files/list", "/api/keepalive"] {
            let response = bed.get(&format!("{path}?{bad}")).await;
            assert_eq!(response.status(), 401, "{name} {path}");
            let body = error_body(response).await;
            assert_eq!(
                (body["error"].as_str(), body["details"].as_str()),
                (Some("Unauthorized"), Some(*details)),
                "{name}"
            );
        }
        let upgrade = bed
            .http
            .get(bed.url(&format!("/ws?{bad}")))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(upgrade.send().await.unwrap().status(), 401, "{name}");
    }
    // As a cookie, they are worth no more.
    for value in [
        "",
        "x",
        "a.b.c",
        &format!("{USER}.4102444800.{sig}"),
        &format!("user_other.{}.{sig}", part(&good, "exp")),
    ] {
        let response =
            bed.http.get(bed.url("/")).header("cookie", format!("{COOKIE}={value}")).send().await.unwrap();
        assert_eq!(response.status(), 401, "{value}");
    }
    assert_eq!((bed.legacy.count(), bed.machine.count()), (0, 0), "nothing was forwarded");

    assert_eq!(bed.get(&format!("/?{good}")).await.status(), 200, "and the good one passes");
    assert_eq!(bed.legacy.count(), 1);
}

fn flip_first(sig: &str) -> String {
    let first = if sig.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &sig[1..])
}

#[tokio::test]
async fn routes_without_a_proof_say_what_the_contract_says() {
    let bed = Bed::start().await;
    let rows = [
        ("/api/history", 401, "Missing auth params (userId, exp, sig)"),
        ("/api/keepalive", 401, "Missing auth params"),
        ("/ws/api/history", 401, "Not authenticated"),
        ("/ws/api/history?sessionKey=a:b", 400, "Invalid session key"),
        ("/api/reset-workspace", 401, "Not authenticated"),
        ("/api/files/list", 401, "Unauthorized"),
        ("/ws", 401, "Unauthorized"),
        ("/", 401, "Unauthorized"),
        ("/debug/cli?cmd=id", 404, "Not found"),
        ("/api/admin/devices", 404, "Not found"),
    ];
    for (path, status, error) in rows {
        let response = bed.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(error_body(response).await["error"], error, "{path}");
    }
    // Closed to users whatever they sign.
    for path in ["/debug/cli", "/%64ebug/cli", "/_admin/", "/api/admin/storage", "/cdp"] {
        assert_eq!(bed.get(&bed.signed(path, USER)).await.status(), 404, "{path}");
    }
    assert_eq!((bed.legacy.count(), bed.machine.count()), (0, 0));
    let health = bed.get("/sandbox-health").await;
    assert_eq!(
        health.text().await.unwrap(),
        r#"{"status":"ok","service":"moltbot-sandbox","gateway_port":18789}"#
    );
}

#[tokio::test]
async fn a_page_load_leaves_a_session_that_works_from_our_pages_only() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let page = bed
        .http
        .get(bed.url(&bed.signed("/page", USER)))
        .header("accept", "text/html,*/*")
        .send()
        .await
        .unwrap();
    let set = page.headers()["set-cookie"].to_str().unwrap().to_owned();
    for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert_eq!(page.headers()["referrer-policy"], "no-referrer");
    assert_eq!(page.text().await.unwrap(), "<p>page</p>");
    let cookie = set.split(';').next().unwrap();

    let before = bed.machine.count();
    let ask = |method: &str, origin: Option<&str>, upgrade: bool| {
        let mut request = bed.http.request(method.parse().unwrap(), bed.url("/x")).header("cookie", cookie);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if upgrade {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let own = bed.edge.url().to_owned();
    assert_eq!(ask("GET", None, false).await, 200);
    assert_eq!(ask("POST", Some(&own), false).await, 200);
    assert_eq!(ask("POST", Some("https://automna.ai"), false).await, 200);
    // The upstream is no WebSocket server: 200 means that the upgrade was let through to it.
    assert_eq!(ask("GET", Some(&own), true).await, 200);
    assert_eq!(bed.machine.count(), before + 4);
    assert_eq!(ask("POST", None, false).await, 403);
    assert_eq!(ask("POST", Some("https://evil.example"), false).await, 403);
    assert_eq!(ask("DELETE", Some("null"), false).await, 403);
    assert_eq!(ask("GET", Some("https://evil.example"), true).await, 403);
    assert_eq!(ask("GET", None, true).await, 403);
    assert_eq!(bed.machine.count(), before + 4);

    let session = |method: &str| {
        bed.http.request(method.parse().unwrap(), bed.url("/_edge/session")).header("cookie", cookie)
    };
    assert_eq!(session("GET").send().await.unwrap().status(), 204);
    let gone = session("DELETE").header("origin", &own).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    assert!(gone.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn a_machine_sees_a_ticket_and_none_of_our_credentials() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let path = bed.signed("/chat?session=a%3Ab&token=t&gatewayUrl=wss%3A%2F%2Fevil", USER);
    let response = bed
        .http
        .post(bed.url(&path))
        .header("authorization", "Bearer dashboard-token")
        .header("referer", bed.url(&path))
        .header("fly-force-instance-id", "somebody-else")
        .header("fly-prefer-region", "syd")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-automna-ticket", "forged")
        .header("x-kept", "yes")
        .body("body")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let seen = bed.machine.seen().pop().unwrap();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), seen.body_bytes),
        ("POST", "/chat?session=a%3Ab", 4)
    );
    assert_eq!(seen.headers["fly-force-instance-id"], "m1");
    assert_eq!(seen.headers["x-kept"], "yes");
    for name in
        ["authorization", "cookie", "referer", "fly-prefer-region", "x-forwarded-for", "x-automna-permit"]
    {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
    let who = user(USER);
    let key = keys().machine_key(&who, Generation(1));
    let audience = Audience { backend: Backend::Fly, user: Some(&who), generation: Generation(1) };
    let claims = ticket::verify(&key, &seen.headers["x-automna-ticket"], audience, now()).unwrap();
    assert!(claims.expires.0 <= now().floor_seconds().0 + 60);
}

#[tokio::test]
async fn legacy_gets_the_request_as_it_came_with_a_permit() {
    let bed = Bed::start().await;
    let path = bed.signed("/api/files/list?path=%2Froot%2Fclawd", USER);
    let response = bed.http.get(bed.url(&path)).header("x-automna-permit", "forged").send().await.unwrap();
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2, "both cookies arrive");
    let seen = bed.legacy.seen().pop().unwrap();
    assert_eq!(seen.target, path);
    let who = user(USER);
    let audience = Audience { backend: Backend::Legacy, user: Some(&who), generation: Generation(0) };
    ticket::verify(&keys().permit_key(), &seen.headers["x-automna-permit"], audience, now()).unwrap();

    // By cookie, the signature that legacy knows is put back.
    let page =
        bed.http.get(bed.url(&bed.signed("/page", USER))).header("accept", "text/html").send().await.unwrap();
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    bed.http.get(bed.url("/assets/x.js?v=1")).header("cookie", cookie).send().await.unwrap();
    let seen = bed.legacy.seen().pop().unwrap();
    assert!(seen.target.starts_with(&format!("/assets/x.js?v=1&userId={USER}&exp=")), "{}", seen.target);
    let query = seen.target.split_once('?').unwrap().1;
    let shared::signed_url::Presented::Whole(query) = shared::signed_url::SignedQuery::read(query) else {
        panic!("no proof in {}", seen.target);
    };
    let checked = shared::signed_url::verify(&keys(), &query, now());
    assert_eq!(checked.unwrap().user(), &who);
}

#[tokio::test]
async fn cross_origin_pages_can_do_what_the_contract_allows() {
    let bed = Bed::start().await;
    for (origin, allowed) in
        [("https://automna.ai", "https://automna.ai"), ("https://evil.example", "https://automna.ai")]
    {
        let request = bed
            .http
            .request("OPTIONS".parse().unwrap(), bed.url("/api/files/?path=x"))
            .header("origin", origin);
        let preflight = request.send().await.unwrap();
        assert_eq!(preflight.status(), 204);
        assert_eq!(preflight.headers()["access-control-allow-origin"], allowed);
        assert_eq!(preflight.headers()["vary"], "Origin");
        let methods = preflight.headers()["access-control-allow-methods"].to_str().unwrap().to_owned();
        assert!(methods.contains("DELETE") && methods.contains("HEAD"), "{methods}");
    }
    let get = |origin: &'static str, path: String| {
        let request = bed.http.get(bed.url(&path)).header("origin", origin);
        async move { request.send().await.unwrap() }
    };
    let ok = get("https://automna.ai", bed.signed("/x", USER)).await;
    assert_eq!(
        ok.headers()["access-control-allow-origin"],
        "https://automna.ai",
        "in place of the upstream's *"
    );
    assert_eq!(ok.headers()["vary"], "Origin");
    let exposed = ok.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(
        exposed.contains("ETag")
            && exposed.contains("Content-Disposition")
            && exposed.contains("Content-Range")
    );
    let foreign = get("https://evil.example", bed.signed("/x", USER)).await;
    assert!(!foreign.headers().contains_key("access-control-allow-origin"));
    // The page has to be able to read why.
    let denied = get("https://automna.ai", "/api/files/list".into()).await;
    assert_eq!(denied.status(), 401);
    assert_eq!(denied.headers()["access-control-allow-origin"], "https://automna.ai");
}
