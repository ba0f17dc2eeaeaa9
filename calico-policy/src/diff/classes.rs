//! Ends of flows that no rule tells apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_core::dataplane::{Direction, EndpointId, SetId, SetMember};
use calico_core::key::Family;
use ipnet::IpNet;

use super::{End, Nodes};
use crate::desired::Desired;
use crate::eval::SetLookup as _;
use crate::nets;
use crate::way::{Cluster, Place};

/// Ends that every rule treats alike.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) family: Family,
    kind: Kind,
    /// Whether it matters on which node the other end is.
    asks_nodes: bool,
    members: Vec<Member>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Member {
    end: End,
    pub(super) address: IpAddr,
    /// Before and after.
    pub(super) places: [Place; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Workload,
    Node,
    Outside,
}

impl Member {
    fn node(&self) -> Option<&Arc<str>> {
        self.places[1].node().or_else(|| self.places[0].node())
    }
}

impl Class {
    /// Two ends each that stand for all flows from here to there, by the nodes that they are on.
    /// None if such flows meet no policy: what somebody sends to itself does not leave it.
    pub(super) fn pairs<'a>(&'a self, to: &'a Self) -> Vec<(Nodes, &'a Member, &'a Member)> {
        let is_outside = self.kind == Kind::Outside && to.kind == Kind::Outside;
        if self.family != to.family || is_outside {
            return Vec::new();
        }
        let any_of = |wanted: &dyn Fn(&Member, &Member) -> bool| {
            self.members.iter().find_map(|from| {
                let other = to.members.iter().find(|to| from.end != to.end && wanted(from, to));
                Some((from, other?))
            })
        };
        if !self.asks_nodes && !to.asks_nodes {
            let pair = any_of(&|_, _| true);
            return pair.map(|(from, to)| (Nodes::Any, from, to)).into_iter().collect();
        }
        let of_hosts = self.kind == Kind::Node && to.kind == Kind::Node;
        let same = self.on_same_node(to).filter(|_| !of_hosts);
        let different = any_of(&|from, to| from.node().is_none() || from.node() != to.node());
        match (same, different) {
            (Some(same), Some(different)) => {
                vec![(Nodes::Same, same.0, same.1), (Nodes::Different, different.0, different.1)]
            }
            (one, other) => {
                let only = one.or(other).map(|(from, to)| (Nodes::Any, from, to));
                only.into_iter().collect()
            }
        }
    }

    fn on_same_node<'a>(&'a self, to: &'a Self) -> Option<(&'a Member, &'a Member)> {
        let mut there: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
        for member in &to.members {
            let Some(node) = member.node() else { continue };
            let here = there.entry(node).or_default();
            // One of them may be who sends.
            if here.len() < 2 {
                here.push(member);
            }
        }
        self.members.iter().find_map(|from| {
            let others = there.get(&**from.node()?)?;
            Some((from, *others.iter().find(|to| to.end != from.end)?))
        })
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = End> + '_ {
        self.members.iter().map(|member| member.end.clone())
    }
}

/// What rules can know of an end: in each state, its policies, those of its node, and where its
/// address is in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traits {
    kind: Kind,
    family: Family,
    policies: Vec<String>,
    forwarding: Vec<String>,
    nets: Vec<bool>,
    sets: Vec<Option<Vec<SetMember>>>,
}

/// All ends there are, in classes.
pub(super) fn classes(states: &[Cluster<'_>; 2]) -> Vec<Class> {
    let desired = states.map(|state| state.desired);
    let nodes = nodes(states);
    let of_workloads = desired.iter().flat_map(|state| state.endpoints.values());
    let of_workloads = of_workloads.flat_map(|it| it.addresses.iter().map(IpNet::addr));
    let known: BTreeSet<IpAddr> = of_workloads.chain(nodes.values().flatten().copied()).collect();
    let nets = nets_in_rules(&desired, &known);
    let set_ids: Vec<Vec<&SetId>> = desired.iter().map(|s| s.sets.keys().collect()).collect();
    let mut classes: BTreeMap<Traits, Class> = BTreeMap::new();
    let mut add = |kind: Kind, member: Member| {
        let (family, address) = (Family::of(member.address), member.address);
        let both = || states.iter().zip(&member.places);
        let forwarding: Vec<String> = both().flat_map(|(s, place)| forwarding(s, place)).collect();
        let asks_nodes = kind == Kind::Node || !forwarding.is_empty();
        let traits = Traits {
            kind,
            family,
            policies: both().map(|(state, place)| policies(state.desired, place)).collect(),
            forwarding,
            nets: nets.iter().map(|net| net.contains(&address)).collect(),
            sets: desired
                .iter()
                .zip(&set_ids)
                .flat_map(|(state, ids)| ids.iter().map(|id| membership(state, id, address)))
                .collect(),
        };
        let class = classes.entry(traits).or_insert_with(|| Class {
            family,
            kind,
            asks_nodes,
            members: Vec::new(),
        });
        if !class.members.iter().any(|known| known.end == member.end) {
            class.members.push(member);
        }
    };
    let [before, after] = desired;
    let both = before.endpoints.values().filter(|e| after.endpoints.contains_key(&e.id));
    for endpoint in both {
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            let places = states.map(|state| state.workload(&endpoint.id));
            let end = End::Workload(endpoint.id.clone());
            add(Kind::Workload, Member { end, address, places });
        }
    }
    for (node, addresses) in &nodes {
        for address in addresses {
            let places = states.map(|state| state.host(node, *address));
            let end = End::Node(Arc::clone(node));
            add(Kind::Node, Member { end, address: *address, places });
        }
    }
    for (address, end) in outside(&nets, &known) {
        let places = [Place::Outside, Place::Outside];
        add(Kind::Outside, Member { end, address, places });
    }
    classes.into_values().collect()
}

/// Nodes that have a host endpoint in one of the states, with addresses of theirs that are no
/// workload's.
fn nodes(states: &[Cluster<'_>; 2]) -> BTreeMap<Arc<str>, BTreeSet<IpAddr>> {
    let mut found: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
    for state in states {
        for (node, addresses) in state.topology.protected_nodes() {
            // What was refused protects nobody.
            if state.host_endpoints(&node).next().is_some() {
                found.entry(node).or_default().extend(addresses);
            }
        }
    }
    let is_workload =
        |address: &IpAddr| states.iter().any(|s| s.desired.endpoint_of(*address).is_some());
    found.values_mut().for_each(|addresses| addresses.retain(|address| !is_workload(address)));
    found
}

/// The policies of whoever is at this place, but not whose they are.
fn policies(state: &Desired, place: &Place) -> String {
    let of_workload = |id: &EndpointId| {
        let endpoint = state.endpoints.get(id)?;
        Some(format!("{:?} {:?}", endpoint.tiers, endpoint.profiles))
    };
    let of_host = |name: &Arc<str>| {
        let it = state.host_endpoints.get(name)?;
        Some(format!("{:?} {:?} {:?} {:?}", it.untracked, it.pre_dnat, it.local, it.profiles))
    };
    let found = match place {
        Place::Workload { id, .. } => of_workload(id),
        Place::Host { endpoint, .. } => endpoint.as_ref().and_then(of_host),
        Place::Outside => None,
    };
    found.unwrap_or_default()
}

/// What the node of a workload says of packets that it forwards; nothing if it lets all of them
/// pass.
fn forwarding(state: &Cluster<'_>, place: &Place) -> Vec<String> {
    let Place::Workload { node, .. } = place else { return Vec::new() };
    let directions = [Direction::Ingress, Direction::Egress];
    let first = directions.map(|direction| state.forwarding(node, direction).first().copied());
    if first.iter().all(Option::is_none) {
        return Vec::new();
    }
    let said = first.iter().map(|endpoint| {
        endpoint.map_or_else(String::new, |it| {
            format!("{:?} {:?} {:?}", it.untracked, it.pre_dnat, it.forward)
        })
    });
    said.collect()
}

/// Whether the address is in the set; with which ports, if the set is one of ports.
fn membership(state: &Desired, set: &SetId, address: IpAddr) -> Option<Vec<SetMember>> {
    if state.has_address(set, address) {
        return Some(Vec::new());
    }
    let ports = state.sets.get(set)?.members.iter().filter_map(|member| match *member {
        // The address is another one in each member of a class.
        SetMember::Port { address: own, protocol, port } if own == address => {
            Some(SetMember::Port { address: Ipv4Addr::UNSPECIFIED.into(), protocol, port })
        }
        _ => None,
    });
    let ports: Vec<SetMember> = ports.collect();
    (!ports.is_empty()).then_some(ports)
}

/// Every prefix that somebody names; not the addresses of workloads and nodes, which are in their
/// classes by the sets that they are in.
fn nets_in_rules(states: &[&Desired; 2], known: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    let named: BTreeSet<IpNet> = states.iter().flat_map(|state| nets::named(state)).collect();
    let is_known =
        |net: &IpNet| net.prefix_len() == net.max_prefix_len() && known.contains(&net.addr());
    named.into_iter().filter(|net| !is_known(net)).collect()
}

/// An address of each prefix, and one of each family that is in none of them.
fn outside(nets: &[IpNet], known: &BTreeSet<IpAddr>) -> Vec<(IpAddr, End)> {
    let known: Vec<IpNet> = known.iter().copied().map(IpNet::from).collect();
    let mut found: Vec<(IpAddr, End)> = Vec::new();
    for net in nets {
        let inner = nets.iter().filter(|other| *other != net && net.contains(*other));
        let free = nets::free(net, inner.chain(&known));
        found.extend(free.map(|address| (address, End::Net(*net))));
    }
    let elsewhere = [
        // Documentation prefixes (RFC 5737, RFC 3849), and others if rules name those.
        IpNet::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
        IpNet::from(IpAddr::from(Ipv4Addr::new(198, 51, 100, 1))),
        IpNet::from(IpAddr::from(Ipv4Addr::new(203, 0, 113, 1))),
        IpNet::from(IpAddr::from(Ipv4Addr::new(9, 9, 9, 9))),
        IpNet::from(IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
        IpNet::from(IpAddr::from(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe))),
    ];
    for family in Family::BOTH {
        let free = elsewhere.iter().map(IpNet::addr).find(|address| {
            Family::of(*address) == family
                && !known.iter().any(|net| net.contains(address))
                && !nets.iter().any(|net| net.prefix_len() > 0 && net.contains(address))
        });
        found.extend(free.map(|address| (address, End::Elsewhere(family))));
    }
    found
}
