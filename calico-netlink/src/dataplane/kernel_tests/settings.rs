//! Settings of FelixConfiguration that are about packets.

use std::net::{IpAddr, SocketAddr};

use calico_core::dataplane::{HostSettings, LogLimit, OutgoingNat, Pool, PortRange};

use super::lab::{Host, forward, ip, nft};
use super::*;

#[test]
fn outgoing_traffic_is_translated_as_the_settings_say() {
    in_new_netns(async || {
        forward();
        let outside = Host::new();
        outside.cable("up0", "eth0");
        ip("addr add 192.0.2.1/24 dev up0");
        outside.ip("addr add 192.0.2.2/24 dev eth0");
        outside.ip("route add 10.65.0.0/16 via 192.0.2.1");
        outside.ip("route add 198.51.100.7/32 via 192.0.2.1");
        let dataplane = open().await;
        let pod = Pod::new(1);
        let to: IpAddr = "192.0.2.2".parse().unwrap();
        let pool = Pool { cidr: "10.65.0.0/16".parse().unwrap(), nat_outgoing: true };
        let with = |outgoing_nat: OutgoingNat| {
            vec![Update::Host(HostSettings { outgoing_nat, ..HostSettings::default() })]
        };
        let pod_there = Update::Endpoint(endpoint(&pod, &[], &[]));
        apply(
            &dataplane,
            vec![open_profile(), Update::Pools(vec![pool]), pod_there, Update::InSync],
        )
        .await;
        let seen = |port: u16| {
            let receiver = outside.udp(to, port);
            pod.host.udp(pod.v4, 0).send_to(b"x", (to, port)).unwrap();
            let SocketAddr::V4(from) = receiver.recv_from(&mut [0; 8]).unwrap().1 else { panic!() };
            (from.ip().to_string(), from.port())
        };
        assert_eq!(seen(1).0, "192.0.2.1");
        let ports = Some(PortRange { first: 7000, last: 7001 });
        apply(&dataplane, with(OutgoingNat { ports, ..OutgoingNat::default() })).await;
        let (address, port) = seen(2);
        assert_eq!(address, "192.0.2.1");
        assert!((7000..=7001).contains(&port), "{port}");
        let address = Some("198.51.100.7".parse().unwrap());
        apply(&dataplane, with(OutgoingNat { address, ports, interface: None })).await;
        let (address, port) = seen(3);
        assert_eq!(address, "198.51.100.7");
        assert!((7000..=7001).contains(&port), "{port}");
        for (filter, translated) in [("up0", true), ("up+", true), ("up", false), ("eth0", false)] {
            let interface = Some(filter.into());
            apply(&dataplane, with(OutgoingNat { interface, ..OutgoingNat::default() })).await;
            let expected = if translated { "192.0.2.1" } else { "10.65.0.1" };
            assert_eq!(seen(4).0, expected, "{filter}");
        }
        // ICMP has no ports and is translated all the same.
        apply(&dataplane, with(OutgoingNat { ports, ..OutgoingNat::default() })).await;
        outside.ip("route del 10.65.0.0/16");
        assert!(pod.host.pings(to));
        let listed = nft(&["list", "chain", "inet", "calico", "cali-nat-outgoing"]);
        assert!(listed.contains("masquerade to :7000-7001"), "{listed}");
        // What we believe is what the kernel has: nothing to repair.
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
    });
}

#[test]
fn logs_are_limited_and_counted_all_the_same() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let (server, client) = (Pod::new(1), Pod::new(2));
        let limit = |packets, burst| {
            let log_limit = Some(LogLimit { packets, seconds: 86400, burst });
            Update::Host(HostSettings { log_limit, ..HostSettings::default() })
        };
        let rules: [RuleSpec<'_>; 2] = [(Action::Log, &|_| {}), (Action::Allow, &|_| {})];
        let updates = vec![
            open_profile(),
            ingress_policy("p", &rules),
            limit(1, 2),
            Update::Endpoint(endpoint(&server, &["p"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        let mut verdicts = dataplane.verdicts();
        // Each from a port of its own, so that each is the first of a connection.
        let receiver = server.host.udp(server.v4, 7);
        for _ in 0..5 {
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, 7)).unwrap();
            receiver.recv_from(&mut [0; 8]).unwrap();
        }
        let counters = dataplane.rule_counters().await.unwrap();
        let logged = counters.iter().find(|c| c.identity.ends_with("ingress rule 0"));
        assert_eq!(logged.map(|c| c.packets), Some(5), "{counters:?}");
        for _ in 0..2 {
            next(&mut verdicts).await;
        }
        // The limit is live: after it is gone, the next report is about the next packet.
        apply(&dataplane, vec![Update::Host(HostSettings::default())]).await;
        let socket = client.host.udp(client.v4, 0);
        socket.send_to(b"x", (server.v4, 7)).unwrap();
        let event = next(&mut verdicts).await;
        let port = socket.local_addr().unwrap().port();
        assert_eq!(event.flow.source_port, Some(port), "{event:?}");
    });
}

#[test]
fn invalid_packets_meet_policy_if_the_settings_say_so() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let pod = Pod::new(1);
        let invalid = |invalid_meets_policy| {
            Update::Host(HostSettings { invalid_meets_policy, ..HostSettings::default() })
        };
        let chain_has_it = || {
            let listed = nft(&["list", "table", "inet", "calico"]);
            let known = listed.lines().filter(|line| line.contains("goto cali-tracked"));
            let known: Vec<bool> = known.map(|line| line.contains("invalid")).collect();
            assert!(!known.is_empty(), "{listed}");
            known
        };
        let pod_there = Update::Endpoint(endpoint(&pod, &[], &[]));
        apply(&dataplane, vec![open_profile(), pod_there, Update::InSync]).await;
        assert!(chain_has_it().iter().all(|drops| *drops));
        apply(&dataplane, vec![invalid(true)]).await;
        assert!(chain_has_it().iter().all(|drops| !drops));
        apply(&dataplane, vec![invalid(false)]).await;
        assert!(chain_has_it().iter().all(|drops| *drops));
    });
}
