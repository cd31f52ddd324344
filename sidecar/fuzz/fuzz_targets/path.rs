#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use sidecar::files::path::{MAX_PATH_BYTES, MAX_SEGMENT_BYTES, RESERVED_PREFIX, VIRTUAL_ROOT, WorkspacePath};
use sidecar::http_semantics::raw_path;

// A path as JSON and queries bring it, and the same as the target of `files/raw` brings it.
fuzz_target!(|raw: &str| {
    for text in [raw.to_owned(), format!("{VIRTUAL_ROOT}/{raw}")] {
        let Ok(path) = WorkspacePath::parse(&text) else { continue };
        contained(&path);
        families(&path);
        same_by_json(&text, &path);
        same_by_target(&path);
    }
});

/// The standard library reads it as names below the root, and as nothing else.
fn contained(path: &WorkspacePath) {
    let text = path.to_string();
    assert!(text.len() <= MAX_PATH_BYTES && !text.contains('\0'));
    let below = Path::new(&text).strip_prefix(VIRTUAL_ROOT).unwrap();
    let names: Vec<&str> = below
        .components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str().unwrap(),
            other => panic!("{other:?} in {text:?}"),
        })
        .collect();
    assert!(names.iter().all(|name| name.len() <= MAX_SEGMENT_BYTES && !name.starts_with(RESERVED_PREFIX)));
    assert_eq!(path.components().collect::<Vec<_>>(), names);
    assert_eq!(WorkspacePath::parse(&text).as_ref(), Ok(path));
}

fn families(path: &WorkspacePath) {
    assert!(path.is_within(path) && path.is_within(&WorkspacePath::root()));
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) => {
            assert!(path.is_within(&parent) && !parent.is_within(path));
            assert_eq!(parent.join(name).as_ref(), Ok(path));
        }
        (parent, name) => assert!(path.is_root() && parent.is_none() && name.is_none()),
    }
}

fn same_by_json(text: &str, path: &WorkspacePath) {
    let json = serde_json::to_string(text).unwrap();
    let back: String = serde_json::from_str(&json).unwrap();
    assert_eq!(WorkspacePath::parse(&back).as_ref(), Ok(path));
    let shown: String = serde_json::from_str(&serde_json::to_string(path).unwrap()).unwrap();
    assert_eq!(WorkspacePath::parse(&shown).as_ref(), Ok(path));
}

/// Every byte escaped. What looks like an escape itself may be refused, but never means another file.
fn same_by_target(path: &WorkspacePath) {
    let relative = path.relative();
    let escape = |byte: u8| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02X}") };
    let target: String = relative.bytes().map(escape).collect();
    match raw_path::decode(&target) {
        Ok(bytes) => assert_eq!(bytes, relative.as_bytes()),
        Err(raw_path::BadTarget::EncodedTwice) => assert!(relative.contains('%')),
        Err(raw_path::BadTarget::EmptySegment) => assert!(path.is_root()),
        Err(other) => panic!("{other:?} for {relative:?}"),
    }
}
