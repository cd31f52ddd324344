use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;
use shared::id::Generation;
use shared::key::SigningKeys;
use shared::secret::Secret;

use super::*;
use crate::config::Config;
use crate::epoch::Arbiter;
use crate::files::Files;
use crate::files::serve_tus::Uploads;
use crate::routes::API_PREFIXES;
use crate::state::{App, Parts};
use crate::{clock, readiness, stop};

/// The OpenAPI Initiative's own schema of its documents (Apache-2.0), dialect of JSON Schema aside.
const OPENAPI: &str = include_str!("../../tests/data/openapi-3.1.schema.json");

fn generated() -> Value {
    serde_json::to_value(document()).unwrap()
}

/// All that is somewhere in `value`, with the keys that lead there.
fn walk(value: &Value, at: &str, see: &mut impl FnMut(&str, &Value)) {
    see(at, value);
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| walk(value, &format!("{at}/{key}"), see));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, at, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        let item = item.as_object().unwrap().iter();
        item.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

#[test]
fn the_copy_in_the_repository_is_what_is_generated() {
    let copy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let text = serde_json::to_string_pretty(&generated()).unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&copy, &text).unwrap();
    }
    let current = std::fs::read_to_string(&copy).unwrap_or_default();
    assert!(
        current == text,
        "sidecar/openapi.json is old: run `UPDATE_OPENAPI=1 cargo test -p sidecar --lib openapi` and commit it"
    );
}

#[test]
fn it_is_a_document_of_openapi_3_1() {
    let document = generated();
    let schema = serde_json::from_str(OPENAPI).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&document).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(document["openapi"], "3.1.0");

    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} stands twice");
        assert!(operation["summary"].is_string(), "{name} has no summary");
    }
}

#[test]
fn its_schemas_are_schemas_and_its_examples_are_examples_of_them() {
    let document = generated();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::meta::is_valid(schema), "{name}");
    }
    let mut contents = Vec::new();
    walk(&document["paths"], "", &mut |at, value| {
        if let (Some(schema), Some(example)) = (value.get("schema"), value.get("example")) {
            contents.push((at.to_owned(), schema.clone(), example.clone()));
        }
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let there = document.pointer(reference.strip_prefix('#').unwrap());
            assert!(there.is_some(), "{at}: {reference}");
        }
    });
    // What links say in the source means nothing here.
    walk(&document, "", &mut |at, value| {
        assert!(!value.as_str().is_some_and(|text| text.contains("[`")), "{at}: {value}");
    });
    assert!(contents.len() >= 28, "{}", contents.len());
    for (at, schema, example) in contents {
        let whole = json!({ "allOf": [schema], "components": document["components"] });
        let validator = jsonschema::validator_for(&whole).unwrap();
        let faults: Vec<String> = validator.iter_errors(&example).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{at}: {faults:?}");
    }
}

#[test]
fn one_name_means_one_schema() {
    let mut known = BTreeMap::new();
    for route in crate::routes::table() {
        for described in route.described() {
            for (_, op) in described.operations {
                for (name, schema) in op.build("", &BTreeMap::new()).1 {
                    let schema = serde_json::to_value(schema).unwrap();
                    let first = known.entry(name.clone()).or_insert_with(|| schema.clone());
                    assert_eq!(
                        *first, schema,
                        "{name} is the name of two types: give one `#[schema(as = …)]`"
                    );
                }
            }
        }
    }
}

fn app() -> (tempfile::TempDir, axum::Router) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap().to_owned();
    let keys = SigningKeys::new(Secret::new("test-secret").unwrap(), None);
    let key = keys.machine_key(&"user_a".parse().unwrap(), Generation(1));
    let config = Config::from_lookup(|name| match name {
        "AUTOMNA_USER_ID" => Some("user_a".to_owned()),
        "AUTOMNA_MACHINE_KEY" => Some(key.expose()),
        "AUTOMNA_GENERATION" => Some("1".to_owned()),
        "AUTOMNA_DATA_DIR" => Some(data.clone()),
        _ => None,
    })
    .unwrap();
    let files = Files::open(&config.workspace_dir).unwrap();
    let uploads = Uploads::open(&config.data_dir, clock::now()).unwrap();
    let arbiter = Arbiter::load(&config.data_dir).unwrap();
    let (_stopper, stop) = stop::channel();
    let agent = readiness::Agent { address: config.agent, token: config.identity.key.gateway_token() };
    let readiness = readiness::keep(agent, stop.clone());
    let parts = Parts::unsupervised(arbiter, files, uploads.into(), readiness, stop);
    let app = App::new(config, parts);
    (dir, super::super::router(app))
}

/// axum does not list its routes, but it prints them.
fn registered(router: &axum::Router) -> BTreeSet<String> {
    let printed = format!("{router:?}");
    let paths = printed.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    paths.filter(|path| *path != "/" && !path.contains("__private__axum")).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_route_is_described() {
    let (_dir, router) = app();
    let document = generated();
    let described = document["paths"].as_object().unwrap();
    let registered = registered(&router);
    assert!(registered.len() > 40, "the router prints its routes in another way: {registered:?}");
    let plain = |path: &str| path.replace("{*", "{");
    for path in &registered {
        let name = plain(path.strip_prefix("/ws").filter(|path| *path != "/api/history").unwrap_or(path));
        assert!(described.contains_key(&name), "{path} is not in the description: add it to routes::table");
    }
    for path in described.keys() {
        assert!(registered.iter().any(|other| plain(other) == *path), "{path} is described, but not there");
        let other = format!("{}{}", API_PREFIXES[1], path.strip_prefix(API_PREFIXES[0]).unwrap_or_default());
        let both = path.ends_with("/api/history") || registered.iter().any(|path| plain(path) == other);
        assert!(both, "{path} is not there under its other name");
    }
}
