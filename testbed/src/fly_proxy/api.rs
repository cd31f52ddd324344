//! The Machines API, its reading half: enough for somebody who wants to see which machines there are.

use std::collections::BTreeMap;

use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Machine, REGION};
use crate::forward::{self, Answer};

pub(super) fn answer<B>(request: &Request<B>, machines: &BTreeMap<String, Machine>) -> Answer {
    if !has_bearer(request) {
        return error(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match (request.method(), path.as_slice()) {
        (&Method::GET, ["v1", "apps", app, "machines"]) => {
            let of_app = machines.iter().filter(|(_, machine)| machine.app.as_str() == *app);
            let list: Vec<Value> = of_app.map(|(id, machine)| describe(id, machine)).collect();
            forward::json(StatusCode::OK, &list)
        }
        (&Method::GET, ["v1", "apps", app, "machines", id]) => match machines.get(*id) {
            Some(machine) if machine.app.as_str() == *app => {
                forward::json(StatusCode::OK, &describe(id, machine))
            }
            _ => error(StatusCode::NOT_FOUND, "machine not found"),
        },
        _ => error(StatusCode::NOT_FOUND, "the stand-in has no such route"),
    }
}

fn has_bearer<B>(request: &Request<B>) -> bool {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|token| !token.trim().is_empty())
}

fn describe(id: &str, machine: &Machine) -> Value {
    json!({
        "id": id,
        "name": format!("agent-{id}"),
        "state": "started",
        "region": REGION,
        "instance_id": format!("01STANDIN{id}"),
        "private_ip": machine.addr.ip().to_string(),
        "host_status": "ok",
        "config": {
            "image": "stand-in",
            "metadata": {},
            "services": [{"protocol": "tcp", "internal_port": machine.addr.port(), "ports": [{"port": 443}]}],
        },
        "checks": [],
        "events": [],
    })
}

fn error(status: StatusCode, message: &str) -> Answer {
    forward::json(status, &json!({"error": message}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let machine = Machine { app: "app-a".parse().unwrap(), addr: "127.0.0.1:8080".parse().unwrap() };
        let machines = BTreeMap::from([("m1".to_owned(), machine)]);
        let bearer = Some("Bearer x");
        for (method, path, authorization, status) in [
            ("GET", "/v1/apps/app-a/machines", bearer, 200),
            ("GET", "/v1/apps/none/machines", bearer, 200),
            ("GET", "/v1/apps/app-a/machines/m1", bearer, 200),
            ("GET", "/v1/apps/app-b/machines/m1", bearer, 404),
            ("GET", "/v1/apps/app-a/machines/m2", bearer, 404),
            ("POST", "/v1/apps/app-a/machines", bearer, 404),
            ("GET", "/v1/apps/app-a/machines", None, 401),
            ("GET", "/v1/apps/app-a/machines", Some("Bearer "), 401),
            ("GET", "/v1/apps/app-a/machines", Some("Basic x"), 401),
        ] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = answer(&request.body(()).unwrap(), &machines);
            assert_eq!(answer.status().as_u16(), status, "{method} {path} {authorization:?}");
        }
    }
}
