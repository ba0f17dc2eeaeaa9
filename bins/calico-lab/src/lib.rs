//! Labs of network namespaces that run the real programs.

pub mod builtin;
pub mod cleanup;
pub mod cni;
pub mod control;
pub mod demo;
pub mod error;
pub mod fabric;
mod ip;
pub mod lab;
pub mod netns;
pub mod probe;
mod process;
pub mod programs;
pub mod record;
mod reflector;
mod router;
mod screen;
pub mod topology;
pub mod wait;

pub use error::LabError;
pub use lab::Lab;
