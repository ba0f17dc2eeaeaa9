//! Calico in Rust: policy.

#![forbid(unsafe_code)]

pub mod desired;
pub mod eval;
mod index;
mod sets;
