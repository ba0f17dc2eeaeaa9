//! Policies decide over real packets as they say, and tell which rule decided.

use calico_core::dataplane::{
    EndpointToHostAction, HostSettings, IcmpMatch, Pool, Verdict, VerdictCause,
};
use calico_core::key::Family;

use super::lab::{Host, forward, ip};
use super::*;

#[test]
fn an_unknown_interface_is_closed_in_every_direction() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (a, b) = (Pod::new(1), Pod::new(2));
        for (to4, to6) in
            [(b.v4, b.v6), ([169, 254, 1, 1].into(), "fe80::1%eth0".parse().unwrap_or(b.v6))]
        {
            assert!(!a.host.pings(to4) && !a.host.pings(to6));
        }
        let event = next(&mut verdicts).await;
        assert_eq!(
            (event.verdict, &event.cause),
            (Verdict::Denied, &VerdictCause::UnknownEndpoint)
        );
        assert_eq!((&*event.interface, event.direction), ("cali1", Direction::Egress));

        // One side known is not enough; both are.
        apply(
            &dataplane,
            vec![open_profile(), Update::Endpoint(endpoint(&a, &[], &[])), Update::InSync],
        )
        .await;
        assert!(!a.host.pings(b.v4) && !b.host.pings(a.v4));
        apply(&dataplane, vec![Update::Endpoint(endpoint(&b, &[], &[]))]).await;
        assert!(
            a.host.pings(b.v4) && b.host.pings(a.v4) && a.host.pings(b.v6) && b.host.pings(a.v6)
        );

        // And closed again.
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&b))]).await;
        assert!(!a.host.pings(b.v4) && !a.host.pings(b.v6));
    });
}

#[test]
fn a_selector_set_and_a_port_range_decide_and_name_their_rule() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (web, client, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let rules = ingress_policy(
            "web",
            &[
                (Action::Deny, &|rule| {
                    rule.protocol = Some(6);
                    rule.destination.ports = ports(81, 81);
                }),
                (Action::Allow, &|rule| {
                    rule.protocol = Some(6);
                    rule.source.sets = in_set("s:clients");
                    rule.destination.ports = [ports(80, 82), ports(90, 90)].concat();
                }),
            ],
        );
        apply(
            &dataplane,
            vec![
                address_set("s:clients", &[&client]),
                open_profile(),
                rules,
                Update::Endpoint(endpoint(&web, &["web"], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::Endpoint(endpoint(&other, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        for address in [web.v4, web.v6] {
            let _listeners = [80, 81, 82, 83, 90].map(|port| web.host.listen(address, port));
            let open =
                |from: &Pod| [80, 81, 82, 83, 90].map(|port| from.host.connects(address, port));
            assert_eq!(open(&client), [true, false, true, false, true], "{address}");
            assert_eq!(open(&other), [false; 5], "{address}");
        }

        let event = next(&mut verdicts).await;
        let VerdictCause::Rule(id) = &event.cause else { panic!("{event:?}") };
        assert_eq!(id.to_string(), "NetworkPolicy prod/web ingress rule 0");
        assert_eq!((event.flow.source, event.flow.destination), (client.v4, web.v4));
        assert_eq!((event.flow.protocol, event.flow.destination_port), (6, Some(81)));
        assert_eq!((&*event.interface, event.direction), ("cali1", Direction::Ingress));
        let event = next(&mut verdicts).await;
        assert_eq!(event.cause, VerdictCause::EndOfTier("default".into()));
        assert_eq!(event.flow.destination_port, Some(83));

        let counters = dataplane.rule_counters().await.unwrap();
        let packets = |identity: &str| {
            counters.iter().find(|c| c.identity == identity).map_or(0, |c| c.packets)
        };
        // Client and other, on two families, each one connection request to port 81.
        assert_eq!(packets("NetworkPolicy prod/web ingress rule 0"), 4);
        assert_eq!(packets("NetworkPolicy prod/web ingress rule 1"), 6);
        assert_eq!(packets("end of tier default ingress"), 2 + 8);

        // The set gains a member: one element, no rule.
        let added = vec![SetMember::Net(other.v4.into())];
        let delta = Update::SetDelta { id: "s:clients".into(), added, removed: vec![] };
        apply(&dataplane, vec![delta]).await;
        let _listener = web.host.listen(web.v4, 80);
        assert!(other.host.connects(web.v4, 80));
    });
}

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

#[test]
fn tiers_pass_profiles_decide_and_log_goes_on() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let tier = |name: &str, default_action, policies: &[&str]| TierPolicies {
            tier: name.into(),
            default_action,
            ingress: policies.iter().map(|name| policy(name)).collect(),
            egress: vec![],
        };
        let tcp = |port: u16| {
            move |rule: &mut Rule| {
                rule.protocol = Some(6);
                rule.destination.ports = ports(port, port);
            }
        };
        let mut guarded = endpoint(&server, &[], &[]);
        guarded.tiers = vec![
            tier("security", DefaultAction::Deny, &["first", "second"]),
            tier("soft", DefaultAction::Pass, &["third"]),
        ];
        let owner = RuleOwner::Profile("tcp4".into());
        let mut allow = rule(&owner, Direction::Ingress, 0, Action::Allow);
        tcp(4)(&mut allow);
        let pass = rule(&owner, Direction::Ingress, 1, Action::Pass);
        let rules = RuleSet { ingress: vec![allow, pass], egress: vec![] };
        guarded.profiles = vec!["tcp4".into(), "open".into()];
        apply(
            &dataplane,
            vec![
                open_profile(),
                Update::Rules { owner, rules },
                ingress_policy(
                    "first",
                    &[
                        (Action::Log, &tcp(1)),
                        (Action::Pass, &tcp(1)),
                        (Action::Pass, &tcp(4)),
                        (Action::Pass, &tcp(5)),
                    ],
                ),
                ingress_policy("second", &[(Action::Deny, &tcp(1)), (Action::Allow, &tcp(2))]),
                ingress_policy("third", &[(Action::Allow, &tcp(1)), (Action::Deny, &tcp(2))]),
                Update::Endpoint(guarded),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        let _listeners = [1, 2, 3, 4, 5].map(|port| server.host.listen(server.v4, port));
        let seen = [1, 2, 3, 4, 5].map(|port| client.host.connects(server.v4, port));
        // 1: logged, passed by first past second, allowed by third. 2: allowed by second, which
        // ends it. 3: end of tier security. 4: passed, nothing in soft, allowed by the profile.
        // 5: the same, but Pass in a profile denies.
        assert_eq!(seen, [true, true, false, true, false]);
        let mut causes = Vec::new();
        for _ in 0..3 {
            let event = next(&mut verdicts).await;
            causes.push((event.verdict, event.cause));
        }
        let of = |index, name| match name {
            Some(name) => VerdictCause::Rule(RuleId {
                owner: RuleOwner::Policy(policy(name)),
                direction: Direction::Ingress,
                index,
            }),
            None => VerdictCause::Rule(RuleId {
                owner: RuleOwner::Profile("tcp4".into()),
                direction: Direction::Ingress,
                index,
            }),
        };
        assert_eq!(
            causes,
            [
                (Verdict::Logged, of(0, Some("first"))),
                (Verdict::Denied, VerdictCause::EndOfTier("security".into())),
                (Verdict::Denied, of(1, None)),
            ]
        );
    });
}

#[test]
fn a_forged_source_goes_nowhere() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let forged = "10.65.0.77".parse().unwrap();
        client.host.ip("addr add 10.65.0.77/32 dev eth0");
        let mut known = endpoint(&client, &[], &[]);
        apply(
            &dataplane,
            vec![
                open_profile(),
                Update::Endpoint(known.clone()),
                Update::Endpoint(endpoint(&server, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        let receiver = server.host.udp(server.v4, 9);
        let arrives = || {
            let sender = client.host.udp(forged, 0);
            sender.send_to(b"x", (server.v4, 9)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        // No route leads back.
        assert!(!arrives());
        let event = next(&mut verdicts).await;
        assert_eq!((event.cause, event.flow.source), (VerdictCause::Spoofed, forged));
        // A route leads back, but the endpoint does not have that address.
        ip("route add 10.65.0.77/32 dev cali2");
        assert!(!arrives());
        assert_eq!(next(&mut verdicts).await.cause, VerdictCause::Spoofed);
        // It may, even without route.
        ip("route del 10.65.0.77/32 dev cali2");
        known.allowed_sources = vec!["10.65.0.64/26".parse().unwrap()];
        apply(&dataplane, vec![Update::Endpoint(known)]).await;
        assert!(arrives());
    });
}

#[test]
fn traffic_to_the_host_follows_the_setting_after_policy() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let pod = Pod::new(1);
        ip("addr add 192.0.2.1/32 dev lo");
        ip("addr add 2001:db8::1/128 dev lo nodad");
        let (host4, host6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        apply(
            &dataplane,
            vec![open_profile(), Update::Endpoint(endpoint(&pod, &[], &[])), Update::InSync],
        )
        .await;
        assert!(!pod.host.pings(host4) && !pod.host.pings(host6));
        for endpoint_to_host in [EndpointToHostAction::Accept, EndpointToHostAction::Return] {
            let host = HostSettings { endpoint_to_host, ..HostSettings::default() };
            apply(&dataplane, vec![Update::Host(host)]).await;
            assert!(pod.host.pings(host4) && pod.host.pings(host6), "{endpoint_to_host:?}");
        }
        // Its egress policy comes first.
        let none = policy_update("none", Direction::Egress, &[]);
        apply(&dataplane, vec![none, Update::Endpoint(endpoint(&pod, &[], &["none"]))]).await;
        assert!(!pod.host.pings(host4));
        // The host itself reaches its workloads whatever their policy.
        assert!(
            std::process::Command::new("ping")
                .args(["-q", "-c1", "-W1", "10.65.0.1"])
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        );
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
            pod.host.udp(from, 0).send_to(b"x", (to, port)).unwrap();
            receiver.recv_from(&mut [0; 8]).unwrap().1.ip().to_string()
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

#[test]
fn tunnelled_packets_of_a_workload_are_dropped() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let (server, client) = (Pod::new(1), Pod::new(2));
        let updates = vec![
            open_profile(),
            Update::Endpoint(endpoint(&server, &[], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        for (port, passes) in [(4788, true), (4789, false), (4790, true)] {
            for (from, to) in [(client.v4, server.v4), (client.v6, server.v6)] {
                let receiver = server.host.udp(to, port);
                if passes {
                    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                }
                client.host.udp(from, 0).send_to(b"x", (to, port)).unwrap();
                assert_eq!(receiver.recv_from(&mut [0; 8]).is_ok(), passes, "{to} port {port}");
            }
        }
        let counters = dataplane.rule_counters().await.unwrap();
        let of = |identity: &str| counters.iter().find(|c| c.identity == identity).unwrap().packets;
        assert_eq!((of("VXLAN from a workload"), of("IPIP from a workload")), (2, 0));
    });
}
