//! Calico in Rust: netlink.
