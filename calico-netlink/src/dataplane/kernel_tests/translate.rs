//! Floating addresses, and services that nobody serves.

use std::net::IpAddr;
use std::time::Instant;

use calico_core::dataplane::{HostSettings, Pool, ServiceLoop, Translation};

use super::lab::{Host, forward, ip};
use super::*;

/// A router beyond `up0`, to which everything else goes, of both families.
fn outside() -> Host {
    forward();
    let outside = Host::new();
    outside.cable("up0", "eth0");
    for (own, peer, nodad) in
        [("192.0.2.1/24", "192.0.2.2/24", ""), ("2001:db8::1/64", "2001:db8::2/64", " nodad")]
    {
        ip(&format!("addr add {own} dev up0{nodad}"));
        outside.ip(&format!("addr add {peer} dev eth0{nodad}"));
    }
    ip("route add default via 192.0.2.2");
    ip("-6 route add default via 2001:db8::2");
    outside.ip("route add default via 192.0.2.1");
    outside.ip("-6 route add default via 2001:db8::1");
    outside
}

fn connects(host: &Host, to: IpAddr, port: u16) {
    let started = Instant::now();
    // The first packets over a new link may be lost.
    while !host.connects(to, port) {
        assert!(started.elapsed() < Duration::from_secs(20), "{to} is not reached");
    }
}

#[test]
fn a_floating_address_leads_to_its_workload_from_everywhere() {
    in_new_netns(async || {
        let outside = outside();
        let (pod, other) = (Pod::new(1), Pod::new(2));
        let floating: [IpAddr; 2] =
            ["203.0.113.7", "2001:db8:f::7"].map(|text| text.parse().unwrap());
        let translations = [
            Translation { external: floating[0], internal: pod.v4 },
            Translation { external: floating[1], internal: pod.v6 },
        ];
        let dataplane = open().await;
        let updates = vec![
            open_profile(),
            Update::Endpoint(endpoint(&pod, &[], &[])),
            Update::Endpoint(endpoint(&other, &[], &[])),
            Update::Translations(translations.into()),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        for (internal, external) in [(pod.v4, floating[0]), (pod.v6, floating[1])] {
            let listener = pod.host.listen(internal, 80);
            let heard_from = |host: &Host, own: Option<IpAddr>| {
                connects(host, external, 80);
                let (_, from) = listener.accept().unwrap();
                assert!(own.is_none_or(|own| own == from.ip()), "{from}");
            };
            heard_from(&outside, None);
            heard_from(&other.host, None);
            // Itself, by its floating address: the answer must come from that.
            heard_from(&pod.host, Some(external));
            // The host, too.
            let to = std::net::SocketAddr::new(external, 80);
            std::net::TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
            listener.accept().unwrap();
        }
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        apply(&dataplane, vec![Update::Translations(Vec::new())]).await;
        assert!(!outside.connects(floating[0], 80));
        assert!(!table().await.unwrap().chains.contains_key("nat-PREROUTING"));
    });
}

#[test]
fn packets_to_services_that_nobody_serves_do_not_go_round() {
    in_new_netns(async || {
        let outside = outside();
        let listeners = ["10.96.0.10", "fd96::10"].map(|text| {
            let address: IpAddr = text.parse().unwrap();
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            outside.ip(&format!("addr add {address} dev lo{nodad}"));
            (address, outside.listen(address, 80))
        });
        let pod = Pod::new(1);
        let dataplane = open().await;
        let settings = |service_loop| {
            let service_cidrs = ["10.96.0.0/16", "fd96::/64"].map(|net| net.parse().unwrap());
            let service_cidrs = service_cidrs.into();
            Update::Host(HostSettings { service_loop, service_cidrs, ..HostSettings::default() })
        };
        let updates = vec![
            open_profile(),
            Update::Endpoint(endpoint(&pod, &[], &[])),
            settings(ServiceLoop::Allowed),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        for (address, _) in &listeners {
            connects(&pod.host, *address, 80);
        }
        for action in [ServiceLoop::Drop, ServiceLoop::Reject] {
            apply(&dataplane, vec![settings(action)]).await;
            assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
            for (address, _) in &listeners {
                let to = std::net::SocketAddr::new(*address, 80);
                let patience = if action == ServiceLoop::Drop { 500 } else { 20_000 };
                let patience = Duration::from_millis(patience);
                let error = pod.host.run(|| std::net::TcpStream::connect_timeout(&to, patience));
                let timed_out = error.unwrap_err().kind() == std::io::ErrorKind::TimedOut;
                assert_eq!(timed_out, action == ServiceLoop::Drop, "{action:?} {address}");
            }
        }
    });
}

#[test]
fn traffic_leaving_the_pools_is_masqueraded() {
    in_new_netns(async || {
        forward();
        let outside = Host::new();
        outside.cable("up0", "eth0");
        for (address, peer) in
            [("192.0.2.1/24", "192.0.2.2/24"), ("2001:db8::1/64", "2001:db8::2/64")]
        {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            ip(&format!("addr add {address} dev up0{nodad}"));
            outside.ip(&format!("addr add {peer} dev eth0{nodad}"));
        }
        outside.ip("route add 10.65.0.0/16 via 192.0.2.1");
        outside.ip("route add fd65::/64 via 2001:db8::1");
        let dataplane = open().await;
        let pod = Pod::new(1);
        let pools = |nat_outgoing, second: Option<&str>| {
            let pool =
                |cidr: &str, nat_outgoing| Pool { cidr: cidr.parse().unwrap(), nat_outgoing };
            let mut pools =
                vec![pool("10.65.0.0/16", nat_outgoing), pool("fd65::/64", nat_outgoing)];
            pools.extend(second.map(|cidr| pool(cidr, false)));
            Update::Pools(pools)
        };
        apply(
            &dataplane,
            vec![
                open_profile(),
                pools(true, None),
                Update::Endpoint(endpoint(&pod, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        let source_seen = |from: std::net::IpAddr, to: &str, port: u16| {
            let to: std::net::IpAddr = to.parse().unwrap();
            let receiver = outside.udp(to, port);
            let sender = pod.host.udp(from, 0);
            // The first may be lost while neighbours are looked for on a busy machine.
            let seen = (0..20).find_map(|_| {
                sender.send_to(b"x", (to, port)).unwrap();
                receiver.recv_from(&mut [0; 8]).ok()
            });
            seen.expect("a packet arrives").1.ip().to_string()
        };
        assert_eq!(source_seen(pod.v4, "192.0.2.2", 1), "192.0.2.1");
        assert_eq!(source_seen(pod.v6, "2001:db8::2", 1), "2001:db8::1");
        // Inside of a pool: not masqueraded.
        apply(&dataplane, vec![pools(true, Some("192.0.2.0/24"))]).await;
        assert_eq!(source_seen(pod.v4, "192.0.2.2", 2), "10.65.0.1");
        // A pool that does not ask for it.
        apply(&dataplane, vec![pools(false, None)]).await;
        assert_eq!(source_seen(pod.v4, "192.0.2.2", 3), "10.65.0.1");
        assert_eq!(source_seen(pod.v6, "2001:db8::2", 3), "fd65::1");
        // Nodes, when settings spare them.
        let host = HostSettings {
            node_addresses: vec!["192.0.2.2".parse().unwrap()],
            masquerade_spares_nodes: true,
            ..HostSettings::default()
        };
        apply(&dataplane, vec![pools(true, None), Update::Host(host)]).await;
        assert_eq!(source_seen(pod.v4, "192.0.2.2", 4), "10.65.0.1");
        assert_eq!(source_seen(pod.v6, "2001:db8::2", 4), "2001:db8::1");
    });
}
