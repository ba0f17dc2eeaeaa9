//! Connections whose addresses are translated are offloaded with their translation.

use std::net::Ipv4Addr;

use calico_core::dataplane::{Pool, Translation};

use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FLOATING: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// A host behind `up0` that knows the way to pods.
pub(super) fn outside() -> Host {
    let outside = Host::new();
    outside.cable("up0", "eth0");
    ip(&format!("addr add {OWN}/24 dev up0"));
    outside.ip(&format!("addr add {PEER}/24 dev eth0"));
    outside.ip(&format!("route add 10.65.0.0/16 via {OWN}"));
    outside.ip(&format!("route add {FLOATING}/32 via {OWN}"));
    outside
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn masqueraded_and_floating_addresses_are_translated() {
    in_new_netns(async || {
        forward();
        let pod = Pod::new(1);
        let outside = outside();
        let dataplane = open_offloading().await;
        let internal = pod.v4;
        let updates = vec![
            open_profile(),
            Update::Endpoint(endpoint(&pod, &[], &[])),
            Update::Pools(vec![Pool { cidr: "10.65.0.0/16".parse().unwrap(), nat_outgoing: true }]),
            Update::Translations(vec![Translation { external: FLOATING.into(), internal }]),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        watch();
        let mut out = Talk::new(&outside, PEER.into(), 80, from_host(&pod.host, PEER.into(), 80));
        assert_eq!(out.server.peer_addr().unwrap().ip(), IpAddr::V4(OWN));
        until_offloaded(&mut out, true).await;
        let floating = FLOATING.into();
        let mut back = Talk::new(&pod.host, internal, 81, from_host(&outside, floating, 81));
        assert_eq!(back.server.local_addr().unwrap().ip(), internal);
        until_offloaded(&mut back, true).await;
        // Offloaded packets are translated as well: both ends still hear each other.
        for _ in 0..4 {
            assert_eq!(seen(&mut out).await + seen(&mut back).await, 0);
        }
        // A route that changes makes the kernel look anew.
        ip("route add 203.0.113.0/24 via 192.0.2.2");
        until_offloaded(&mut out, true).await;
        until_offloaded(&mut back, true).await;
    });
}
