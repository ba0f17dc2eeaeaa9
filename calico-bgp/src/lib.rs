//! Calico in Rust: bgp.
