//! See `calico-bgp/tests/fuzz/messages.rs`, which the normal tests run too.
#![no_main]

#[path = "../../calico-bgp/tests/fuzz/messages.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = body::run(data);
});
