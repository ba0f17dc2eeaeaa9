//! What a rule may ask of a packet, each clause by itself.

use calico_core::dataplane::IcmpMatch;
use calico_core::key::Family;

use super::lab::forward;
use super::*;

#[test]
fn every_clause_matches_as_it_says() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let (server, client) = (Pod::new(1), Pod::new(2));
        let setup = vec![
            open_profile(),
            Update::Endpoint(endpoint(&server, &["p"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            address_set("s:client", &[&client]),
            address_set("s:nobody", &[]),
            Update::Set {
                id: "s:nets".into(),
                kind: SetKind::Net,
                // Overlapping and adjacent, which the kernel would refuse as they are.
                members: ["10.65.0.0/24", "10.65.0.0/16", "10.66.0.0/16", "fd65::/64"]
                    .map(|net| SetMember::Net(net.parse().unwrap()))
                    .into(),
            },
            Update::Set {
                id: "n:http".into(),
                kind: SetKind::AddressPort,
                members: [server.v4, server.v6]
                    .map(|address| SetMember::Port { address, protocol: 6, port: 80 })
                    .into(),
            },
            Update::InSync,
        ];
        let mut setup = Some(setup);
        let _listeners: Vec<_> = [server.v4, server.v6]
            .into_iter()
            .flat_map(|a| [80, 443].map(|port| server.host.listen(a, port)))
            .collect();
        type Change<'a> = &'a dyn Fn(&mut Rule);
        // Expected: ping v4, ping v6, TCP 80 v4, TCP 80 v6, TCP 443 v4, TCP 443 v6.
        let cases: &[(&str, Change<'_>, &str)] = &[
            ("anything", &|_| {}, "111111"),
            ("IPv6", &|r| r.family = Some(Family::V6), "010101"),
            ("TCP", &|r| r.protocol = Some(6), "001111"),
            ("not TCP", &|r| r.not_protocol = Some(6), "110000"),
            ("ICMP", &|r| r.protocol = Some(1), "100000"),
            ("echo request", &|r| r.icmp = Some(IcmpMatch { kind: 8, code: Some(0) }), "100000"),
            (
                "not echo request",
                &|r| r.not_icmp = Some(IcmpMatch { kind: 8, code: None }),
                "011111",
            ),
            (
                "not ICMPv6 echo",
                &|r| {
                    r.protocol = Some(58);
                    r.not_icmp = Some(IcmpMatch { kind: 128, code: None });
                },
                "000000",
            ),
            (
                "port",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.ports = ports(80, 80);
                },
                "001100",
            ),
            ("port without protocol", &|r| r.destination.ports = ports(0, 100), "001100"),
            (
                "not port",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.not_ports = ports(80, 80);
                },
                "000011",
            ),
            (
                "ports in a set",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.not_ports = [ports(1, 10), ports(443, 500)].concat();
                },
                "001100",
            ),
            (
                "source port",
                &|r| {
                    r.protocol = Some(6);
                    r.source.ports = ports(1, 79);
                },
                "000000",
            ),
            (
                "named port",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.port_sets = in_set("n:http");
                },
                "001100",
            ),
            (
                "named or numbered",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.port_sets = in_set("n:http");
                    r.destination.ports = ports(443, 443);
                },
                "001111",
            ),
            (
                "not named port",
                &|r| {
                    r.protocol = Some(6);
                    r.destination.not_port_sets = in_set("n:http");
                },
                "000011",
            ),
            ("net", &|r| r.source.nets = vec!["10.64.0.0/10".parse().unwrap()], "101010"),
            (
                "several nets",
                &|r| {
                    r.source.nets = ["192.0.2.0/24", "10.65.0.2/32", "fd65::2/128"]
                        .map(|n| n.parse().unwrap())
                        .into();
                },
                "111111",
            ),
            ("not net", &|r| r.source.not_nets = vec!["10.0.0.0/8".parse().unwrap()], "010101"),
            (
                "not several",
                &|r| {
                    r.source.not_nets =
                        ["10.65.0.2/32", "192.0.2.0/24"].map(|n| n.parse().unwrap()).into();
                },
                "010101",
            ),
            ("not all", &|r| r.source.not_nets = vec!["0.0.0.0/0".parse().unwrap()], "010101"),
            ("set", &|r| r.source.sets = in_set("s:client"), "111111"),
            ("empty set", &|r| r.source.sets = in_set("s:nobody"), "000000"),
            ("not in set", &|r| r.source.not_sets = in_set("s:client"), "000000"),
            ("not in empty set", &|r| r.source.not_sets = in_set("s:nobody"), "111111"),
            ("set of nets", &|r| r.source.sets = in_set("s:nets"), "111111"),
            ("both sets", &|r| r.source.sets = vec!["s:nets".into(), "s:nobody".into()], "000000"),
            ("destination", &|r| r.destination.sets = in_set("s:client"), "000000"),
        ];
        for (name, change, expected) in cases {
            let rules = ingress_policy("p", &[(Action::Allow, change)]);
            let updates = [setup.take().unwrap_or_default(), vec![rules]].concat();
            // Rules before endpoints, as a policy engine sends them, does not matter to us.
            let applied = apply(&dataplane, updates).await;
            assert_eq!(applied.failed, []);
            let c = &client.host;
            // All at once: each one that is dropped takes its time.
            let look = || {
                let seen = std::thread::scope(|scope| {
                    let probes: [Box<dyn Fn() -> bool + Send>; 6] = [
                        Box::new(|| c.pings(server.v4)),
                        Box::new(|| c.pings(server.v6)),
                        Box::new(|| c.connects(server.v4, 80)),
                        Box::new(|| c.connects(server.v6, 80)),
                        Box::new(|| c.connects(server.v4, 443)),
                        Box::new(|| c.connects(server.v6, 443)),
                    ];
                    probes.map(|probe| scope.spawn(probe)).map(|probe| probe.join().unwrap())
                });
                seen.map(|open| if open { '1' } else { '0' }).iter().collect::<String>()
            };
            // What is dropped never passes, however often it is tried; what passes may be too late
            // on a busy machine.
            let late = |seen: &str| {
                seen != *expected && seen.chars().zip(expected.chars()).all(|(s, e)| s <= e)
            };
            let mut seen = look();
            for _ in 0..10 {
                if !late(&seen) {
                    break;
                }
                seen = look();
            }
            assert_eq!(
                &seen,
                expected,
                "{name}\n{}",
                super::lab::nft(&["list", "table", "inet", "calico"])
            );
        }
    });
}
