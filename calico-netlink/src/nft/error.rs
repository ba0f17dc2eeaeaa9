//! Why talking to nf_tables failed.

use std::fmt;

use nix::errno::Errno;

use super::wire::DecodeError;

/// An error of this module, sorted by who can do something about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a batch, or it would (`EMSGSIZE`: a rule of more than 64 KiB); nothing of it is in force. One entry for each refused message.
    #[error("the kernel refused {}", list(.0))]
    Refused(Vec<Refusal>),
    /// Somebody changed the ruleset of this network namespace since the generation the batch was
    /// made for; nothing of it is in force. Read the ruleset again and retry.
    #[error("the ruleset changed while the change was being prepared")]
    GenerationChanged,
    /// The kernel's answer cannot be read.
    #[error("cannot read the kernel's answer")]
    Decode(#[from] DecodeError),
    /// The socket failed.
    #[error("netlink socket: {what}")]
    Socket {
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
}

impl Error {
    /// True when the same call may succeed after reading the ruleset anew: someone else changed
    /// it, or what we believe about it was wrong (exists, does not exist, busy, full).
    pub fn is_stale(&self) -> bool {
        match self {
            Self::GenerationChanged => true,
            Self::Refused(refusals) => refusals.iter().any(|refusal| {
                matches!(
                    refusal.errno,
                    Errno::ENOENT
                        | Errno::EEXIST
                        | Errno::EBUSY
                        | Errno::EINVAL
                        | Errno::ENOBUFS
                        | Errno::ENFILE
                )
            }),
            _ => false,
        }
    }
}

/// What a message of a batch was to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `add`, `delete`, `flush`.
    pub verb: &'static str,
    /// `table`, `chain`, `rule`, `set`, `elements of set`.
    pub kind: &'static str,
    /// Its name; for a rule its chain and identity.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verb, self.kind, self.name)
    }
}

/// One refused message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The message; absent when the kernel refused the batch as a whole.
    pub subject: Option<Subject>,
    /// Its error.
    pub errno: Errno,
    /// Its explanation, if it gave one.
    pub message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(f, "to {subject}: {}", self.errno.desc())?,
            None => write!(f, "the whole batch: {}", self.errno.desc())?,
        }
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

/// The first refusals, so that one bad rule in ten thousand stays readable.
fn list(refusals: &[Refusal]) -> String {
    const SHOWN: usize = 3;
    let mut out: Vec<String> = refusals.iter().take(SHOWN).map(ToString::to_string).collect();
    if refusals.len() > SHOWN {
        out.push(format!("and {} more", refusals.len() - SHOWN));
    }
    out.join("; ")
}
