//! Passwords, which are kept outside of the resources that refer to them.

use std::fmt;

use calico_bgp::speaker::Password;
use calico_core::resource::{BgpPassword, BgpPeerSpec};

/// One entry of a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Name of the secret.
    pub name: String,
    /// The entry.
    pub key: String,
}

/// A password, or why there is none, in words. Never printed.
pub type Secret = Result<Password, String>;

impl SecretRef {
    pub(crate) fn of(password: &BgpPassword) -> Option<Self> {
        let reference = password.secret_key_ref.as_ref()?;
        Some(Self { name: reference.name.clone(), key: reference.key.clone() })
    }

    pub(crate) fn of_peer(spec: &BgpPeerSpec) -> Option<Self> {
        spec.password.as_ref().and_then(Self::of)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}
