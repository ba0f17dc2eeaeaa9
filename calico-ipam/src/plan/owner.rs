//! Whose a block is.

use std::fmt;

use calico_core::key::{Key, OwnerType};
use ipnet::IpNet;

/// The owner of a block: a node, or a purpose such as `load-balancer`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Host or virtual.
    pub kind: OwnerType,
    /// Name of the node, or of the purpose.
    pub name: String,
}

impl Owner {
    /// A node.
    #[must_use]
    pub fn host(node: impl Into<String>) -> Self {
        Self { kind: OwnerType::Host, name: node.into() }
    }

    /// A purpose.
    #[must_use]
    pub fn virtual_named(name: impl Into<String>) -> Self {
        Self { kind: OwnerType::Virtual, name: name.into() }
    }

    /// Reads a block's `affinity`, such as `host:node1`.
    #[must_use]
    pub fn parse(affinity: &str) -> Option<Self> {
        let (kind, name) = affinity.split_once(':')?;
        let kind =
            [OwnerType::Host, OwnerType::Virtual].into_iter().find(|k| k.as_str() == kind)?;
        (!name.is_empty()).then(|| Self { kind, name: name.to_owned() })
    }

    /// The key of this owner's claim on `block`.
    #[must_use]
    pub fn affinity_key(&self, block: IpNet) -> Key {
        Key::Affinity { owner_type: self.kind, owner: self.name.clone(), block }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.name)
    }
}
