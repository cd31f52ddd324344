//! Panics on demand, so that the tests can show, in the very artifact that ships, that the guard turns a panic
//! into one failed request. Reached only with the admin bearer, and only where `TEST_HOOKS` is `on`, which no
//! configuration in this repository but the testbed's says.

/// Panics.
#[expect(clippy::panic, reason = "this is what it is for")]
pub(super) fn panic_now() -> ! {
    panic!("a panic that a test asked for")
}
