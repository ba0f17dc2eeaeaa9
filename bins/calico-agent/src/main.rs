//! calico-agent.

fn main() {}
