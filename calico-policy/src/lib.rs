//! Calico in Rust: policy.
