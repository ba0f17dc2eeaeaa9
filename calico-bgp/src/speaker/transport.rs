//! How the TCP connections of a peer are protected: passwords and distances.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest password in octets (`TCP_MD5SIG_MAXKEYLEN` of the kernel).
const MAX_PASSWORD: usize = 80;

/// A password for the signatures of TCP segments (RFC 2385), 1 to 80 octets. Never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(Arc<[u8]>);

impl Password {
    /// # Errors
    /// [`PasswordError`] for an empty one and one of more than 80 octets.
    pub fn new(password: impl AsRef<[u8]>) -> Result<Self, PasswordError> {
        let octets = password.as_ref();
        match octets.len() {
            1..=MAX_PASSWORD => Ok(Self(octets.into())),
            length => Err(PasswordError { length }),
        }
    }

    /// The octets, to be handed to the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A password that TCP signatures cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a BGP password has 1 to 80 octets, not {length}")]
pub struct PasswordError {
    /// Octets that it had.
    pub length: usize,
}

/// How far away the peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Distance {
    /// Anywhere: packets start with the kernel's usual TTL.
    #[default]
    Anywhere,
    /// At most this many hops (1 is "on the same link"): packets start with this TTL, and so do
    /// not get further. It says nothing about packets that arrive.
    Hops(u8),
    /// At most this many hops, and the kernel drops what comes from further away: packets start
    /// with TTL 255, and those that arrive must have at least 256 - hops left (RFC 5082). Both
    /// sides have to be set so.
    Secured(u8),
}

impl Distance {
    /// TTL of packets sent; `None` for the kernel's own.
    pub const fn ttl(self) -> Option<u8> {
        match self {
            Self::Anywhere => None,
            Self::Hops(hops) => Some(hops),
            Self::Secured(_) => Some(255),
        }
    }

    /// Least TTL of packets that arrive; `None` for any.
    pub const fn min_ttl(self) -> Option<u8> {
        match self {
            Self::Secured(hops) => Some((256 - hops as u16) as u8),
            Self::Anywhere | Self::Hops(_) => None,
        }
    }

    pub(super) const fn is_valid(self) -> bool {
        !matches!(self, Self::Hops(0) | Self::Secured(0))
    }
}

/// What a driver has to set on the sockets of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Transport {
    /// Password of the signatures (RFC 2385). A driver that cannot set it must not connect.
    pub password: Option<Password>,
    /// Distance of the peer.
    pub distance: Distance,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_bounded_and_not_told() {
        assert!(Password::new("").is_err());
        assert!(Password::new([b'x'; 81]).is_err());
        let password = Password::new("secret").unwrap();
        assert!(!format!("{password:?}").contains("secret"));
    }

    #[test]
    fn ttl_of_distances() {
        let check = |d: Distance, ttl, min| assert_eq!((d.ttl(), d.min_ttl()), (ttl, min), "{d:?}");
        check(Distance::Anywhere, None, None);
        check(Distance::Hops(2), Some(2), None);
        check(Distance::Secured(1), Some(255), Some(255));
        check(Distance::Secured(255), Some(255), Some(1));
    }
}
