//! What a node tells its peers (upstream: `calico_export_to_bgp_peers`).

use std::collections::BTreeMap;

use calico_bgp::filter::{Action, AnyCommunity, Condition, Operation, PrefixMatch, Rule};
use calico_bgp::rib::{PrefixList, PrefixRule};
use calico_core::key::Family;
use calico_core::resource::{BgpConfigurationSpec, IpPoolSpec, PrefixAdvertisement};
use ipnet::IpNet;

use crate::filters::{Labelled, PRIORITY_BASE};
use crate::host::HostPrefixes;
use crate::notes::Note;
use crate::peering::BlockState;

/// What the export of all sessions follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exports {
    /// Pools with [`disable_bgp_export`](IpPoolSpec::disable_bgp_export).
    pub(crate) secret: Vec<IpNet>,
    pub(crate) advertisements: Vec<Advertisement>,
    /// Own blocks: they are told, what lies beneath them is not.
    pub(crate) blocks: Vec<IpNet>,
    /// Addresses of services that are told.
    pub(crate) services: Told,
    pub(crate) pools: Vec<IpNet>,
    /// Routes of the host.
    pub(crate) host: HostPrefixes,
    /// LOCAL_PREF of usual routes, by family.
    pub(crate) local_pref: [u32; 2],
}

/// Addresses of services that are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// What this node announces lies in these; they follow from the configuration, so that rules
    /// stay the same while services come and go.
    pub(crate) own: Vec<IpNet>,
    /// Ranges of which a reflector tells on what it hears.
    pub(crate) heard: Vec<IpNet>,
}

/// What the prefixes inside of a range are told with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertisement {
    pub(crate) cidr: IpNet,
    pub(crate) communities: Vec<AnyCommunity>,
}

impl Exports {
    pub(crate) fn new(
        pools: &BTreeMap<String, IpPoolSpec>,
        blocks: &BTreeMap<IpNet, BlockState>,
        services: Told,
        advertisements: Vec<Advertisement>,
        global: Option<&BgpConfigurationSpec>,
    ) -> Self {
        let of = |secret: bool| -> Vec<IpNet> {
            let mut cidrs: Vec<IpNet> = pools
                .values()
                .filter(|pool| pool.disable_bgp_export == secret)
                .map(|pool| pool.cidr.trunc())
                .collect();
            cidrs.sort_unstable();
            cidrs
        };
        let confirmed = blocks.iter().filter(|(_, state)| **state == BlockState::Confirmed);
        let priority = |own: fn(&BgpConfigurationSpec) -> Option<u32>| {
            PRIORITY_BASE - global.and_then(own).unwrap_or(1024).min(PRIORITY_BASE)
        };
        Self {
            secret: of(true),
            advertisements,
            blocks: confirmed.map(|(block, _)| *block).collect(),
            services,
            pools: of(false),
            host: HostPrefixes::default(),
            local_pref: [
                priority(|global| global.ipv4_normal_route_priority),
                priority(|global| global.ipv6_normal_route_priority),
            ],
        }
    }

    /// LOCAL_PREF that usual routes of a family are told with inside the AS.
    pub(crate) const fn local_pref(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.local_pref[0],
            Family::V6 => self.local_pref[1],
        }
    }

    /// The rules of one family, first match decides; what none matches must not be told.
    pub(crate) fn rules(&self, family: Family) -> Vec<Labelled> {
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().filter(|net| Family::of_net(net) == family).copied().collect()
        };
        let mut rules: Vec<Labelled> = Vec::new();
        for cidr in of_family(&self.secret) {
            let label = format!("disableBGPExport of the IPPool {cidr}");
            rules.push((rule(within(cidr), Action::Reject), label));
        }
        for advertisement in &self.advertisements {
            if Family::of_net(&advertisement.cidr) == family {
                let add = |community: &AnyCommunity| Operation::AddCommunity(*community);
                let operations = advertisement.communities.iter().map(add).collect();
                let change = rule(within(advertisement.cidr), Action::Change(operations));
                rules.push((change, format!("prefix advertisement {}", advertisement.cidr)));
            }
        }
        for block in of_family(&self.blocks) {
            let label = format!("block {block} of this node");
            let exactly = Condition::Prefix(PrefixMatch::exactly(block));
            rules.push((rule(exactly, accept()), label.clone()));
            // What is preferred to the usual is on its way to another node (live migration), and
            // must be heard beside the block.
            let preferred = Condition::LocalPrefAbove(self.local_pref(family));
            let moving = Rule { conditions: vec![within(block), preferred], action: accept() };
            rules.push((moving, label.clone()));
            rules.push((rule(within(block), Action::Reject), format!("inside of {label}")));
        }
        let own = of_family(&self.services.own);
        if !own.is_empty() {
            // Upstream: static routes are told, and only this node's are static.
            let list = PrefixList { rules: own.into_iter().map(PrefixRule::within).collect() };
            let conditions = vec![Condition::Local, Condition::Prefixes(list)];
            rules.push((Rule { conditions, action: accept() }, "services of this node".to_owned()));
        }
        for cidr in of_family(&self.services.heard) {
            rules.push((rule(within(cidr), accept()), format!("services {cidr}")));
        }
        for cidr in of_family(&self.pools) {
            rules.push((rule(within(cidr), accept()), format!("pool {cidr}")));
        }
        rules
    }

    /// Whether a usual route of this node is told to peers without filters of their own.
    pub(crate) fn tells(&self, prefix: &IpNet) -> bool {
        let inside = |nets: &[IpNet]| nets.iter().any(|net| net.contains(prefix));
        if inside(&self.secret) {
            return false;
        }
        if inside(&self.blocks) {
            return self.blocks.contains(prefix);
        }
        inside(&self.services.own) || inside(&self.services.heard) || inside(&self.pools)
    }
}

/// The advertisements of a node: its own, or else the global ones. Names of communities may be
/// of either.
pub(crate) fn advertisements(
    own: Option<&BgpConfigurationSpec>,
    global: Option<&BgpConfigurationSpec>,
    node: &str,
    notes: &mut Vec<Note>,
) -> Vec<Advertisement> {
    let own_names = own;
    let own = own.filter(|own| !own.prefix_advertisements.is_empty());
    let resource = match own {
        Some(_) => format!("BGPConfiguration node.{node}"),
        None => "BGPConfiguration default".to_owned(),
    };
    let Some(source) = own.or(global) else { return Vec::new() };
    let community = |text: &String, notes: &mut Vec<Note>| {
        let mut names = own_names.into_iter().chain(global).flat_map(|c| &c.communities);
        let named = names.find(|community| community.name == *text);
        let value = named.map_or(text, |community| &community.value);
        value
            .parse()
            .map_err(|error| {
                let why = format!("community {text}: {error}");
                notes.push(Note::bad(&resource, "prefixAdvertisements", why));
            })
            .ok()
    };
    let mut found = Vec::new();
    for PrefixAdvertisement { cidr, communities, .. } in &source.prefix_advertisements {
        let communities: Vec<AnyCommunity> =
            communities.iter().filter_map(|text| community(text, notes)).collect();
        if let Some(cidr) = cidr.map(|cidr| cidr.trunc())
            && !communities.is_empty()
        {
            found.push(Advertisement { cidr, communities });
        }
    }
    found
}

const fn accept() -> Action {
    Action::Accept(Vec::new())
}

fn within(cidr: IpNet) -> Condition {
    Condition::Prefix(PrefixMatch::within(cidr))
}

fn rule(condition: Condition, action: Action) -> Rule {
    Rule { conditions: vec![condition], action }
}
