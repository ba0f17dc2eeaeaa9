//! See `calico-policy/tests/fuzz/selector.rs`, which the normal tests run too.
#![no_main]

#[path = "../../calico-policy/tests/fuzz/selector.rs"]
mod selector;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = selector::run(data);
});
