//! See `bins/calico-cni/tests/fuzz/stdin.rs`, which the normal tests run too.
#![no_main]

#[path = "../../bins/calico-cni/tests/fuzz/stdin.rs"]
mod stdin;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = stdin::run(data);
});
