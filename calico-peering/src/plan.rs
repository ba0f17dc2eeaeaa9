//! The plan: what the speaker of a node is to be, as a value.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use calico_core::key::Family;
use calico_core::resource::{BgpFilterAction, BgpFilterRule, BindMode, LogSeverity, Node};
use ipnet::IpNet;

use crate::export::{Exports, Told, advertisements};
use crate::filters::PRIORITY_BASE;
use crate::host::HostPrefixes;
use crate::kernel::KernelFilter;
use crate::node::{self, address, cluster_id};
use crate::notes::Note;
use crate::peering::{Peering, RouterId};
use crate::session::Session;
use crate::sessions::Sessions;

/// The port of BGP (RFC 4271).
pub(crate) const BGP_PORT: u16 = 179;

/// Everything a speaker of a node needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerPlan {
    /// The speaker itself: a change of it needs another speaker.
    pub identity: Identity,
    /// Sessions, sorted by address.
    pub sessions: Vec<Session>,
    /// Addresses of services that the node announces as they are: ranges, and single ones.
    pub services: Vec<IpNet>,
    /// Prefixes of the host's own routes that peers may be told of.
    pub host: Vec<IpNet>,
    /// Ways to peers that no subnet leads to: a route for each, via its gateway.
    pub gateways: BTreeMap<IpNet, IpAddr>,
    /// Which learned routes go into the kernel.
    pub kernel: KernelFilter,
    /// Addresses that the node has on the interfaces of workloads it peers with.
    pub workload_addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Least severity that is logged, if a resource says so.
    pub log_severity: Option<LogSeverity>,
    /// What resources ask for in vain. Report each once.
    pub notes: Vec<Note>,
    exports: Exports,
    /// Whether the node has an IPv4 and an IPv6 address.
    families: (bool, bool),
}

/// What a speaker is for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// AS of the node.
    pub local_as: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Cluster id, if the node reflects routes (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
}

impl SpeakerPlan {
    /// Whether the node has sessions of a family, or may.
    #[must_use]
    pub const fn speaks(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.families.0,
            Family::V6 => self.families.1,
        }
    }

    /// LOCAL_PREF that a prefix of this node is announced with (RFC 4271, section 5.1.5). As
    /// upstream, 2147483647 less the kernel metric of its routes. The least for a route of the
    /// kernel, which is used where no peer tells one; none for a subnet of the host, which no
    /// peer's takes the place of.
    #[must_use]
    pub fn local_pref(&self, prefix: &IpNet) -> Option<u32> {
        match self.exports.host.get(prefix) {
            Some(host) => host.yields.then_some(0),
            None => Some(self.exports.local_pref(Family::of_net(prefix))),
        }
    }

    /// Whether prefixes of the node are announced in the same way by both plans.
    #[must_use]
    pub fn announces_like(&self, other: &Self) -> bool {
        let (own, theirs) = (&self.exports, &other.exports);
        own.local_pref == theirs.local_pref && own.host == theirs.host
    }

    /// Whether peers without filters of their own are told of a prefix of this node.
    #[must_use]
    pub fn tells(&self, prefix: &IpNet) -> bool {
        self.exports.tells(prefix)
    }
}

impl Peering {
    /// The plan, or `None` while this node has no BGP address.
    #[must_use]
    pub fn plan(&self) -> Option<SpeakerPlan> {
        let me = self.nodes.get(&self.node)?;
        let (ipv4, ipv6) = (address(me, Family::V4), address(me, Family::V6));
        if ipv4.is_none() && ipv6.is_none() {
            return None;
        }
        let mut notes = Vec::new();
        let global = self.global();
        let services = self.announced(me);
        let cluster_id = cluster_id(me);
        let told = Told {
            own: services.told,
            heard: if cluster_id.is_some() { services.reflected } else { Vec::new() },
        };
        let own = self.own_configuration();
        let advertisements = advertisements(own, global, &self.node, &mut notes);
        let mut exports = Exports::new(&self.pools, &self.blocks, told, advertisements, global);
        exports.host = self.host_prefixes(&exports, &services.announced, &mut notes);
        self.note_per_node(&mut notes);
        self.note_unsupported(&mut notes);
        let sessions = Sessions::new(self, me, &exports, notes).all();
        let program = global.and_then(|global| global.program_cluster_routes);
        let mut notes = sessions.notes;
        notes.sort_unstable();
        notes.dedup();
        Some(SpeakerPlan {
            identity: Identity {
                local_as: self.as_number(me),
                router_id: self.router_id(ipv4),
                listen: self.listen(me),
                cluster_id,
            },
            sessions: sessions.found.into_values().collect(),
            services: services.announced,
            host: exports.host.prefixes().copied().collect(),
            gateways: sessions.gateways,
            kernel: KernelFilter::new(services.ranges, self.pools.values(), program),
            workload_addresses: sessions.workload_addresses,
            log_severity: own
                .and_then(|own| own.log_severity_screen)
                .or_else(|| global?.log_severity_screen),
            notes,
            exports,
            families: (ipv4.is_some(), ipv6.is_some()),
        })
    }

    /// Routes of the host that somebody may want to hear of: in a pool, as far as this node's own
    /// blocks leave them, or anywhere if a filter may accept them.
    fn host_prefixes(
        &self,
        exports: &Exports,
        services: &[IpNet],
        notes: &mut Vec<Note>,
    ) -> HostPrefixes {
        let accepts = |rules: &[BgpFilterRule]| {
            rules.iter().any(|rule| rule.action == Some(BgpFilterAction::Accept))
        };
        let filtered = [
            self.filters.values().any(|filter| accepts(&filter.export_v4)),
            self.filters.values().any(|filter| accepts(&filter.export_v6)),
        ];
        let asked = |prefix: &IpNet| {
            let by_filter = match prefix {
                IpNet::V4(_) => filtered[0],
                IpNet::V6(_) => filtered[1],
            };
            let own = self.blocks.contains_key(prefix) || services.contains(prefix);
            !own && (by_filter || exports.pools.iter().any(|pool| pool.contains(prefix)))
        };
        let usual = |family| PRIORITY_BASE - exports.local_pref(family);
        HostPrefixes::new(self, usual, asked, notes)
    }

    fn router_id(&self, ipv4: Option<IpAddr>) -> Ipv4Addr {
        match (self.options.router_id, ipv4) {
            (RouterId::Fixed(id), _) => id,
            (RouterId::NodeAddress, Some(IpAddr::V4(address))) => address,
            _ => node::id_of_name(&self.node),
        }
    }

    /// All addresses, or those of the node. As upstream, only the global configuration says so.
    fn listen(&self, me: &Node) -> Vec<SocketAddr> {
        let port = self.listen_port(&self.node).unwrap_or(BGP_PORT);
        let bind = self.global().and_then(|global| global.bind_mode).unwrap_or_default();
        if bind == BindMode::NodeIp {
            let own = Family::BOTH.into_iter().filter_map(|family| address(me, family));
            return own.map(|address| SocketAddr::new(address, port)).collect();
        }
        vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)]
    }

    /// What is in force elsewhere and not here.
    fn note_unsupported(&self, notes: &mut Vec<Note>) {
        let Some(global) = self.global() else { return };
        let metric = "it sets what other nodes are told, and no metric in the kernel";
        let fields = [
            ("ipv4NormalRoutePriority", global.ipv4_normal_route_priority.is_some(), metric),
            ("ipv6NormalRoutePriority", global.ipv6_normal_route_priority.is_some(), metric),
        ];
        for (field, _, why) in fields.into_iter().filter(|(_, set, _)| *set) {
            notes.push(Note::no_effect("BGPConfiguration default", field, why));
        }
    }

    /// Fields that only `default` may have.
    fn note_per_node(&self, notes: &mut Vec<Note>) {
        let Some(own) = self.own_configuration() else { return };
        let fields = [
            ("bindMode", own.bind_mode.is_some()),
            ("ignoredInterfaces", !own.ignored_interfaces.is_empty()),
            ("programClusterRoutes", own.program_cluster_routes.is_some()),
            ("ipv4NormalRoutePriority", own.ipv4_normal_route_priority.is_some()),
            ("ipv6NormalRoutePriority", own.ipv6_normal_route_priority.is_some()),
            ("localWorkloadPeeringIPV4", own.local_workload_peering_ip_v4.is_some()),
            ("localWorkloadPeeringIPV6", own.local_workload_peering_ip_v6.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            let resource = format!("BGPConfiguration node.{}", self.node);
            notes.push(Note::no_effect(resource, field, "only `default` may say so"));
        }
    }
}
