//! See `calico-policy/tests/fuzz/rules.rs`, which the normal tests run too.
#![no_main]

#[path = "../../calico-policy/tests/fuzz/rules.rs"]
mod rules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = rules::run(data);
});
