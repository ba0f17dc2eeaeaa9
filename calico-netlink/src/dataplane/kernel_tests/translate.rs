//! Floating addresses, and services that nobody serves.

use std::net::IpAddr;
use std::time::Instant;

use calico_core::dataplane::{HostSettings, ServiceLoop, Translation};

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
