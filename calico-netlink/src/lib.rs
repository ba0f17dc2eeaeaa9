//! Calico in Rust: netlink.

pub mod nft;
