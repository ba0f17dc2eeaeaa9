//! Names of the objects in a datastore, and upstream's etcd path of each.
//!
//! A [`Key`] names one object, a [`Scope`] names a set of them to list or watch. Every backend
//! stores under the same names; the etcd form (`/calico/resources/v3/...`) doubles as the sort
//! order and as the text shown to people.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kind::Kind;

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const IPAM: &str = "/calico/ipam/v2/";

/// Whose an IPAM block is: a node's, or a purpose's such as `load-balancer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OwnerType {
    /// A node.
    Host,
    /// No node: the cluster itself, under a name.
    Virtual,
}

impl OwnerType {
    /// The word in keys and in a block's `affinity`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Virtual => "virtual",
        }
    }
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a prefix.
    #[must_use]
    pub const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Bits in an address: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The name of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Key {
    /// A resource of the v3 API.
    Resource {
        /// Its kind.
        kind: Kind,
        /// Its namespace; present exactly when the kind is namespaced.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// An IPAM block.
    Block(IpNet),
    /// A claim on an IPAM block.
    Affinity {
        /// Host or virtual.
        owner_type: OwnerType,
        /// Name of the owner.
        owner: String,
        /// The block claimed.
        block: IpNet,
    },
    /// An IPAM handle: the addresses of one owner.
    Handle(String),
    /// Settings of IPAM.
    IpamConfig,
    /// Marks a node that IPAM has seen.
    IpamHost(String),
}

impl Key {
    /// The key of a resource. A namespace given for a cluster-wide kind is dropped, and a missing
    /// one for a namespaced kind is `default`, as upstream's clients do.
    #[must_use]
    pub fn resource(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = kind
            .is_namespaced()
            .then(|| namespace.filter(|ns| !ns.is_empty()).unwrap_or("default").to_owned());
        Self::Resource { kind, namespace, name: name.to_owned() }
    }

    /// The kind, if this is a resource of the v3 API.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Self::Resource { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the path names this key and no other: every part is non-empty and free of `/`, and
    /// a block has no host bits. Stores refuse to write other keys.
    #[must_use]
    pub fn is_storable(&self) -> bool {
        parse(&self.to_string()).as_ref() == Some(self)
    }

    /// The last part of the name: resource name, handle, node, or CIDR.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Resource { name, .. } => name.clone(),
            Self::Block(block) | Self::Affinity { block, .. } => block.to_string(),
            Self::Handle(id) | Self::IpamHost(id) => id.clone(),
            Self::IpamConfig => "config".to_owned(),
        }
    }
}

/// The etcd v3 path, exactly as upstream writes it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { kind, namespace: None, name } => {
                write!(f, "{RESOURCES}{}/{name}", kind.plural())
            }
            Self::Resource { kind, namespace: Some(namespace), name } => {
                write!(f, "{RESOURCES}{}/{namespace}/{name}", kind.plural())
            }
            Self::Block(net) => write!(
                f,
                "{IPAM}assignment/{}/block/{}-{}",
                Family::of_net(net).path(),
                net.network(),
                net.prefix_len()
            ),
            Self::Affinity { owner_type, owner, block } => write!(
                f,
                "{IPAM}{}/{owner}/{}/block/{}-{}",
                owner_type.as_str(),
                Family::of_net(block).path(),
                block.network(),
                block.prefix_len()
            ),
            Self::Handle(id) => write!(f, "{IPAM}handle/{id}"),
            Self::IpamConfig => write!(f, "{IPAM}config"),
            Self::IpamHost(host) => write!(f, "{IPAM}host/{host}"),
        }
    }
}

/// A path that names no object this crate knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the path of a Calico object")]
pub struct UnknownPath(pub String);

impl FromStr for Key {
    type Err = UnknownPath;

    fn from_str(path: &str) -> Result<Self, UnknownPath> {
        parse(path).ok_or_else(|| UnknownPath(path.to_owned()))
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(path: &str) -> Option<Key> {
    if let Some(rest) = path.strip_prefix(RESOURCES) {
        let mut parts = rest.split('/');
        let plural = parts.next()?;
        let kind = Kind::ALL.iter().copied().find(|kind| kind.plural() == plural)?;
        let namespace = if kind.is_namespaced() { Some(part(&mut parts)?) } else { None };
        let name = part(&mut parts)?;
        return parts.next().is_none().then_some(Key::Resource { kind, namespace, name });
    }
    let parts: Vec<&str> = path.strip_prefix(IPAM)?.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    match parts[..] {
        ["config"] => Some(Key::IpamConfig),
        ["handle", id] => Some(Key::Handle(id.to_owned())),
        ["host", host] => Some(Key::IpamHost(host.to_owned())),
        ["assignment", family, "block", cidr] => Some(Key::Block(block(family, cidr)?)),
        [owner_type @ ("host" | "virtual"), owner, family, "block", cidr] => Some(Key::Affinity {
            owner_type: if owner_type == "host" { OwnerType::Host } else { OwnerType::Virtual },
            owner: owner.to_owned(),
            block: block(family, cidr)?,
        }),
        _ => None,
    }
}

fn part<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<String> {
    parts.next().filter(|part| !part.is_empty()).map(str::to_owned)
}

fn block(family: &str, cidr: &str) -> Option<IpNet> {
    let (address, length) = cidr.rsplit_once('-')?;
    let net = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?;
    (Family::of_net(&net).path() == family).then_some(net)
}

/// A set of objects to list or to watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scope {
    /// Everything.
    All,
    /// Every resource of a kind.
    Kind(Kind),
    /// The resources of a kind in one namespace.
    Namespace(Kind, String),
    /// Every IPAM block.
    Blocks,
    /// Every claim on a block.
    Affinities,
    /// The claims of one node.
    AffinitiesOf(String),
    /// Every handle.
    Handles,
    /// One object.
    One(Key),
}

impl Scope {
    /// Whether `key` belongs to the set.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::All, _)
            | (Self::Blocks, Key::Block(_))
            | (Self::Affinities, Key::Affinity { .. })
            | (Self::Handles, Key::Handle(_)) => true,
            (Self::Kind(kind), Key::Resource { kind: of, .. }) => kind == of,
            (Self::Namespace(kind, ns), Key::Resource { kind: of, namespace, .. }) => {
                kind == of && namespace.as_ref() == Some(ns)
            }
            (
                Self::AffinitiesOf(host),
                Key::Affinity { owner_type: OwnerType::Host, owner, .. },
            ) => host == owner,
            (Self::One(one), key) => one == key,
            _ => false,
        }
    }

    /// The paths that hold the set, as prefixes; some may also hold other objects.
    #[must_use]
    pub fn prefixes(&self) -> Vec<String> {
        match self {
            Self::All => vec!["/calico/".to_owned()],
            Self::Kind(kind) => vec![format!("{RESOURCES}{}/", kind.plural())],
            Self::Namespace(kind, ns) => vec![format!("{RESOURCES}{}/{ns}/", kind.plural())],
            Self::Blocks => vec![format!("{IPAM}assignment/")],
            Self::Affinities => vec![format!("{IPAM}host/"), format!("{IPAM}virtual/")],
            Self::AffinitiesOf(host) => vec![format!("{IPAM}host/{host}/")],
            Self::Handles => vec![format!("{IPAM}handle/")],
            Self::One(key) => vec![key.to_string()],
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefixes().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: Key, path: &str) {
        assert_eq!(key.to_string(), path);
        assert_eq!(path.parse(), Ok(key));
    }

    #[test]
    fn paths_are_those_of_upstream() {
        check(
            Key::resource(Kind::IpPool, None, "main"),
            "/calico/resources/v3/projectcalico.org/ippools/main",
        );
        check(
            Key::resource(Kind::NetworkPolicy, Some("prod"), "web"),
            "/calico/resources/v3/projectcalico.org/networkpolicies/prod/web",
        );
        check(
            Key::Block("10.65.0.64/26".parse().unwrap()),
            "/calico/ipam/v2/assignment/ipv4/block/10.65.0.64-26",
        );
        check(
            Key::Affinity {
                owner_type: OwnerType::Host,
                owner: "n1".into(),
                block: "fd00:65::40/122".parse().unwrap(),
            },
            "/calico/ipam/v2/host/n1/ipv6/block/fd00:65::40-122",
        );
        check(Key::Handle("net.abc".into()), "/calico/ipam/v2/handle/net.abc");
        check(Key::IpamConfig, "/calico/ipam/v2/config");
        check(Key::IpamHost("n1".into()), "/calico/ipam/v2/host/n1");
    }

    #[test]
    fn foreign_paths_are_refused() {
        for path in [
            "",
            "/calico/",
            "/calico/ipam/v2/handle/",
            "/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
            "/calico/resources/v3/projectcalico.org/networkpolicies/web",
            "/calico/resources/v3/projectcalico.org/ippools/a/b",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-99",
        ] {
            assert!(path.parse::<Key>().is_err(), "{path}");
        }
    }

    #[test]
    fn names_that_would_change_the_path_are_not_storable() {
        assert!(Key::Handle("net.abc".into()).is_storable());
        assert!(!Key::Handle("net/abc".into()).is_storable());
        assert!(!Key::Handle(String::new()).is_storable());
        assert!(!Key::resource(Kind::IpPool, None, "a/b").is_storable());
        assert!(!Key::Block("10.0.0.1/26".parse().unwrap()).is_storable());
    }

    #[test]
    fn a_scope_holds_exactly_its_keys() {
        let affinity = Key::Affinity {
            owner_type: OwnerType::Host,
            owner: "n1".into(),
            block: "10.0.0.0/26".parse().unwrap(),
        };
        assert!(Scope::AffinitiesOf("n1".into()).contains(&affinity));
        assert!(!Scope::AffinitiesOf("n2".into()).contains(&affinity));
        assert!(!Scope::Affinities.contains(&Key::IpamHost("n1".into())));
        assert!(Scope::Affinities.prefixes().iter().any(|p| affinity.to_string().starts_with(p)));
    }
}
