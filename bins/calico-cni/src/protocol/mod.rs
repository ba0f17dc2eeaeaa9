//! What the plugin and the agent say to each other: one request, one answer, over a unix socket.
//!
//! Each is a frame: its length in four bytes, big endian, then JSON. The plugin's side uses no
//! async runtime, because starting one costs more than the whole call.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use client::{Unreachable, ask};
pub use server::serve;

use crate::spec::{Call, Verb};

/// Version of the frames' contents; another one is refused.
pub const PROTOCOL: u32 = 1;

/// Largest frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Which plugin was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plugin {
    /// `calico`: everything.
    #[default]
    Main,
    /// `calico-ipam`: addresses only.
    Ipam,
    /// No plugin: what the ranges of pods on this node are (`podCIDRs` of its Node), as a JSON list.
    Ranges,
}

/// One call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// Under which name it was called.
    pub plugin: Plugin,
    /// What it is to do.
    pub verb: Verb,
    /// The environment.
    pub call: Call,
    /// The network configuration, as it came on stdin.
    pub config: String,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Whether `output` is an error.
    pub failed: bool,
    /// What goes to stdout.
    pub output: String,
}

/// Why a frame was not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is no length of a frame.
    #[error("a frame of {0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// The other side stopped, or the time is up.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The contents are not what they should be.
    #[error("a frame with unknown contents")]
    Json(#[from] serde_json::Error),
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let head = head.ok_or(FrameError::TooLong(length))?;
    frame[..4].copy_from_slice(&head.to_be_bytes());
    Ok(frame)
}

fn length(head: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLong(length)) } else { Ok(length) }
}
