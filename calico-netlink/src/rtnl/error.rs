use std::fmt;
use std::io;

use nix::errno::Errno;

/// The kernel's no to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its error number.
    pub errno: Errno,
    /// Its own words, where it has any (extended acknowledgement, `NLMSGERR_ATTR_MSG`).
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text} ({})", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a conversation with the kernel failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RtnlError {
    /// The request reached the kernel, which refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No socket: the system forbids it or ran out of descriptors.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The socket broke while in use. What was under way may have happened or not.
    #[error("cannot {doing} over netlink")]
    Io {
        /// What was under way.
        doing: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel did not answer in time. What was under way may have happened or not.
    #[error("no answer from the kernel within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: f64,
    },
    /// The kernel dropped answers because they came faster than they were read; read the state
    /// again.
    #[error("the kernel dropped answers (the socket's buffer is full)")]
    Overrun,
    /// The state changed during every attempt to read it whole.
    #[error("the kernel's state changed during each of {attempts} attempts to read it")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// An answer that cannot be understood: a kernel this program does not know, or a defect.
    #[error("cannot understand the kernel's answer: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

impl RtnlError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            _ => None,
        }
    }

    /// Whether the kernel said that the object does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ESRCH | Errno::ENOENT | Errno::EADDRNOTAVAIL)
        )
    }
}
