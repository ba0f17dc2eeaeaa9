//! Calico in Rust: core.

pub mod kind;

pub use kind::{API_VERSION, Kind};
