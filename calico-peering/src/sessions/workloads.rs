//! Sessions with workloads of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::key::Family;
use calico_core::resource::{BgpPeer, WorkloadEndpoint};

use super::{Far, Sessions, named};
use crate::notes::{Note, Problem};
use crate::session::PeerType;

impl<'a> Sessions<'a> {
    pub(super) fn add_workloads(&mut self, peer: &'a BgpPeer) {
        self.note_with_workloads(peer);
        let spec = &peer.spec;
        let selected: Vec<&WorkloadEndpoint> = self
            .peering
            .workloads
            .values()
            .filter(|endpoint| endpoint.spec.node == self.peering.node)
            .collect();
        for endpoint in selected {
            let labels = self.labels(endpoint);
            let selector = &spec.local_workload_selector;
            let mine = self.selects("localWorkloadSelector", selector, &labels, peer)
                && self.workload_peer(&labels) == Some(peer.name());
            if mine {
                self.add_workload(peer, endpoint);
            }
        }
    }

    fn add_workload(&mut self, peer: &'a BgpPeer, endpoint: &WorkloadEndpoint) {
        let spec = &peer.spec;
        let global = self.peering.global();
        for family in Family::BOTH {
            let addresses = endpoint.spec.ip_networks.iter().map(|net| net.addr());
            let Some(address) = addresses.into_iter().find(|a| Family::of(*a) == family) else {
                continue;
            };
            let far = Far { address, port: None, asn: spec.as_number.0, node: None };
            let local_as = spec.local_as_number.map(|asn| asn.0);
            let Some(mut session) = self.session(&far, local_as, PeerType::LocalWorkload) else {
                self.no_session(peer, address);
                continue;
            };
            session.passive = true;
            session.local_address = None;
            self.set_policies(&spec.filters, &named(peer), &mut session);
            session.reflector_client = self.is_client(&session, None);
            self.insert(session);
            let ours = global.and_then(|global| match family {
                Family::V4 => global.local_workload_peering_ip_v4.map(IpAddr::V4),
                Family::V6 => global.local_workload_peering_ip_v6.map(IpAddr::V6),
            });
            match ours {
                Some(ours) if !endpoint.spec.interface_name.is_empty() => {
                    let interface = endpoint.spec.interface_name.clone();
                    self.workload_addresses.entry(interface).or_default().push(ours);
                }
                Some(_) => {}
                None => {
                    let field = match family {
                        Family::V4 => "localWorkloadPeeringIPV4",
                        Family::V6 => "localWorkloadPeeringIPV6",
                    };
                    let why = "workloads of this node are BGP peers and have nothing to connect to";
                    let problem = Problem::Missing { field, why };
                    self.notes.push(Note::new("BGPConfiguration default", problem));
                }
            }
        }
    }

    /// As upstream, sessions with workloads have none of these.
    fn note_with_workloads(&mut self, peer: &BgpPeer) {
        let spec = &peer.spec;
        let fields = [
            ("password", spec.password.is_some()),
            ("sourceAddress", spec.source_address.is_some()),
            ("nextHopMode", spec.next_hop_mode.is_some()),
            ("keepOriginalNextHop", spec.keep_original_next_hop),
            ("maxRestartTime", spec.max_restart_time.is_some()),
            ("keepaliveTime", spec.keepalive_time.is_some()),
            ("numAllowedLocalASNumbers", spec.num_allowed_local_as_numbers.is_some()),
            ("ttlSecurity", spec.ttl_security.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            self.notes.push(Note::no_effect(named(peer), field, "its peers are workloads"));
        }
    }

    /// The BGPPeer that a workload belongs to: of those that select it, the first by name.
    fn workload_peer(&mut self, labels: &BTreeMap<String, String>) -> Option<&'a str> {
        let (me, peering) = (self.me, self.peering);
        let mut peers = peering.peers.values();
        let found = peers.find(|peer| {
            let selector = &peer.spec.local_workload_selector;
            !selector.is_empty()
                && self.is_local_end(me, peer)
                && self.selects("localWorkloadSelector", selector, labels, peer)
        });
        found.map(BgpPeer::name)
    }

    /// Labels of an endpoint: its own win over those that its profiles pass on.
    fn labels(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<String, String> {
        let mut labels = endpoint.selector_labels();
        for profile in &endpoint.spec.profiles {
            for (key, value) in self.peering.profiles.get(profile).into_iter().flatten() {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}
