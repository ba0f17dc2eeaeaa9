//! Calico in Rust: policy.

#![forbid(unsafe_code)]

pub mod desired;
pub mod eval;
mod graph;
mod index;
mod input;
mod rules;
mod sets;

pub use graph::{Graph, Stats};
pub use input::{Input, Object, Rejected, Warning};
