//! The three-way merge: what is there, what we wrote last time, and what we want now.
//!
//! * A *managed* value is ours at every start.
//! * A *default* is written where nothing is. As long as it is what we wrote, it follows us when we change our
//!   mind; once somebody else has changed or removed it, it is theirs.
//! * What we wrote under a rule that is gone now goes away too, unless somebody has changed it.
//! * All the rest is the user's or the agent's.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Lets the agent take a part of the configuration from another file, which we do not see.
const INCLUDE: &str = "$include";

/// Keys from the top to the value. No key is ever split: names of models hold dots.
pub(super) type KeyPath = Vec<String>;

/// What we want of one value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) path: KeyPath,
    pub(super) want: Want,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Want {
    /// This value, whatever is there.
    Managed(Value),
    /// No value at all.
    Absent,
    /// This value, if nobody has an opinion.
    Default(Value),
}

/// A value that we wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) path: KeyPath,
    pub(super) value: Value,
}

/// What the configuration becomes, and what is to be remembered for the next time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Merged {
    pub(super) config: Map<String, Value>,
    pub(super) written: Vec<Written>,
}

/// Merges. `existing` is what is there, `last` what [`Merged::written`] was when we last wrote.
pub(super) fn merge(existing: &Map<String, Value>, last: &[Written], rules: &[Rule]) -> Merged {
    let mut merged = Merged { config: existing.clone(), written: Vec::new() };
    for old in last.iter().filter(|old| rules.iter().all(|rule| rule.path != old.path)) {
        if get(&merged.config, &old.path) == Some(&old.value) {
            remove(&mut merged.config, &old.path);
        }
    }
    // First what does not depend on anything: it can put an object where a default is wanted below.
    for Rule { path, want } in rules {
        match want {
            Want::Absent => {
                remove(&mut merged.config, path);
            }
            Want::Managed(value) => {
                set(&mut merged.config, path, value);
                merged.written.push(Written { path: path.clone(), value: value.clone() });
            }
            Want::Default(_) => {}
        }
    }
    for Rule { path, want } in rules {
        let Want::Default(value) = want else { continue };
        let ours = last.iter().find(|old| old.path == *path).map(|old| &old.value);
        let there = look(&merged.config, path);
        if is_ours(there, ours, value) {
            set(&mut merged.config, path, value);
            merged.written.push(Written { path: path.clone(), value: value.clone() });
        } else if let Some(ours) = ours {
            // Theirs now. It is remembered, or a value that they removed would come back.
            merged.written.push(Written { path: path.clone(), value: ours.clone() });
        }
    }
    merged
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq)]
enum There<'a> {
    Nothing,
    Value(&'a Value),
    /// Something above it is no object, or comes from another file.
    OutOfReach,
}

fn is_ours(there: There<'_>, last: Option<&Value>, value: &Value) -> bool {
    match (there, last) {
        (There::OutOfReach, _) => false,
        (There::Nothing, last) => last.is_none(),
        // What we would write anyway counts as ours: a crash may have kept us from remembering it.
        (There::Value(there), last) => Some(there) == last || there == value,
    }
}

fn look<'a>(config: &'a Map<String, Value>, path: &[String]) -> There<'a> {
    let Some((last, above)) = path.split_last() else { return There::OutOfReach };
    let mut at = config;
    let mut included = at.contains_key(INCLUDE);
    for key in above {
        match at.get(key) {
            Some(Value::Object(below)) => at = below,
            Some(_) => return There::OutOfReach,
            None => return if included { There::OutOfReach } else { There::Nothing },
        }
        included |= at.contains_key(INCLUDE);
    }
    match at.get(last) {
        Some(value) => There::Value(value),
        None if included => There::OutOfReach,
        None => There::Nothing,
    }
}

/// The value at `path`.
pub(super) fn get<'a>(config: &'a Map<String, Value>, path: &[impl AsRef<str>]) -> Option<&'a Value> {
    let (last, above) = path.split_last()?;
    let mut at = config;
    for key in above {
        at = at.get(key.as_ref())?.as_object()?;
    }
    at.get(last.as_ref())
}

/// Puts `value` at `path`, and objects above it where there are none.
fn set(config: &mut Map<String, Value>, path: &[String], value: &Value) {
    let Some((first, below)) = path.split_first() else { return };
    if below.is_empty() {
        // A value that is the same keeps its place among its neighbours.
        config.insert(first.clone(), value.clone());
        return;
    }
    let entry = config.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Some(object) = entry.as_object_mut() {
        set(object, below, value);
    }
}

/// Removes what is at `path`, and the objects above it that are empty by that. `false`: nothing was there.
pub(super) fn remove(config: &mut Map<String, Value>, path: &[impl AsRef<str>]) -> bool {
    let Some((first, below)) = path.split_first() else { return false };
    let first = first.as_ref();
    if below.is_empty() {
        return config.shift_remove(first).is_some();
    }
    let Some(object) = config.get_mut(first).and_then(Value::as_object_mut) else { return false };
    let removed = remove(object, below);
    if removed && object.is_empty() {
        config.shift_remove(first);
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> KeyPath {
        text.split('.').map(str::to_owned).collect()
    }

    fn rule(text: &str, want: Want) -> Rule {
        Rule { path: path(text), want }
    }

    fn written(text: &str, value: Value) -> Written {
        Written { path: path(text), value }
    }

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn one_default() {
        let now = || Want::Default(json!("new"));
        let last = Some(json!("old"));
        let rows = [
            ("never there", json!({}), None, json!({"a": {"b": "new"}})),
            (
                "untouched, so it follows us",
                json!({"a": {"b": "old"}}),
                last.clone(),
                json!({"a": {"b": "new"}}),
            ),
            ("changed", json!({"a": {"b": "mine"}}), last.clone(), json!({"a": {"b": "mine"}})),
            ("removed", json!({}), last.clone(), json!({})),
            ("theirs before us", json!({"a": {"b": "mine"}}), None, json!({"a": {"b": "mine"}})),
            ("written, and not remembered", json!({"a": {"b": "new"}}), last, json!({"a": {"b": "new"}})),
            ("set to null", json!({"a": {"b": null}}), None, json!({"a": {"b": null}})),
            ("no object above", json!({"a": 3}), None, json!({"a": 3})),
            ("above is included", json!({"a": {"$include": "x"}}), None, json!({"a": {"$include": "x"}})),
            ("the top is included", json!({"$include": "x"}), None, json!({"$include": "x"})),
        ];
        for (what, existing, last, expect) in rows {
            let last: Vec<Written> = last.into_iter().map(|value| written("a.b", value)).collect();
            let merged = merge(&object(&existing), &last, &[rule("a.b", now())]);
            assert_eq!(Value::Object(merged.config), expect, "{what}");
        }
    }

    #[test]
    fn theirs_stays_theirs_when_we_change_our_mind_twice() {
        let mut last = Vec::new();
        let mut config = object(&json!({}));
        for (ours, theirs) in [("v1", None), ("v2", Some(json!("mine"))), ("v3", None), ("v4", None)] {
            let merged = merge(&config, &last, &[rule("a", Want::Default(json!(ours)))]);
            (config, last) = (merged.config, merged.written);
            if let Some(theirs) = theirs {
                config.insert("a".into(), theirs);
            }
        }
        assert_eq!(Value::Object(config), json!({"a": "mine"}));
    }

    #[test]
    fn managed_values_and_absent_ones() {
        let existing =
            json!({"g": {"port": 1, "auth": {"token": "t"}, "x": 1}, "h": 3, "i": {"j": {"k": 1}}});
        let rules = [
            rule("g.port", Want::Managed(json!(2))),
            rule("g.auth.token", Want::Absent),
            rule("h.deep", Want::Managed(json!([]))),
            rule("i.j.k", Want::Absent),
            rule("never", Want::Absent),
        ];
        let merged = merge(&object(&existing), &[], &rules);
        assert_eq!(Value::Object(merged.config), json!({"g": {"port": 2, "x": 1}, "h": {"deep": []}}));
    }

    #[test]
    fn what_we_no_longer_want_goes_unless_it_was_changed() {
        let existing = json!({"a": {"b": 1}, "c": 2, "d": {"e": 3, "f": 4}});
        let last = [
            written("a.b", json!(1)),
            written("c", json!(0)),
            written("d.e", json!(3)),
            written("z", json!(1)),
        ];
        let merged = merge(&object(&existing), &last, &[]);
        assert_eq!(Value::Object(merged.config), json!({"c": 2, "d": {"f": 4}}));
        assert_eq!(merged.written, []);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(null)), (0..3).prop_map(|n| json!(n)), Just(json!("$x"))];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|m| json!(m))
        })
    }

    fn config() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-d]", value(), 0..4).prop_map(|map| map.into_iter().collect())
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let want =
            prop_oneof![value().prop_map(Want::Managed), value().prop_map(Want::Default), Just(Want::Absent)];
        let rule = (prop::collection::vec("[a-c]".prop_map(String::from), 1..4), want);
        prop::collection::vec(rule.prop_map(|(path, want)| Rule { path, want }), 0..5).prop_map(|rules| {
            // As the real ones: no path is another's, or above another.
            let mut apart: Vec<Rule> = Vec::new();
            for rule in rules {
                let clashes =
                    |other: &Rule| other.path.starts_with(&rule.path) || rule.path.starts_with(&other.path);
                if !apart.iter().any(clashes) {
                    apart.push(rule);
                }
            }
            apart
        })
    }

    /// Every value that is no object, with its path.
    fn leaves(config: &Map<String, Value>) -> Vec<(KeyPath, Value)> {
        let mut found = Vec::new();
        for (key, value) in config {
            if let Some(below) = value.as_object().filter(|below| !below.is_empty()) {
                for (mut path, value) in leaves(below) {
                    path.insert(0, key.clone());
                    found.push((path, value));
                }
            } else {
                found.push((vec![key.clone()], value.clone()));
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(existing in config(), rules in rules()) {
            let once = merge(&existing, &[], &rules);
            let twice = merge(&once.config, &once.written, &rules);
            prop_assert_eq!(&twice, &once);
        }

        #[test]
        fn an_upgrade_settles_at_once(existing in config(), before in rules(), after in rules()) {
            let old = merge(&existing, &[], &before);
            let new = merge(&old.config, &old.written, &after);
            prop_assert_eq!(&merge(&new.config, &new.written, &after), &new);
        }

        /// What no rule speaks of is untouched, through any number of versions.
        #[test]
        fn the_rest_is_theirs(existing in config(), versions in prop::collection::vec(rules(), 1..4)) {
            let (mut config, mut last) = (existing.clone(), Vec::new());
            for rules in &versions {
                let merged = merge(&config, &last, rules);
                (config, last) = (merged.config, merged.written);
            }
            for (path, value) in leaves(&existing) {
                let spoken_of = versions.iter().flatten().any(|rule| {
                    rule.path.starts_with(&path) || path.starts_with(&rule.path)
                });
                if !spoken_of {
                    prop_assert_eq!(get(&config, &path), Some(&value), "{:?}", path);
                }
            }
        }

        #[test]
        fn managed_values_are_there(existing in config(), rules in rules()) {
            let merged = merge(&existing, &[], &rules);
            for Rule { path, want } in &rules {
                match want {
                    Want::Managed(value) => prop_assert_eq!(get(&merged.config, path), Some(value)),
                    Want::Absent => prop_assert_eq!(get(&merged.config, path), None),
                    Want::Default(_) => {}
                }
            }
        }
    }
}
