//! See `bins/calico-cni/tests/fuzz/annotations.rs`, which the normal tests run too.
#![no_main]

#[path = "../../bins/calico-cni/tests/fuzz/annotations.rs"]
mod annotations;
#[path = "../../bins/calico-cni/tests/fuzz/stdin.rs"]
mod stdin;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = annotations::run(data);
});
