//! Restarts, meddling by others, removal; and what a change costs.

use std::time::Instant;

use calico_core::dataplane::{DataplaneError, Route, RouteTarget};

use super::super::Settings;
use super::lab::{forward, nft};
use super::*;
use crate::route::{RouteConfig, RouteSync};

/// The chain that packets to a workload go to.
fn chain_of(table: &crate::nft::Ruleset, interface: &str) -> Option<String> {
    let map = &table.sets["cali-to-wl-dispatch"].elements;
    let named = |e: &&crate::nft::wire::Element| e.key.starts_with(interface.as_bytes());
    map.iter().find(named)?.verdict.as_ref()?.chain().map(str::to_owned)
}

#[test]
fn verdicts_are_reported_once_their_groups_are_free() {
    in_new_netns(async || {
        forward();
        let pod = Pod::new(1);
        let first = open().await;
        let second = open().await;
        let mut verdicts = second.verdicts();
        pod.host.pings([169, 254, 1, 1].into());
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, verdicts.next()).await.is_err());
        drop(first);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            pod.host.pings([169, 254, 1, 1].into());
            if tokio::time::timeout(soon, verdicts.next()).await.is_ok() {
                return;
            }
        }
        panic!("no verdict is reported");
    });
}

#[test]
fn what_is_not_desired_any_more_goes_with_the_first_complete_state() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        apply(&dataplane, everything(&server, &client)).await;
        drop(dataplane);
        let before = table().await;
        let dataplane = open().await;
        // Not complete yet: nothing of the earlier run goes, nothing of this one comes.
        apply(&dataplane, vec![open_profile(), Update::Endpoint(endpoint(&client, &[], &[]))])
            .await;
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        assert_eq!(table().await, before);
        apply(&dataplane, vec![Update::InSync]).await;
        let after = table().await.unwrap();
        assert!(chain_of(&after, "cali1").is_none());
        assert!(!after.chains.contains_key("cali-pi-np/prod/udp"));
        assert!(!after.sets.contains_key("cali40s-client"));
        assert!(after.chains.contains_key(&chain_of(&after, "cali2").unwrap()));
    });
}

#[test]
fn the_order_and_the_cutting_of_updates_do_not_matter() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        apply(&dataplane, everything(&server, &client)).await;
        let whole = table().await;
        dataplane.remove_all().await.unwrap();
        assert_eq!(table().await, None);
        dataplane.remove_all().await.unwrap();
        drop(dataplane);

        let dataplane = open().await;
        let closed = table().await;
        // One by one, complete from the start, endpoints before their rules.
        let mut updates = everything(&server, &client);
        let in_sync = updates.pop().unwrap();
        apply(&dataplane, vec![in_sync]).await;
        let [set, profile, rules, server_endpoint, client_endpoint] =
            <[Update; 5]>::try_from(updates).unwrap();
        let applied = apply(&dataplane, vec![server_endpoint.clone()]).await;
        assert_eq!(
            applied.failed,
            [(endpoint_id(&server), "NetworkPolicy prod/udp is not known".to_owned())]
        );
        for update in [set, rules, profile, client_endpoint, server_endpoint] {
            apply(&dataplane, vec![update]).await;
        }
        assert_eq!(table().await, whole);

        // And back, in an order in which each is still used when it goes.
        let owner = RuleOwner::Policy(policy("udp"));
        for update in [
            Update::SetRemoved("s:client".into()),
            Update::RulesRemoved(owner),
            Update::RulesRemoved(RuleOwner::Profile("open".into())),
            Update::EndpointRemoved(endpoint_id(&server)),
            Update::EndpointRemoved(endpoint_id(&client)),
        ] {
            apply(&dataplane, vec![update]).await;
        }
        assert_eq!(table().await, closed);
    });
}

#[test]
fn what_others_break_is_repaired_and_told() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        // Nobody but this test is to repair.
        let settings = Settings { guard_interval: None };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        apply(&dataplane, everything(&server, &client)).await;
        let whole = table().await;
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        let chain = chain_of(whole.as_ref().unwrap(), "cali1").unwrap();
        let changed = format!("chain {chain} was changed");
        let meddling: [(&[&str], &str); 6] = [
            (&["flush", "ruleset"], "table calico was missing"),
            (&["flush", "chain", "inet", "calico", &chain], &changed),
            (&["insert", "rule", "inet", "calico", &chain, "accept"], &changed),
            (
                &["delete", "element", "inet", "calico", "cali40s-client", "{ 10.65.0.2 }"],
                "set cali40s-client lacked 1 and had 0 extra",
            ),
            (&["add", "chain", "inet", "calico", "mine"], "chain mine was not ours"),
            (
                &[
                    "add",
                    "element",
                    "inet",
                    "calico",
                    "cali-to-wl-dispatch",
                    "{ \"cali9\" : accept }",
                ],
                "set cali-to-wl-dispatch lacked 0 and had 1 extra",
            ),
        ];
        for (arguments, told) in meddling {
            nft(arguments);
            assert_ne!(table().await, whole);
            assert_eq!(dataplane.resync().await.unwrap().repaired, [told]);
            assert_eq!(table().await, whole, "{arguments:?}");
        }
        // A change of ours meets a meddled table: the batch does not fit, is refused, and the
        // next fits.
        nft(&["flush", "ruleset"]);
        nft(&["add", "table", "ip", "other"]);
        let moved = ingress_policy("udp", &[]);
        apply(&dataplane, vec![moved]).await;
        let rules = &table().await.unwrap().chains["cali-pi-np/prod/udp"].rules;
        assert!(rules.is_empty(), "{rules:?}");
    });
}

#[test]
fn what_others_break_is_repaired_by_itself() {
    in_new_netns(async || {
        let pods = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        let closed = table().await;
        let repaired = async |whole| {
            let started = Instant::now();
            while table().await != whole {
                assert!(started.elapsed() < Duration::from_secs(20), "not repaired");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            started.elapsed()
        };
        // Closed even before there is a desired state.
        nft(&["flush", "ruleset"]);
        repaired(closed).await;
        apply(&dataplane, everything(&pods.0, &pods.1)).await;
        let whole = table().await;
        nft(&["flush", "ruleset"]);
        println!("flush ruleset repaired after {:?}", repaired(whole.clone()).await);
        nft(&["delete", "element", "inet", "calico", "cali-to-wl-dispatch", "{ \"cali1\" }"]);
        println!("an element repaired after {:?}", repaired(whole).await);
        // What was removed on purpose stays away.
        dataplane.remove_all().await.unwrap();
        nft(&["add", "table", "ip", "other"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(table().await, None);
    });
}

#[test]
fn what_the_kernel_refuses_is_left_out_and_named_and_the_rest_works() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        // A rule larger than a message can be.
        let sets: Vec<SetId> = (0..1500).map(|n| format!("s:{n}").as_str().into()).collect();
        let huge = ingress_policy("huge", &[(Action::Allow, &|r| r.source.sets.clone_from(&sets))]);
        let mut updates: Vec<Update> =
            sets.iter().map(|id| address_set(&id.0, &[&client])).collect();
        updates.extend([
            open_profile(),
            huge.clone(),
            Update::Endpoint(endpoint(&server, &["huge"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ]);
        let applied = apply(&dataplane, updates).await;
        let [(id, reason)] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
        assert_eq!(*id, endpoint_id(&server));
        assert!(reason.contains("NetworkPolicy prod/huge is refused"), "{reason}");
        // Closed is who needs it, and nobody else.
        assert!(!client.host.pings(server.v4));
        assert!(chain_of(&table().await.unwrap(), "cali2").is_some());
        // Tried again, refused again; nothing changes.
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        // Another version of it is another matter.
        let small = ingress_policy("huge", &[(Action::Allow, &|_| {})]);
        assert_eq!(apply(&dataplane, vec![small]).await.failed, []);
        let started = Instant::now();
        while !client.host.pings(server.v4) {
            assert!(started.elapsed() < Duration::from_secs(20), "still closed");
        }
    });
}

#[test]
fn a_senseless_transaction_is_refused_without_trace() {
    in_new_netns(async || {
        let pod = Pod::new(1);
        let dataplane = open().await;
        apply(
            &dataplane,
            vec![open_profile(), Update::Endpoint(endpoint(&pod, &[], &[])), Update::InSync],
        )
        .await;
        let before = table().await;
        let mut long = endpoint(&pod, &[], &[]);
        long.interface = "cali-much-too-long".into();
        let unknown =
            ingress_policy("p", &[(Action::Allow, &|r| r.source.sets = in_set("s:absent"))]);
        let delta = Update::SetDelta { id: "s:absent".into(), added: vec![], removed: vec![] };
        let ports_as_net = Update::Set {
            id: "s:x".into(),
            kind: SetKind::Net,
            members: vec![SetMember::Port { address: pod.v4, protocol: 6, port: 1 }],
        };
        for (update, told) in [
            (Update::Endpoint(long), "no interface name"),
            (unknown, "set s:absent, which was not described"),
            (delta, "set s:absent changes but was not described"),
            (ports_as_net, "cannot hold"),
        ] {
            let gone = Update::EndpointRemoved(endpoint_id(&pod));
            let transaction = Transaction { revision: 8, updates: vec![gone, update] };
            let error = dataplane.apply(transaction).await.unwrap_err();
            assert!(matches!(error, DataplaneError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
        apply(&dataplane, vec![]).await;
        assert_eq!(table().await, before);
    });
}

/// Not a test of speed: it shows that the cost of one endpoint does not grow with the others,
/// within a wide margin, and prints what it took.
#[test]
fn one_more_endpoint_costs_the_same_among_many() {
    in_new_netns(async || {
        let dataplane = open().await;
        let of = |n: usize| {
            let id = EndpointId { namespace: "prod".into(), name: format!("{n}").into() };
            let tier = TierPolicies {
                tier: "default".into(),
                default_action: DefaultAction::Deny,
                ingress: vec![policy("p")],
                egress: vec![],
            };
            let address = std::net::Ipv4Addr::from(0x0a41_0000 + u32::try_from(n).unwrap());
            Update::Endpoint(WorkloadEndpoint {
                id,
                interface: format!("cali{n}").into(),
                addresses: vec![std::net::IpAddr::V4(address).into()],
                allowed_sources: vec![],
                limits: Default::default(),
                tiers: vec![tier],
                profiles: vec!["open".into()],
            })
        };
        let start =
            vec![open_profile(), ingress_policy("p", &[(Action::Allow, &|_| {})]), Update::InSync];
        apply(&dataplane, start).await;
        let mut medians = Vec::new();
        for many in [0, 2000] {
            apply(&dataplane, (0..many).map(|n| of(10_000 + n)).collect()).await;
            let (mut times, mut removals) = (Vec::new(), Vec::new());
            for n in 0..21 {
                let started = Instant::now();
                apply(&dataplane, vec![of(n)]).await;
                times.push(started.elapsed());
                let id = EndpointId { namespace: "prod".into(), name: format!("{n}").into() };
                let started = Instant::now();
                apply(&dataplane, vec![Update::EndpointRemoved(id)]).await;
                removals.push(started.elapsed());
            }
            times.sort();
            removals.sort();
            medians.push(times[10]);
            println!("its removal: median {:?}", removals[10]);
            println!("one endpoint among {many}: median {:?}, worst {:?}", times[10], times[20]);
        }
        assert!(medians[1] < medians[0] * 20 + Duration::from_millis(20), "{medians:?}");
    });
}

#[test]
fn connections_of_a_removed_endpoint_are_forgotten() {
    in_new_netns(async || {
        forward();
        let (server, client, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open().await;
        apply(
            &dataplane,
            vec![
                open_profile(),
                Update::Endpoint(endpoint(&server, &[], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::Endpoint(endpoint(&other, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        let known = |address: std::net::IpAddr| {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let output =
                std::process::Command::new("conntrack").args(["-L", "-f", family]).output();
            let output = output.expect("conntrack is the oracle: apt-get install conntrack");
            let listed = String::from_utf8(output.stdout).unwrap();
            listed.lines().filter(|line| line.contains(&format!("={address} "))).count()
        };
        let _listeners = [server.v4, server.v6, other.v4].map(|a| {
            let host = if a == other.v4 { &other.host } else { &server.host };
            host.listen(a, 80)
        });
        for to in [server.v4, server.v6, other.v4] {
            assert!(client.host.connects(to, 80));
        }
        assert!(known(server.v4) > 0 && known(server.v6) > 0);
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&server))]).await;
        assert_eq!((known(server.v4), known(server.v6)), (0, 0));
        assert!(known(other.v4) > 0);
    });
}

#[test]
fn rules_that_stay_go_on_counting() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        let web = |port: u16| {
            let to = move |rule: &mut Rule| {
                rule.protocol = Some(17);
                rule.destination.ports = ports(port, port);
            };
            ingress_policy("web", &[(Action::Deny, &to), (Action::Allow, &|_| {})])
        };
        // So many rules for one protocol stand in a chain of their own.
        let more = |number: usize| {
            let to = |rule: &mut Rule| {
                rule.protocol = Some(17);
                rule.destination.ports = ports(77, 77);
            };
            ingress_policy("web", &vec![(Action::Deny, &to as _); number])
        };
        let updates = vec![
            open_profile(),
            web(7),
            Update::Endpoint(endpoint(&server, &["web"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        let counted = async |index: u16| {
            let identity = format!("NetworkPolicy prod/web ingress rule {index}");
            let counters = dataplane.rule_counters().await.unwrap();
            counters.into_iter().find(|c| c.identity == identity).map(|c| (c.packets, c.bytes))
        };
        let listener = server.host.udp(server.v4, 8);
        let sender = client.host.udp(client.v4, 9);
        for port in [7, 8] {
            sender.send_to(b"12345678", (server.v4, port)).unwrap();
        }
        listener.recv_from(&mut [0; 8]).unwrap();
        assert_eq!((counted(0).await, counted(1).await), (Some((1, 36)), Some((1, 36))));
        apply(&dataplane, vec![web(77)]).await;
        assert_eq!((counted(0).await, counted(1).await), (Some((0, 0)), Some((1, 36))));
        sender.send_to(b"12345678", (server.v4, 77)).unwrap();
        assert_eq!(counted(0).await, Some((1, 36)));
        let has_part =
            async || table().await.unwrap().chains.contains_key("cali-pi-np/prod/web//udp");
        for (number, split) in [(4, true), (5, true), (3, false), (1, false)] {
            apply(&dataplane, vec![more(number)]).await;
            assert_eq!(has_part().await, split, "{number}");
            assert_eq!(counted(0).await, Some((1, 36)), "{number}");
            assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        }
    });
}

#[test]
fn routes_follow_policy() {
    in_new_netns(async || {
        forward();
        let pod = Pod::new(1);
        super::lab::ip("route del 10.65.0.1/32 dev cali1");
        let routes = RouteSync::open(RouteConfig::default()).unwrap();
        let dataplane = LinuxDataplane::open(Arc::new(routes)).await.unwrap();
        let destination = "10.65.0.1/32".parse().unwrap();
        let route = Route::new(destination, RouteTarget::Workload("cali1".into()));
        let block = "10.65.0.0/26".parse().unwrap();
        let blackhole = Route::new(block, RouteTarget::Blackhole);
        let listed = || super::lab::ip("-4 route");
        apply(
            &dataplane,
            vec![
                open_profile(),
                Update::Endpoint(endpoint(&pod, &[], &[])),
                Update::Route(route.clone()),
                Update::Route(blackhole),
            ],
        )
        .await;
        assert!(!listed().contains("10.65.0.1"), "before the state is complete");
        apply(&dataplane, vec![Update::InSync]).await;
        assert!(
            listed().contains("10.65.0.1 dev cali1") && listed().contains("blackhole 10.65.0.0/26")
        );
        apply(&dataplane, vec![Update::RouteRemoved(block)]).await;
        assert!(listed().contains("10.65.0.1 dev cali1") && !listed().contains("blackhole"));
        super::lab::ip("route del 10.65.0.1/32 dev cali1");
        let repaired = dataplane.resync().await.unwrap().repaired;
        assert!(listed().contains("10.65.0.1 dev cali1"), "{repaired:?}");
        dataplane.remove_all().await.unwrap();
        assert!(!listed().contains("10.65.0.1"));
    });
}
