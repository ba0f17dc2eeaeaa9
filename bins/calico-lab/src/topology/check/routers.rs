//! What must hold for routers, so that every session they are to have can be.

use std::collections::BTreeSet;

use calico_core::selector::Selector;
use ipnet::IpNet;

use super::{Report, Topology};
use crate::topology::{Router, RouterKind, SessionAddress, Tells};

impl Topology {
    pub(super) fn check_routers(&self, report: &mut Report) {
        for (index, router) in self.routers.iter().enumerate() {
            let place = format!("routers[{index}]");
            check_announced(report, &place, router);
            check_kind(report, &place, router);
            self.check_nodes_of(report, &place, router);
            self.check_uplinks(report, &place, router);
        }
    }

    /// Every node that a router is for has a session with it; and the other nodes, which have the
    /// same BGPPeers unless a selector tells them apart, are told apart.
    fn check_nodes_of(&self, report: &mut Report, place: &str, router: &Router) {
        let name = &router.name;
        let place = format!("{place}.nodes");
        if let Some(Err(error)) = router.nodes.as_ref().map(|text| text.parse::<Selector>()) {
            report.add(place, error.to_string());
            return;
        }
        if router.session == SessionAddress::Loopback && router.loopbacks.is_empty() {
            let place = place.replace(".nodes", ".session");
            report.add(place, format!("{name} has no loopbacks to have sessions with"));
            return;
        }
        let served: Vec<_> = self.nodes_of(router).collect();
        for node in &served {
            let reached = [false, true].iter().any(|v6| self.session(router, node, *v6).is_some());
            let what = || {
                format!(
                    "{} is on the network {}, and {name} is not; select others, or have sessions \
                     with its loopback (session: loopback)",
                    node.name, node.network
                )
            };
            if !reached {
                report.add(&place, what());
            }
        }
        if router.nodes.is_none() && !served.is_empty() && served.len() < self.nodes.len() {
            let names: Vec<_> = served.iter().map(|node| node.name.as_str()).collect();
            report.add(
                &place,
                format!(
                    "{name} is there for {} alone; give them a label and select them by it, such \
                     as nodes: rack == 'a'",
                    names.join(", ")
                ),
            );
        }
    }

    fn check_uplinks(&self, report: &mut Report, place: &str, router: &Router) {
        let place = format!("{place}.uplinks");
        for name in &router.uplinks {
            let other = self.routers.iter().find(|it| it.name == *name && it.name != router.name);
            let Some(other) = other else {
                report.add(&place, format!("there is no other router {name:?}"));
                continue;
            };
            let reached = [false, true]
                .iter()
                .any(|v6| self.session_of_routers(router, other, *v6).is_some());
            let what = || format!("{} and {name} are on no common network", router.name);
            if !reached {
                report.add(&place, what());
            }
            if other.kind != RouterKind::Frr {
                report.add(&place, format!("{name} needs kind: frr to have sessions with routers"));
            }
        }
    }
}

fn check_announced(report: &mut Report, place: &str, router: &Router) {
    let families: BTreeSet<bool> = router
        .interfaces()
        .flat_map(|(_, addresses)| addresses)
        .map(|it| matches!(it, IpNet::V6(_)))
        .collect();
    for prefix in &router.announces {
        report.unless(
            families.contains(&matches!(prefix, IpNet::V6(_))),
            format!("{place}.announces"),
            format!("{prefix} needs an address of its family as next hop"),
        );
    }
}

/// What only one of the programs is configured to do here.
fn check_kind(report: &mut Report, place: &str, router: &Router) {
    let bird = router.kind == RouterKind::Bird;
    let only_frr = [
        ("uplinks", !router.uplinks.is_empty()),
        ("session", router.session == SessionAddress::Loopback),
        ("tells", router.tells == Tells::All),
        ("password", router.password.is_some()),
    ];
    for (key, used) in only_frr {
        report.unless(!(bird && used), format!("{place}.{key}"), "this needs kind: frr");
    }
    let text = "a configuration of one's own is for BIRD (kind: bird)";
    report.unless(bird || router.config.is_none(), format!("{place}.config"), text);
    if let Some(password) = &router.password {
        // What FRR's configuration takes as one word, and the kernel as a key (tcp.h).
        let sound = !password.is_empty()
            && password.len() <= 80
            && password.chars().all(|c| c.is_ascii_graphic());
        let what = "1 to 80 printable characters of ASCII without blanks";
        report.unless(sound, format!("{place}.password"), what);
    }
}
