//! Flow offload: packets of established connections pass from device to device before any other
//! hook sees them. Which connections may, and what the kernel needs for it. Pure.
//!
//! It has a table of its own, so that nothing that goes wrong here can be in the way of policy:
//! a flow table takes the packets of devices, and a chain behind all others puts connections into
//! it. A packet that comes to that chain was let through by policy, which also proved its source
//! and that its connection is not condemned. What is put in is found again by both addresses,
//! ports, protocol and the device that packets come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use calico_core::dataplane::{TrafficLimits, WorkloadEndpoint};
use calico_core::key::Family;

use super::elements::{address_bytes, interface_key};
use super::endpoint::uses_addresses_only;
use super::host::Stage;
use super::matches::{self, TCP, UDP};
use super::state::State;
use super::{names, tunnels};
use crate::nft::wire::{
    BaseChain, CmpOp, CtKey, Element, Expr, Family as TableFamily, Flowtable, KeyType, MetaKey,
    Reg, Verdict, fib, hook,
};
use crate::nft::{Batch, ChainDef, RuleDef, Ruleset, SetDef, SetSpec};

/// Name of the table, in family `inet`.
pub const FLOW_TABLE: &str = "calico-flowtable";

/// The flow table has upstream's name.
const FLOWS: &str = "calico";
/// Names of the devices, so that only connections with both ways through it are put in.
const DEVICES: &str = "devices";
const PROTOCOLS: &str = "protocols";
const CHAIN: &str = "offload";

/// Behind the filters of all programs: what one of them drops never comes here.
const LAST: i32 = 1000;
/// Upstream's: among the ingress hooks of a device.
const INGRESS_FILTER: i32 = 0;

/// `ct state` established, without related.
const ESTABLISHED: u32 = 2;
/// `IPS_OFFLOAD` of linux/netfilter/nf_conntrack_common.h.
const OFFLOADED: u32 = 1 << 14;

/// Devices that exist, with their numbers: a name may come back as another device.
pub(super) type Devices = BTreeMap<Arc<str>, u32>;

/// Which connections may pass without rules, once they are established: those of workloads, over
/// tunnels, and over these interfaces of the host.
#[derive(Clone)]
pub struct FlowOffload(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl FlowOffload {
    /// Host interfaces are those whose name this takes.
    pub fn new(host_interfaces: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(host_interfaces))
    }

    /// Whether this interface of the host is among them.
    #[must_use]
    pub fn takes(&self, host_interface: &str) -> bool {
        (self.0)(host_interface)
    }
}

impl fmt::Debug for FlowOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowOffload")
    }
}

/// What the table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) devices: Devices,
    /// Of the table (`wire::table_flags`).
    pub(super) flags: u32,
}

/// What the kernel is believed to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nobody looked.
    #[default]
    Nothing,
    /// No such table.
    Absent,
    /// A table that is to be replaced.
    Wrong,
    There(Content),
}

/// The batch that makes `have` what is wanted; `None`: it is. With `renew` no connection that was put
/// in is left: replacing the table takes all of them out at once, and those that still may come back
/// with their next packet. `present`: the devices of now.
pub(super) fn change(
    have: &Known,
    want: Option<&Content>,
    present: &Devices,
    renew: bool,
) -> Option<Batch> {
    let mut batch = Batch::new(TableFamily::Inet, FLOW_TABLE);
    let Some(want) = want else {
        if !matches!(have, Known::Nothing | Known::Absent) {
            batch.delete_table();
        }
        return (!batch.is_empty()).then_some(batch);
    };
    let Known::There(have) = have else {
        if *have == Known::Wrong {
            batch.delete_table();
        }
        want.build(&mut batch);
        return Some(batch);
    };
    let exists = |name: &Arc<str>, index: &u32| present.get(name) == Some(index);
    let unwanted = have
        .devices
        .iter()
        .any(|(name, index)| exists(name, index) && want.devices.get(name) != Some(index));
    if renew || unwanted || have.flags != want.flags {
        batch.delete_table();
        want.build(&mut batch);
        return Some(batch);
    }
    // The kernel takes devices that vanish out by itself, with their connections.
    let gained: Vec<&Arc<str>> = want
        .devices
        .iter()
        .filter(|(name, index)| have.devices.get(*name) != Some(index))
        .map(|(name, _)| name)
        .collect();
    if !gained.is_empty() {
        batch.add_flowtable(&flowtable(gained.iter().map(|name| &***name)));
    }
    let named = |name: &Arc<str>| Element::key(interface_key(name));
    let gone = have.devices.keys().filter(|name| !want.devices.contains_key(*name));
    let gone: Vec<Element> = gone.map(named).collect();
    batch.delete_elements(DEVICES, &gone);
    let new = gained.into_iter().filter(|name| !have.devices.contains_key(*name));
    let new: Vec<Element> = new.map(named).collect();
    batch.add_elements(DEVICES, &new);
    (!batch.is_empty()).then_some(batch)
}

impl Content {
    /// What is read of the table once it is in force, but for the flow table.
    pub(super) fn ruleset(&self) -> Ruleset {
        let devices = self.devices.keys().map(|name| Element::key(interface_key(name)));
        let devices = SetDef { spec: SetSpec::set([KeyType::IfName]), elements: devices.collect() };
        let protocols = [TCP, UDP].map(|protocol| Element::key([protocol]));
        let protocols = SetDef { spec: SetSpec::set([KeyType::Proto]), elements: protocols.into() };
        let base = BaseChain {
            kind: "filter".to_owned(),
            hook: hook::FORWARD,
            priority: LAST,
            policy: Verdict::Accept,
        };
        let chain = ChainDef { base: Some(base), rules: rules() };
        Ruleset {
            sets: [(DEVICES.to_owned(), devices), (PROTOCOLS.to_owned(), protocols)].into(),
            chains: [(CHAIN.to_owned(), chain)].into(),
        }
    }

    /// Whether this was read, with these devices in the flow table.
    pub(super) fn is(&self, table: &Ruleset, flowtables: &[Flowtable]) -> bool {
        let [flows] = flowtables else { return false };
        let names: BTreeSet<&str> = flows.devices.iter().map(String::as_str).collect();
        flows.name == FLOWS
            && flows.priority == INGRESS_FILTER
            && names == self.devices.keys().map(|name| &**name).collect()
            && *table == self.ruleset()
    }

    fn build(&self, batch: &mut Batch) {
        batch.add_table_with(self.flags);
        batch.add_flowtable(&flowtable(self.devices.keys().map(|name| &**name)));
        let Ruleset { sets, chains } = self.ruleset();
        for (name, set) in &sets {
            batch.add_set(&set.spec.wire(name));
            batch.add_elements(name, &set.elements);
        }
        for (name, chain) in &chains {
            batch.add_chain(name, chain.base.as_ref());
            for rule in &chain.rules {
                batch.add_rule(name, &rule.expressions, &rule.identity);
            }
        }
    }
}

fn flowtable<'a>(devices: impl Iterator<Item = &'a str>) -> Flowtable {
    Flowtable {
        table: FLOW_TABLE.to_owned(),
        name: FLOWS.to_owned(),
        priority: INGRESS_FILTER,
        flags: 0,
        devices: devices.map(str::to_owned).collect(),
    }
}

/// The kernel finds out by itself where packets of the other direction come from and go to: by
/// routing the source of the packet that is at hand to the device that it came from. So that device has
/// to be the right one, or whoever forges a source would be sent the answers.
fn rules() -> Vec<RuleDef> {
    let rule = |identity: &str, expressions| RuleDef { identity: identity.to_owned(), expressions };
    let status = |bits: u32| {
        let (mask, xor) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
        [
            Expr::Ct { key: CtKey::Status, dreg: Reg::R0 },
            Expr::Bitwise { sreg: Reg::R0, dreg: Reg::R0, mask, xor },
            matches::compare(CmpOp::Neq, [0; 4]),
        ]
    };
    let mut known = status(OFFLOADED).to_vec();
    known.push(Expr::Verdict(Verdict::Accept));
    let mut offload = matches::ct_state(ESTABLISHED);
    offload.extend([
        matches::meta(MetaKey::L4Proto),
        matches::lookup(PROTOCOLS.to_owned(), false),
        matches::meta(MetaKey::IifName),
        matches::lookup(DEVICES.to_owned(), false),
        matches::meta(MetaKey::OifName),
        matches::lookup(DEVICES.to_owned(), false),
        Expr::Fib {
            dreg: Reg::R0,
            result: fib::RESULT_OIF,
            flags: fib::SADDR | fib::IIF | fib::PRESENT,
        },
        matches::compare(CmpOp::Eq, [1]),
        Expr::FlowOffload { table: FLOWS.to_owned() },
    ]);
    vec![rule("offloaded already", known), rule("established", offload)]
}

impl State {
    /// The devices whose packets may pass without rules.
    pub(super) fn flow_devices(&self, offload: &FlowOffload, present: &Devices) -> Devices {
        let devices = present.iter().filter(|(name, _)| self.offloads(offload, name));
        devices.map(|(name, index)| (Arc::clone(name), *index)).collect()
    }

    /// Whether endpoints lost addresses.
    pub(super) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    fn offloads(&self, offload: &FlowOffload, interface: &Arc<str>) -> bool {
        if interface.starts_with(self.host.interface_prefix.as_ref()) {
            let id = self.interfaces.get(interface);
            let endpoint = id.filter(|id| !self.failed.contains_key(*id));
            return endpoint
                .and_then(|id| self.endpoints.get(id))
                .is_some_and(|endpoint| !self.meets_each_packet(endpoint));
        }
        // Such policy meets every packet, before connection tracking.
        let hooks = self.of_hosts.hooks();
        let each_packet = |(stage, _): &(Stage, bool)| *stage < Stage::Local;
        if hooks.iter().any(each_packet) {
            return false;
        }
        tunnels::devices(&self.host).any(|device| device == &**interface)
            || offload.takes(interface)
    }

    /// Whether rules have to do something with each of its packets.
    fn meets_each_packet(&self, endpoint: &WorkloadEndpoint) -> bool {
        let limited =
            |limits: &TrafficLimits| limits.packets.is_some() || limits.connections.is_some();
        let marked = !self.marked.is_empty()
            && (!uses_addresses_only(endpoint)
                || endpoint.addresses.iter().any(|net| {
                    let set = names::set(names::DSCP_SOURCES, Family::of_net(net));
                    let source = Element::key(address_bytes(net.addr()));
                    let sources = self.table.desired().sets.get(&set);
                    sources
                        .and_then(|set| set.elements.range(&source..).next())
                        .is_some_and(|found| found.key == source.key)
                }));
        limited(&endpoint.limits.ingress) || limited(&endpoint.limits.egress) || marked
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn devices(all: &[(&str, u32)]) -> Devices {
        all.iter().map(|(name, index)| ((*name).into(), *index)).collect()
    }

    fn content(all: &[(&str, u32)]) -> Content {
        Content { devices: devices(all), flags: 0 }
    }

    /// What the batch does, message by message.
    fn steps(batch: Option<Batch>) -> Vec<String> {
        let Some(batch) = batch else { return Vec::new() };
        let steps = 1..=u32::try_from(batch.len()).unwrap();
        steps.map(|seq| batch.subject(seq).unwrap().to_string()).collect()
    }

    const WHOLE: [&str; 9] = [
        "add table calico-flowtable",
        "add flow table calico",
        "add set devices",
        "add elements of set devices",
        "add set protocols",
        "add elements of set protocols",
        "add chain offload",
        "add rule offload (offloaded already)",
        "add rule offload (established)",
    ];

    #[test]
    fn a_change_is_as_small_as_it_can_be() {
        let (two, present) = (content(&[("a", 1), ("b", 2)]), devices(&[("a", 1), ("b", 2)]));
        let there = Known::There(two.clone());
        let change = |have: &Known, want: Option<&Content>, present: &Devices, renew| {
            steps(super::change(have, want, present, renew))
        };
        let none: [&str; 0] = [];
        for nothing in [Known::Nothing, Known::Absent] {
            assert_eq!(change(&nothing, None, &present, true), none);
            assert_eq!(change(&nothing, Some(&two), &present, false), WHOLE);
        }
        assert_eq!(change(&there, Some(&two), &present, false), none);
        assert_eq!(change(&there, None, &present, false), ["delete table calico-flowtable"]);
        let anew = [&["delete table calico-flowtable"], &WHOLE[..]].concat();
        assert_eq!(change(&Known::Wrong, Some(&two), &present, false), anew);
        assert_eq!(change(&there, Some(&two), &present, true), anew, "every connection is out");
        let one = content(&[("a", 1)]);
        assert_eq!(change(&there, Some(&one), &present, false), anew, "it may no longer");
        let left = devices(&[("a", 1)]);
        let gone = ["delete elements of set devices"];
        assert_eq!(change(&there, Some(&one), &left, false), gone, "the kernel did the rest");
        let three = content(&[("a", 1), ("b", 2), ("c", 3)]);
        let more = ["add flow table calico", "add elements of set devices"];
        assert_eq!(change(&there, Some(&three), &three.devices, false), more);
        let again = content(&[("a", 1), ("b", 7)]);
        let only = ["add flow table calico"];
        assert_eq!(change(&there, Some(&again), &again.devices, false), only, "under an old name");
    }

    #[test]
    fn what_is_read_back_is_compared_as_a_whole() {
        let two = content(&[("a", 1), ("b", 2)]);
        let flows = flowtable(["b", "a"].into_iter());
        assert!(two.is(&two.ruleset(), from_ref(&flows)));
        assert!(!two.is(&two.ruleset(), &[]));
        assert!(!two.is(&two.ruleset(), &[flowtable(["a"].into_iter())]));
        assert!(!two.is(&content(&[("a", 1)]).ruleset(), from_ref(&flows)));
        let mut fewer = two.ruleset();
        fewer.chains.values_mut().for_each(|chain| chain.rules.truncate(1));
        assert!(!two.is(&fewer, &[flows]));
    }
}
