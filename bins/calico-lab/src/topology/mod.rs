//! The topology file: what a lab consists of. `docs/lab.md` shows every key.
//!
//! ```
//! use calico_lab::topology::Topology;
//!
//! let text = "
//! name: tiny
//! nodes:
//!   - { name: node1, addresses: [172.30.0.11/24] }
//!   - { name: node2, addresses: [172.30.0.11/24] }
//! ";
//! let error = Topology::parse("tiny.yaml", text).unwrap_err().to_string();
//! assert!(error.contains("line 5: nodes[1].addresses: 172.30.0.11 is node1's already"));
//! ```

mod check;
mod lines;
mod manifest;
mod member;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use calico_core::resource::EncapMode;
use ipnet::IpNet;
use serde::Deserialize;

pub(crate) use manifest::SECRET_KEY;
pub use member::{
    FABRIC_NETWORK, Host, Link, Node, Reflector, Router, RouterKind, SessionAddress, StaticRoute,
    StoreKind, Tells,
};

/// AS number of nodes where nothing else is said, as upstream's default.
pub const DEFAULT_AS: u32 = 64512;

/// A topology file that was read and found sound.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// Name of the lab.
    pub name: String,
    /// Where the resources are kept.
    #[serde(default)]
    pub store: StoreKind,
    /// Machines that run the agent.
    pub nodes: Vec<Node>,
    /// Pools that pods get addresses from.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Pods.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// Stand-alone route reflectors.
    #[serde(default)]
    pub reflectors: Vec<Reflector>,
    /// External routers.
    #[serde(default)]
    pub routers: Vec<Router>,
    /// Machines outside of the cluster.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Addresses that the nodes answer for.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Manifests to apply, beyond those that follow from nodes, pools, reflectors and routers.
    #[serde(default)]
    pub resources: Vec<serde_json::Value>,
}

/// A pool of pod addresses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// Name of the IPPool.
    pub name: String,
    /// Its range.
    pub cidr: IpNet,
    /// Prefix length of a block; upstream's default if absent (26, or 122 for IPv6).
    pub block_size: Option<u8>,
    /// Whether traffic that leaves the pools gets the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// When packets between nodes travel in VXLAN; never if absent.
    pub vxlan_mode: Option<EncapMode>,
    /// When they travel in IP-in-IP; never if absent.
    pub ipip_mode: Option<EncapMode>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Kubernetes namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Node that it runs on.
    pub node: String,
    /// Labels, for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// TCP ports that it listens on.
    #[serde(default)]
    pub tcp: Vec<u16>,
    /// UDP ports that it listens on.
    #[serde(default)]
    pub udp: Vec<u16>,
}

/// An address that the nodes answer for, each with its own pods of the service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Its addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// TCP port that is forwarded to the same port of the pods.
    pub port: u16,
    /// Names of its pods; every node has one at least.
    pub pods: Vec<String>,
}

/// One thing wrong with a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, such as `pods[2].node`.
    pub place: String,
    /// Line of the file that this stands on, from 1.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Why a topology cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read topology {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no YAML, or has a key or value that this program does not know.
    #[error("topology {origin} cannot be understood: {reason}")]
    Parse {
        /// The file.
        origin: String,
        /// Line, column and cause.
        reason: String,
    },
    /// It is understood, and does not hold together.
    #[error("topology {origin} has {} problem(s):{}", problems.len(), bullets(problems))]
    Invalid {
        /// The file.
        origin: String,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

impl Topology {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// See [`TopologyError`]; [`TopologyError::Invalid`] lists every problem at once.
    pub fn read(path: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
        let mut topology = Self::parse(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        for config in topology.routers.iter_mut().filter_map(|router| router.config.as_mut()) {
            *config = folder.join(&*config);
        }
        Ok(topology)
    }

    /// Reads and checks `text`; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// As of [`read`](Self::read).
    pub fn parse(origin: &str, text: &str) -> Result<Self, TopologyError> {
        let mut topology: Self = serde_saphyr::from_str(text).map_err(|error| {
            TopologyError::Parse { origin: origin.to_owned(), reason: error.to_string() }
        })?;
        let mut problems = topology.problems();
        if !problems.is_empty() {
            lines::find(text, &mut problems);
            return Err(TopologyError::Invalid { origin: origin.to_owned(), problems });
        }
        if !topology.nodes.iter().any(|node| node.store) {
            topology.nodes[0].store = true;
        }
        Ok(topology)
    }

    /// The node whose agent holds the datastore.
    #[must_use]
    pub fn store_node(&self) -> &Node {
        self.nodes.iter().find(|node| node.store).unwrap_or(&self.nodes[0])
    }

    /// Names of everybody but pods.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().map(|it| &it.name);
        let reflectors = self.reflectors.iter().map(|it| &it.name);
        let routers = self.routers.iter().map(|it| &it.name);
        let hosts = self.hosts.iter().map(|it| &it.name);
        nodes.chain(reflectors).chain(routers).chain(hosts).map(String::as_str)
    }

    /// Addresses of everybody but pods.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let nodes = self.nodes.iter().flat_map(|it| &it.addresses);
        let reflectors = self.reflectors.iter().flat_map(|it| &it.addresses);
        let routers = self.routers.iter().flat_map(Router::interfaces).flat_map(|(_, nets)| nets);
        let hosts = self.hosts.iter().flat_map(|it| &it.addresses);
        nodes.chain(reflectors).chain(routers).chain(hosts).copied()
    }

    /// The node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// AS number of a node: its own, that of BGPConfiguration `default`, or upstream's default.
    #[must_use]
    pub fn as_of(&self, node: &Node) -> u32 {
        let of_cluster = || {
            self.resources
                .iter()
                .filter(|it| {
                    it["kind"] == "BGPConfiguration" && it["metadata"]["name"] == "default"
                })
                .find_map(|it| it["spec"]["asNumber"].as_u64()?.try_into().ok())
        };
        node.as_number.or_else(of_cluster).unwrap_or(DEFAULT_AS)
    }

    /// The pod called `namespace/name`, or `name` where that is enough.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        let mut found = self.pods.iter().filter(|pod| pod.name == name || pod.id() == name);
        found.next().filter(|_| found.next().is_none())
    }

    /// Device that carries packets of a family between nodes, if a pool asks for one.
    #[must_use]
    pub fn tunnel_device(&self, v6: bool) -> Option<&'static str> {
        let wrapped = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
        let mut pools = self.pools.iter().filter(|it| matches!(it.cidr, IpNet::V6(_)) == v6);
        let pool = pools.find(|it| wrapped(it.vxlan_mode) || wrapped(it.ipip_mode))?;
        Some(match (wrapped(pool.vxlan_mode), v6) {
            (true, false) => "vxlan.calico",
            (true, true) => "vxlan-v6.calico",
            (false, _) => "tunl0",
        })
    }

    /// Whether pods get addresses of this family.
    #[must_use]
    pub fn has_pool(&self, v6: bool) -> bool {
        self.pools.iter().any(|pool| matches!(pool.cidr, IpNet::V6(_)) == v6)
    }
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The address of a family among the addresses of a member of the fabric.
#[must_use]
pub fn address_of(addresses: &[IpNet], v6: bool) -> Option<IpAddr> {
    addresses.iter().map(IpNet::addr).find(|address| address.is_ipv6() == v6)
}

/// BGP identifier of a member of the fabric: its IPv4 address. Where it has none, one of
/// 192.0.2.0/24, which is nobody's (RFC 5737).
#[must_use]
pub fn router_id(addresses: &[IpNet]) -> Ipv4Addr {
    let v4 = addresses.iter().find_map(|address| match address {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    });
    v4.unwrap_or(Ipv4Addr::new(192, 0, 2, 1))
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn bullets(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
