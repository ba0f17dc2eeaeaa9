//! calicoctl.

fn main() {}
