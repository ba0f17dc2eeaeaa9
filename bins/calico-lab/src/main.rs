//! calico-lab.

fn main() {}
