//! nftables over netlink.
pub mod wire;
