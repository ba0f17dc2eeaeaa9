//! The way of a packet through a cluster: everybody whose policy is asked about it, in order.
//!
//! [`eval`](crate::eval) says what one endpoint does with a packet. Between two ends several are
//! asked: the workload that sends, host endpoints whose policy applies to what their node forwards,
//! and the workload or host that receives. For that it takes a state of all nodes
//! ([`Graph::for_every_node`](crate::Graph::for_every_node)) and where everybody is ([`Topology`]).
//!
//! Judged is the first packet of a connection, by the addresses that it carries then: what services
//! translate is up to the caller.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use calico_core::resource::{HostEndpoint, HostEndpointSpec};
//! use calico_policy::eval::Packet;
//! use calico_policy::way::{Cluster, Topology};
//! use calico_policy::{Graph, Input};
//!
//! let host = HostEndpoint::new("n1-eth0", HostEndpointSpec {
//!     node: "n1".into(),
//!     interface_name: "eth0".into(),
//!     expected_ips: vec!["192.0.2.11".parse()?],
//!     ..Default::default()
//! });
//! let (mut graph, mut topology) = (Graph::for_every_node(), Topology::default());
//! let input = Input::Put(host.into());
//! topology.handle(&input);
//! graph.handle(input)?;
//! graph.flush();
//! let cluster = Cluster { desired: &graph.desired(), topology: &topology };
//!
//! let packet = Packet::to_port("203.0.113.9".parse()?, "192.0.2.11".parse()?, 6, 80);
//! let way = cluster.walk(&cluster.place_of(packet.source), &cluster.place_of(packet.destination), &packet);
//! assert_eq!(
//!     way.verdict(),
//!     "denied by default: no profile allowed it (ingress at host endpoint n1-eth0)",
//! );
//! # Ok(())
//! # }
//! ```

mod topology;

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    Direction, EndpointId, EndpointToHostAction, HostEndpoint, HostInterface, TierPolicies,
    Verdict, VerdictCause,
};

use ipnet::IpNet;
pub use topology::Topology;

use crate::desired::Desired;
use crate::eval::{Decision, Packet};
use crate::nets;

/// A state of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// The policy of every endpoint.
    pub desired: &'a Desired,
    /// Where the endpoints are.
    pub topology: &'a Topology,
}

/// Who is at an end of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A workload.
    Workload {
        /// Its endpoint.
        id: EndpointId,
        /// The node that it is on.
        node: Arc<str>,
    },
    /// A node itself.
    Host {
        /// The node.
        node: Arc<str>,
        /// The host endpoint that protects it at the address in question; none if `None`.
        endpoint: Option<Arc<str>>,
    },
    /// Nobody whom policy protects.
    Outside,
}

impl Place {
    /// The node that this is on; `None` outside.
    #[must_use]
    pub const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Workload { node, .. } | Self::Host { node, .. } => Some(node),
            Self::Outside => None,
        }
    }
}

/// Addresses that policy does not tell apart; see [`Cluster::divide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The prefix that they are of: all of it that is in no longer prefix of another part.
    pub net: IpNet,
    /// One of them.
    pub address: IpAddr,
}

/// Who was asked about a packet, until one denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The packet.
    pub packet: Packet,
    /// Who was asked, in order.
    pub hops: Vec<Hop>,
    /// What becomes of packets from a workload to its own host, if this is one.
    pub to_host: Option<EndpointToHostAction>,
    /// What was assumed, for people: over which of several interfaces the packet goes.
    pub doubts: Vec<String>,
}

/// One who was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Whose policy it was.
    pub at: At,
    /// Which way the packet went there.
    pub direction: Direction,
    /// What was said.
    pub decision: Decision,
}

/// Whose policy was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// That of the workload which sends or receives.
    Workload,
    /// That of a host endpoint.
    Host {
        /// Its name.
        name: Arc<str>,
        /// Whether the host forwards the packet, or else sends or receives it itself.
        forwarded: bool,
    },
}

impl Cluster<'_> {
    /// Who has an address: a workload, or else a node.
    #[must_use]
    pub fn place_of(&self, address: IpAddr) -> Place {
        if let Some(endpoint) = self.desired.endpoint_of(address) {
            return self.workload(&endpoint.id);
        }
        match self.topology.node_with(address) {
            Some(node) => self.host(node, address),
            None => Place::Outside,
        }
    }

    /// The place of a workload. If nobody knows its node, it counts as one of its own.
    #[must_use]
    pub fn workload(&self, id: &EndpointId) -> Place {
        let node = self.topology.node_of(id).map_or_else(|| id.to_string().into(), Arc::clone);
        Place::Workload { id: id.clone(), node }
    }

    /// The place of a node, as met at one of its addresses: behind the host endpoint which expects
    /// that address, else the one of all interfaces, else one that names its interface only.
    #[must_use]
    pub fn host(&self, node: &Arc<str>, address: IpAddr) -> Place {
        let rank = |endpoint: &HostEndpoint| {
            let expected = self.topology.expected(&endpoint.name);
            match (expected.contains(&address), &endpoint.interface) {
                (true, _) => Some(0),
                (false, HostInterface::All) => Some(1),
                (false, HostInterface::Named(_)) if expected.is_empty() => Some(2),
                _ => None,
            }
        };
        let ranked = self.host_endpoints(node).filter_map(|it| Some((rank(it)?, &it.name)));
        let endpoint = ranked.min().map(|(_, name)| Arc::clone(name));
        Place::Host { node: Arc::clone(node), endpoint }
    }

    /// Divides a prefix where policy may: at prefixes that rules and sets name, and at the addresses
    /// of workloads and nodes. Shorter prefixes come first.
    #[must_use]
    pub fn divide(&self, net: IpNet) -> Vec<Part> {
        let net = net.trunc();
        let workloads = self.desired.endpoints.values().flat_map(|it| &it.addresses);
        let hosts = self.topology.node_addresses().map(IpNet::from);
        let inside = nets::named(self.desired).into_iter().chain(workloads.copied()).chain(hosts);
        let mut all: Vec<IpNet> = inside.filter(|other| net.contains(other)).collect();
        all.push(net);
        all.sort_by_key(|net| (net.prefix_len(), *net));
        all.dedup();
        let part = |(number, net): (usize, &IpNet)| {
            let inner = all[number + 1..].iter().filter(|other| net.contains(*other));
            Some(Part { net: *net, address: nets::free(net, inner)? })
        };
        all.iter().enumerate().filter_map(part).collect()
    }

    /// Carries a packet from one place to another.
    #[must_use]
    pub fn walk(&self, from: &Place, to: &Place, packet: &Packet) -> Way {
        let mut way = Way { packet: *packet, hops: Vec::new(), to_host: None, doubts: Vec::new() };
        let stays = from.node().is_some() && from.node() == to.node();
        match (from, to) {
            // A host always reaches its own workloads, and itself.
            (Place::Host { .. }, _) if stays => return way,
            _ => self.ask_end(&mut way, from, Direction::Egress),
        }
        if !stays {
            for (place, direction) in [(from, Direction::Egress), (to, Direction::Ingress)] {
                if let (Place::Workload { node, .. }, true) = (place, way.goes_on()) {
                    self.ask_forwarding(&mut way, node, direction);
                }
            }
        }
        if !way.goes_on() {
            return way;
        }
        match to {
            Place::Host { .. } if stays => {
                let host = self.desired.host.as_ref();
                way.to_host = Some(host.map(|host| host.endpoint_to_host).unwrap_or_default());
            }
            _ => self.ask_end(&mut way, to, Direction::Ingress),
        }
        way
    }

    /// The host endpoints of a node, by name.
    pub(crate) fn host_endpoints(&self, node: &str) -> impl Iterator<Item = &HostEndpoint> {
        let names = self.topology.host_endpoints(node);
        names.filter_map(|name| self.desired.host_endpoints.get(name))
    }

    /// The host endpoint over which a node sends out packets of its workloads, or takes in packets
    /// for them: of those with something to say about it, the one of all interfaces, which is the
    /// only one that is certainly on the way. Others that might be follow.
    pub(crate) fn forwarding(&self, node: &str, direction: Direction) -> Vec<&HostEndpoint> {
        let says = |endpoint: &&HostEndpoint| {
            let has = |tiers: &[TierPolicies]| {
                tiers.iter().any(|tier| match direction {
                    Direction::Ingress => !tier.ingress.is_empty(),
                    Direction::Egress => !tier.egress.is_empty(),
                })
            };
            // What leaves is judged where it is forwarded only.
            let early = direction == Direction::Ingress
                && (has(&endpoint.untracked) || has(&endpoint.pre_dnat));
            early || has(&endpoint.forward)
        };
        let mut found: Vec<&HostEndpoint> = self.host_endpoints(node).filter(says).collect();
        found.sort_by_key(|endpoint| endpoint.interface != HostInterface::All);
        found
    }

    /// Asks who is where the packet begins, or ends.
    fn ask_end(&self, way: &mut Way, place: &Place, direction: Direction) {
        match place {
            Place::Workload { id, .. } => {
                if let Some(endpoint) = self.desired.endpoints.get(id) {
                    let decision = self.desired.evaluate(endpoint, direction, &way.packet);
                    way.hops.push(Hop { at: At::Workload, direction, decision });
                }
            }
            Place::Host { endpoint: Some(name), .. } => {
                if let Some(endpoint) = self.desired.host_endpoints.get(name) {
                    self.ask_host(way, endpoint, direction, false);
                }
            }
            Place::Host { endpoint: None, .. } | Place::Outside => {}
        }
    }

    fn ask_forwarding(&self, way: &mut Way, node: &str, direction: Direction) {
        let found = self.forwarding(node, direction);
        let Some((first, others)) = found.split_first() else { return };
        if first.interface != HostInterface::All || !others.is_empty() {
            let others: Vec<&str> = others.iter().map(|endpoint| &*endpoint.name).collect();
            let others = match others[..] {
                [] => String::new(),
                _ => format!(", and not over those of {}", others.join(", ")),
            };
            way.doubts.push(format!(
                "taken to pass node {node} over {} (host endpoint {}){others}",
                first.interface, first.name
            ));
        }
        self.ask_host(way, first, direction, true);
    }

    fn ask_host(&self, way: &mut Way, at: &HostEndpoint, direction: Direction, forwarded: bool) {
        let decision = self.desired.evaluate_host(at, direction, forwarded, &way.packet);
        let at = At::Host { name: Arc::clone(&at.name), forwarded };
        way.hops.push(Hop { at, direction, decision });
    }
}

impl Way {
    /// Whether the packet arrives.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.goes_on() && self.to_host != Some(EndpointToHostAction::Drop)
    }

    /// The verdict and what decided, in words.
    #[must_use]
    pub fn verdict(&self) -> String {
        let word = if self.is_allowed() { "allowed" } else { "denied" };
        format!("{word} by {}", self.by())
    }

    /// What decided, in words.
    #[must_use]
    pub fn by(&self) -> String {
        if self.to_host == Some(EndpointToHostAction::Drop) {
            return "defaultEndpointToHostAction Drop".to_owned();
        }
        let Some(hop) = self.deciding() else { return "default: no policy applies".to_owned() };
        match (&hop.decision.cause, &hop.at) {
            // It says its direction itself.
            (VerdictCause::Rule(id), _) => id.to_string(),
            (other, At::Workload) => format!("{other} ({})", hop.direction),
            (other, At::Host { name, .. }) => {
                format!("{other} ({} at host endpoint {name})", hop.direction)
            }
        }
    }

    /// The denial, or else the last one who had something to say. `None` if nobody was asked.
    #[must_use]
    pub fn deciding(&self) -> Option<&Hop> {
        let says = |hop: &&Hop| hop.decision.cause != VerdictCause::NoForwardPolicy;
        self.hops.iter().rev().find(says).or_else(|| self.hops.last())
    }

    /// What was said at the workload that sends (`Egress`), or receives (`Ingress`).
    #[must_use]
    pub fn at_workload(&self, direction: Direction) -> Option<&Decision> {
        let wanted = |hop: &&Hop| (&hop.at, hop.direction) == (&At::Workload, direction);
        self.hops.iter().find(wanted).map(|hop| &hop.decision)
    }

    fn goes_on(&self) -> bool {
        self.hops.iter().all(|hop| hop.decision.verdict == Verdict::Allowed)
    }
}
