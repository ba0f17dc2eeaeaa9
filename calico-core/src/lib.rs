//! Calico in Rust: core.
