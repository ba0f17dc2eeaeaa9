//! Members of a lab: nodes, reflectors, routers and machines outside of the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::DEFAULT_AS;

/// The network of members that name none.
pub const FABRIC_NETWORK: &str = "fabric";

/// Where the resources of a lab are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In a file of one of the agents, which serves it to the others.
    #[default]
    Embedded,
    /// In etcd.
    Etcd,
    /// In the API server of Kubernetes.
    Kubernetes,
}

/// A machine that runs the agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Name, also of its Node resource and of its port in the fabric.
    pub name: String,
    /// The network that it is on.
    #[serde(default = "fabric")]
    pub network: String,
    /// Addresses on that network, with the network's prefix length.
    pub addresses: Vec<IpNet>,
    /// Routes that the machine has by itself, before any BGP.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
    /// AS number, if it is not the cluster's.
    #[serde(rename = "as")]
    pub as_number: Option<u32>,
    /// Makes the node a route reflector with this cluster id.
    pub cluster_id: Option<Ipv4Addr>,
    /// Labels of the Node resource.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether its agent holds the datastore.
    #[serde(default)]
    pub store: bool,
}

/// A stand-alone route reflector (calico-rr).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reflector {
    /// Name.
    pub name: String,
    /// Addresses on the fabric.
    pub addresses: Vec<IpNet>,
    /// AS number.
    #[serde(rename = "as", default = "default_as")]
    pub as_number: u32,
    /// Cluster id; its router id if absent.
    pub cluster_id: Option<Ipv4Addr>,
}

/// An external router.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Router {
    /// Name.
    pub name: String,
    /// The program that speaks BGP on it.
    #[serde(default)]
    pub kind: RouterKind,
    /// The network of its first interface.
    #[serde(default = "fabric")]
    pub network: String,
    /// Addresses on that network.
    pub addresses: Vec<IpNet>,
    /// Its further interfaces.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Addresses of its loopback interface.
    #[serde(default)]
    pub loopbacks: Vec<IpNet>,
    /// Routes that it has by itself.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
    /// AS number.
    #[serde(rename = "as")]
    pub as_number: u32,
    /// Selector of the nodes that it has sessions with; absent: those on its networks.
    pub nodes: Option<String>,
    /// Which of its addresses the sessions with nodes have.
    #[serde(default)]
    pub session: SessionAddress,
    /// Routers above it, such as spines: it has a session with each, and tells it everything.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Prefixes that it announces to those below it: nodes, and routers whose uplink it is.
    #[serde(default)]
    pub announces: Vec<IpNet>,
    /// What else it tells those below it.
    #[serde(default)]
    pub tells: Tells,
    /// Password of its sessions with nodes (TCP MD5, RFC 2385).
    pub password: Option<String>,
    /// A configuration of BIRD to use as it is, relative to the topology file.
    pub config: Option<PathBuf>,
}

/// Which program a router runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterKind {
    /// BIRD 2.
    #[default]
    Bird,
    /// FRR: zebra and bgpd.
    Frr,
}

/// Which address of a router the sessions with nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionAddress {
    /// That of the network that it shares with the node.
    #[default]
    Interface,
    /// That of its loopback: the session is not bound to one link, and takes several hops.
    Loopback,
}

/// What a router tells those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tells {
    /// What it announces itself, and nothing that it learned.
    #[default]
    Announced,
    /// That, and everything that it learned.
    All,
}

/// A further interface of a router.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// The network.
    pub network: String,
    /// Addresses on it.
    pub addresses: Vec<IpNet>,
}

/// A machine outside of the cluster. It runs nothing, and is where traffic comes from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Name.
    pub name: String,
    /// The network that it is on.
    #[serde(default = "fabric")]
    pub network: String,
    /// Addresses on that network.
    pub addresses: Vec<IpNet>,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
}

/// A route that does not come from BGP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticRoute {
    /// Destination.
    pub to: IpNet,
    /// Gateways; several share the traffic.
    pub via: Vec<IpAddr>,
}

impl StaticRoute {
    /// As `ip route add` takes it.
    pub(crate) fn command(&self) -> String {
        let hops = self.via.iter().map(|via| format!(" nexthop via {via}"));
        format!("route add {}{}", self.to, hops.collect::<String>())
    }
}

impl Router {
    /// Networks that it is on, with its addresses there.
    pub fn interfaces(&self) -> impl Iterator<Item = (&str, &[IpNet])> {
        let further = self.links.iter().map(|link| (link.network.as_str(), &link.addresses[..]));
        std::iter::once((self.network.as_str(), &self.addresses[..])).chain(further)
    }
}

fn fabric() -> String {
    FABRIC_NETWORK.to_owned()
}

fn default_as() -> u32 {
    DEFAULT_AS
}
