//! calico-rr.

fn main() {}
