//! Labs of network namespaces that run the real programs.

pub mod cleanup;
pub mod error;
mod ip;
pub mod netns;
mod process;
pub mod programs;
pub mod record;
pub mod topology;
pub mod wait;

pub use error::LabError;
