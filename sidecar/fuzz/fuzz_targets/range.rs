#![no_main]

use libfuzzer_sys::fuzz_target;
use sidecar::http_semantics::range::{self, ByteRange, MAX_RANGES, Selection};

fuzz_target!(|input: (u64, &[u8])| {
    let (size, header) = input;
    let check = |range: &ByteRange| {
        assert!(range.len() > 0 && range.len() <= size && range.first() <= size - range.len());
    };
    match range::select(Some(header), size) {
        Selection::Whole(_) | Selection::Unsatisfiable => {}
        Selection::One(range) => check(&range),
        Selection::Many(ranges) => {
            assert!((2..=MAX_RANGES).contains(&ranges.len()));
            ranges.iter().for_each(check);
            assert!(ranges.iter().map(|range| u128::from(range.len())).sum::<u128>() <= u128::from(size));
        }
    }
});
