#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar::http_semantics::raw_path;

fuzz_target!(|target: &str| {
    let Ok(path) = raw_path::decode(target) else { return };
    assert!(!path.contains(&0));
    for segment in path.split(|byte| *byte == b'/') {
        assert!(!segment.is_empty() && segment != b"." && segment != b"..");
    }
    let escaped: String =
        path.iter().map(|byte| if *byte == b'/' { "/".to_owned() } else { format!("%{byte:02X}") }).collect();
    assert_eq!(raw_path::decode(&escaped), Ok(path));
});
