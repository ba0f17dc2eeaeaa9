//! What a change costs, and what it leaves alone.

use std::time::Instant;

use super::lab::forward;
use super::*;

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
