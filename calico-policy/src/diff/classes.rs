//! Ends of flows that no rule tells apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, SetId, SetMember, TierPolicies};
use calico_core::key::Family;
use ipnet::IpNet;

use super::End;
use crate::desired::Desired;
use crate::eval::SetLookup as _;

/// Ends that every rule treats alike, and an address that stands for all of theirs.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) address: IpAddr,
    members: Vec<End>,
}

impl Class {
    pub(super) fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The workload that stands for all of them.
    pub(super) fn endpoint(&self) -> Option<&EndpointId> {
        match self.members.first() {
            Some(End::Workload(id)) => Some(id),
            _ => None,
        }
    }

    /// Whether a packet from here to there meets a workload. What a workload sends to itself does
    /// not leave it.
    pub(super) fn can_send_to(&self, to: &Self) -> bool {
        let is_workload = self.endpoint().is_some() || to.endpoint().is_some();
        let is_itself = self.members.len() == 1 && self.members == to.members;
        is_workload && !is_itself && self.family() == to.family()
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = End> + '_ {
        self.members.iter().cloned()
    }
}

/// What rules can know of an end: in each state, its policies, and where its address is in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traits {
    is_workload: bool,
    family: Family,
    policies: Vec<(String, Vec<Arc<str>>)>,
    nets: Vec<bool>,
    sets: Vec<Option<Vec<SetMember>>>,
}

/// All ends there are, in classes.
pub(super) fn classes(states: &[&Desired; 2]) -> Vec<Class> {
    let nets = nets_in_rules(states);
    let set_ids: Vec<Vec<&SetId>> = states.iter().map(|s| s.sets.keys().collect()).collect();
    let traits = |id: Option<&EndpointId>, address: IpAddr| Traits {
        is_workload: id.is_some(),
        family: Family::of(address),
        policies: states.iter().filter_map(|state| policies(state, id?)).collect(),
        nets: nets.iter().map(|net| net.contains(&address)).collect(),
        sets: states
            .iter()
            .zip(&set_ids)
            .flat_map(|(state, ids)| ids.iter().map(|id| membership(state, id, address)))
            .collect(),
    };
    let mut classes: BTreeMap<Traits, Class> = BTreeMap::new();
    let mut add = |key: Traits, address: IpAddr, end: End| {
        let class = classes.entry(key).or_insert_with(|| Class { address, members: Vec::new() });
        if !class.members.contains(&end) {
            class.members.push(end);
        }
    };
    let [before, after] = states;
    let both = before.endpoints.values().filter(|e| after.endpoints.contains_key(&e.id));
    for endpoint in both {
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            add(traits(Some(&endpoint.id), address), address, End::Workload(endpoint.id.clone()));
        }
    }
    for (address, end) in outside(states, &nets) {
        add(traits(None, address), address, end);
    }
    classes.into_values().collect()
}

fn policies(state: &Desired, id: &EndpointId) -> Option<(String, Vec<Arc<str>>)> {
    let endpoint = state.endpoints.get(id)?;
    let tiers: &[TierPolicies] = &endpoint.tiers;
    Some((format!("{tiers:?}"), endpoint.profiles.clone()))
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

/// Every prefix that a rule or a network set names.
fn nets_in_rules(states: &[&Desired; 2]) -> Vec<IpNet> {
    let mut nets = BTreeSet::new();
    for state in states {
        let rules =
            state.rules.values().flat_map(|rules| rules.ingress.iter().chain(&rules.egress));
        for side in rules.flat_map(|rule| [&rule.source, &rule.destination]) {
            nets.extend(side.nets.iter().chain(&side.not_nets).copied());
        }
        let members = state.sets.values().flat_map(|set| &set.members);
        nets.extend(members.filter_map(|member| match member {
            // Addresses of workloads are in their classes by the sets they are in.
            SetMember::Net(net) => {
                let is_one = net.prefix_len() == net.max_prefix_len();
                let is_workload = || states.iter().any(|s| s.endpoint_of(net.addr()).is_some());
                (!is_one || !is_workload()).then_some(*net)
            }
            SetMember::Port { .. } => None,
        }));
    }
    nets.into_iter().collect()
}

/// An address of each prefix, and one of each family that is in none of them.
fn outside(states: &[&Desired; 2], nets: &[IpNet]) -> Vec<(IpAddr, End)> {
    let is_workload =
        |address: IpAddr| states.iter().any(|state| state.endpoint_of(address).is_some());
    let mut found: Vec<(IpAddr, End)> = Vec::new();
    for net in nets {
        let inner: Vec<&IpNet> =
            nets.iter().filter(|other| *other != net && net.contains(*other)).collect();
        let free = addresses(net)
            .find(|address| !is_workload(*address) && !inner.iter().any(|n| n.contains(address)));
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
                && !is_workload(*address)
                && !nets.iter().any(|net| net.prefix_len() > 0 && net.contains(address))
        });
        found.extend(free.map(|address| (address, End::Elsewhere(family))));
    }
    found
}

/// Some addresses of a prefix: at its beginning and spread over it.
fn addresses(net: &IpNet) -> impl Iterator<Item = IpAddr> {
    const STEPS: u128 = 64;
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    let begin = net.network();
    let at = move |offset: u128| match begin {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::from(Ipv4Addr::from(u32::from(first).saturating_add(offset)))
        }
        IpAddr::V6(first) => IpAddr::from(Ipv6Addr::from(u128::from(first).saturating_add(offset))),
    };
    let near = u128::from(size > 1)..size.min(STEPS);
    let spread = (0..STEPS).map(move |step| size / STEPS * step);
    near.chain(spread).map(at)
}
