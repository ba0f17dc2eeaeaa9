//! The keys of the speaker and of the program, which stand above all tables.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use calico_bgp::speaker;

use super::Service;
use super::document::Table;

pub(super) fn read_speaker(root: &mut Table<'_, '_>) -> Option<speaker::Config> {
    let as_number = root.need::<u32>("as", "64512");
    let router_id = root.need::<Ipv4Addr>("router_id", "\"192.0.2.1\"");
    if let Some(number) = as_number.as_ref().filter(|number| number.value == 0) {
        number.problem("AS 0 is reserved (RFC 7607); use 1 to 4294967295");
    }
    if let Some(id) = router_id.as_ref().filter(|id| id.value.is_unspecified()) {
        id.problem("0.0.0.0 identifies nobody; use an address of this host");
    }
    let local_as = as_number.as_ref().map_or(1, |number| number.value);
    let id = router_id.as_ref().map_or(Ipv4Addr::LOCALHOST, |id| id.value);
    let mut speaker = speaker::Config::new(local_as, id);
    if let Some(listen) = root.list::<SocketAddr>("listen") {
        let mut seen = BTreeSet::new();
        for address in &listen.value {
            if !seen.insert(address.value) {
                address.problem("is there twice; leave one out");
            }
        }
        speaker.listen = listen.value.iter().map(|address| address.value).collect();
    }
    speaker.cluster_id = root.get("cluster_id").map(|found| found.value);
    if let Some(paths) = root.get::<u16>("max_paths") {
        if paths.value == 0 {
            paths.problem("a route has one path at least; use 1 and more");
        }
        speaker.max_paths = paths.value.into();
    }
    if let Some(relax) = root.get("multipath_relax") {
        speaker.multipath_relax = relax.value;
    }
    speaker.next_hop_v4 = root.get::<Ipv4Addr>("next_hop_v4").map(|found| found.value);
    speaker.next_hop_v6 = root.get::<Ipv6Addr>("next_hop_v6").map(|found| found.value);
    if let Some(preserved) = root.get("forwarding_preserved") {
        speaker.forwarding_preserved = preserved.value;
    }
    if let Some(time) = root.get::<u16>("selection_deferral") {
        speaker.selection_deferral = Duration::from_secs(time.value.into());
    }
    (as_number.is_some() && router_id.is_some()).then_some(speaker)
}

pub(super) fn read_service(root: &mut Table<'_, '_>) -> Service {
    let default = Service::default();
    Service {
        run_dir: root.get("run_dir").map_or(default.run_dir, |found| found.value),
        metrics: root.get("metrics").map(|found| found.value),
        on_stop: root.get("on_stop").map_or(default.on_stop, |found| found.value),
    }
}
