//! calico-cni.

fn main() {}
