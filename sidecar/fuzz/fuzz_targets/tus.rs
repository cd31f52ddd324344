#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar::http_semantics::tus;

fuzz_target!(|input: &[u8]| {
    let _checksum = tus::checksum(input);
    if let Ok(number) = tus::number(input) {
        assert!(number <= i64::MAX as u64);
    }
    if let Ok(pairs) = tus::metadata(input) {
        for (index, (key, _)) in pairs.iter().enumerate() {
            assert!(!key.is_empty() && pairs.iter().skip(index + 1).all(|(other, _)| other != key));
        }
    }
});
