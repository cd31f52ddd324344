#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar::history::store::{
    bare_key, canonical_key, is_session_key, is_transcript, parse_sessions, transcript_name,
};

// The first line is a key as a client names it, the rest the agent's store.
fuzz_target!(|input: &[u8]| {
    let (key, store) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len()));
    if let Ok(key) = std::str::from_utf8(key) {
        let canonical = canonical_key(key);
        assert_eq!(canonical_key(&canonical), canonical);
        assert!(canonical.starts_with("agent:") && canonical.ends_with(key));
        assert!(key.ends_with(bare_key(key)));
        if is_session_key(key) {
            // Neither a path nor a query can be made of it.
            assert!(!key.is_empty() && key.len() <= 100 && !key.contains(".."));
            assert!(!key.contains(['/', '\\', '\0', '%', '?', '&', '=', '#', ' ', '\n', '"']));
            // Both spellings are keys, unless the longer one is too long.
            assert!(is_session_key(&canonical) || canonical.len() > 100);
        }
    }
    let Ok(sessions) = parse_sessions(store) else { return };
    let whole: serde_json::Value = serde_json::from_slice(store).unwrap();
    let whole = whole.as_object().unwrap();
    for session in sessions {
        assert!(whole.contains_key(&session.key));
        let Some(name) = transcript_name(&session) else { continue };
        // A name right in the sessions directory, which the entry itself gave.
        assert!(is_transcript(&name) && !name.contains(['/', '\0']) && name != "." && name != "..");
        let by_file = session.session_file.as_deref().is_some_and(|file| file.ends_with(&name));
        let by_id = session.session_id.as_deref().is_some_and(|id| format!("{id}.jsonl") == name);
        assert!(by_file || by_id);
    }
});
