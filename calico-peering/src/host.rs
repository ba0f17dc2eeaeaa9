//! The host's own routes, as far as peers are told of them.
//!
//! Upstream's BIRD learns all routes of the kernel and the subnets of interfaces, and tells those
//! that lie in a pool or that a BGPFilter accepts. Here only those are announced in the first
//! place, so that a host with many routes has few in its table.

use std::collections::BTreeMap;

use calico_bgp::filter::{Action, Condition, InterfacePattern, Operation, Rule};
use calico_bgp::rib::{PrefixList, PrefixRule};
use calico_core::key::Family;
use ipnet::IpNet;

use crate::filters::{Labelled, PRIORITY_BASE};
use crate::notes::Note;
use crate::peering::Peering;

/// Interfaces that upstream leaves out: those of workloads, and of kube-proxy, which has the address
/// of every service.
const LEFT_OUT: [&str; 2] = ["cali*", "kube-ipvs*"];

/// Interfaces whose routes are never told: those of tunnels.
const INTERNAL: [&str; 3] = ["*.cali", "*.calico", "tunl0"];

/// A route of the host that is not Calico's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// The prefix.
    pub prefix: IpNet,
    /// The interface that it leads to, if it is one.
    pub interface: Option<String>,
    /// Its priority in the kernel; `None`: it is the subnet of an address of the interface.
    pub metric: Option<u32>,
}

/// One that peers may be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPrefix {
    pub(crate) interface: Option<String>,
    /// What is told follows from it.
    metric: u32,
    /// As BIRD: a route of the kernel is used where no peer tells one, a subnet in any case.
    pub(crate) yields: bool,
}

/// Those that peers may be told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostPrefixes(BTreeMap<IpNet, HostPrefix>);

impl HostPrefixes {
    /// Of what the host has; `usual` is the metric of what has none. `asked` says whether anybody
    /// may want to hear of a prefix.
    pub(crate) fn new(
        peering: &Peering,
        usual: impl Fn(Family) -> u32,
        asked: impl Fn(&IpNet) -> bool,
        notes: &mut Vec<Note>,
    ) -> Self {
        let ignored = peering.global().map_or(&[][..], |global| &global.ignored_interfaces);
        let mut left_out = patterns(LEFT_OUT.iter().copied(), notes);
        left_out.extend(patterns(ignored.iter().map(String::as_str), notes));
        let internal = patterns(INTERNAL.iter().copied(), notes);
        let mut found: BTreeMap<IpNet, HostPrefix> = BTreeMap::new();
        for route in peering.host.iter().filter(|route| asked(&route.prefix)) {
            let fits = |patterns: &[InterfacePattern]| {
                let name = route.interface.as_deref().unwrap_or_default();
                patterns.iter().any(|pattern| pattern.matches(name))
            };
            if fits(&internal) || (route.metric.is_none() && fits(&left_out)) {
                continue;
            }
            let metric = route.metric.unwrap_or_else(|| usual(Family::of_net(&route.prefix)));
            let yields = route.metric.is_some();
            let new = HostPrefix { interface: route.interface.clone(), metric, yields };
            // The subnet first, then the least metric.
            let rank = |it: &HostPrefix| (it.yields, it.metric);
            if found.get(&route.prefix).is_none_or(|known| rank(&new) < rank(known)) {
                found.insert(route.prefix, new);
            }
        }
        Self(found)
    }

    pub(crate) fn get(&self, prefix: &IpNet) -> Option<&HostPrefix> {
        self.0.get(prefix)
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.0.keys()
    }

    /// Says how much they are preferred before anything else is asked: what is left of 2147483647
    /// by their metric, as upstream.
    pub(crate) fn rules(&self, family: Family) -> Vec<Labelled> {
        let mut by_metric: BTreeMap<u32, Vec<PrefixRule>> = BTreeMap::new();
        for (prefix, host) in &self.0 {
            if Family::of_net(prefix) == family {
                by_metric.entry(host.metric).or_default().push(PrefixRule::exact(*prefix));
            }
        }
        let rule = |(metric, rules): (u32, Vec<PrefixRule>)| {
            let conditions = vec![Condition::Local, Condition::Prefixes(PrefixList { rules })];
            let preference = Operation::SetLocalPref(PRIORITY_BASE.saturating_sub(metric));
            let action = Action::Change(vec![preference]);
            (Rule { conditions, action }, format!("routes of the host with metric {metric}"))
        };
        by_metric.into_iter().map(rule).collect()
    }

    /// Those that lead to an interface like this.
    pub(crate) fn over(&self, pattern: &InterfacePattern) -> PrefixList {
        let fits =
            |host: &HostPrefix| host.interface.as_deref().is_some_and(|it| pattern.matches(it));
        let prefixes = self.0.iter().filter(|(_, host)| fits(host));
        PrefixList { rules: prefixes.map(|(prefix, _)| PrefixRule::exact(*prefix)).collect() }
    }
}

fn patterns<'a>(
    texts: impl Iterator<Item = &'a str>,
    notes: &mut Vec<Note>,
) -> Vec<InterfacePattern> {
    let parse = |text: &str| {
        let parsed = text.parse();
        if let Err(error) = &parsed {
            let why = format!("{error}");
            notes.push(Note::bad("BGPConfiguration default", "ignoredInterfaces", why));
        }
        parsed.ok()
    };
    texts.filter_map(parse).collect()
}
