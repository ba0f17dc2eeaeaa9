//! Calico in Rust: ipam.
