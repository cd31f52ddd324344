#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar::http_semantics::digest::{self, Expected, Hasher};

fuzz_target!(|input: &[u8]| {
    let lines = || input.split(|byte| *byte == b'\n');
    let _wanted = digest::wanted(lines());
    if let Ok(Some(expected)) = Expected::parse(lines()) {
        // Nothing that fits in here has its own digest.
        let mut hasher = Hasher::for_check(Some(&expected));
        hasher.update(input);
        assert!(hasher.check(&expected).is_err());
    }
});
