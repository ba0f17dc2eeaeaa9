//! Connections whose packets rules have to see one by one are not offloaded; bandwidth is limited all
//! the same.

use std::io::{Read as _, Write as _};

use calico_core::dataplane::{
    Bandwidth, Dscp, HostEndpoint, HostInterface, Limits, Marking, PacketRate,
};

use super::*;

fn limited(pod: &Pod, limits: Limits) -> Update {
    Update::Endpoint(WorkloadEndpoint { limits, ..endpoint(pod, &[], &[]) })
}

/// Of packets that come, but so many that none is dropped here.
fn packets() -> Limits {
    let mut limits = Limits::default();
    limits.ingress.packets = Some(PacketRate { per_second: 100_000, burst: 100_000 });
    limits
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn connections_whose_packets_are_counted_or_marked_are_not_offloaded() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open_offloading().await;
        let updates = vec![
            open_profile(),
            limited(&server, packets()),
            limited(&client, Limits::default()),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        watch();
        let mut talk =
            Talk::new(&server.host, server.v4, 80, from_host(&client.host, server.v4, 80));
        for _ in 0..4 {
            assert!(seen(&mut talk).await >= 8);
        }
        apply(&dataplane, vec![limited(&server, Limits::default())]).await;
        until_offloaded(&mut talk, true).await;
        let mut connections = Limits::default();
        connections.egress.connections = Some(100);
        for update in [
            limited(&server, packets()),
            limited(&client, connections),
            Update::Markings(vec![Marking { source: client.v4, dscp: Dscp::new(46).unwrap() }]),
        ] {
            // At once: there is no packet that could be let through too much.
            apply(&dataplane, vec![update.clone()]).await;
            for _ in 0..3 {
                assert!(seen(&mut talk).await >= 8, "{update:?}");
            }
            let undone = vec![
                limited(&server, Limits::default()),
                limited(&client, Limits::default()),
                Update::Markings(Vec::new()),
            ];
            apply(&dataplane, undone).await;
            until_offloaded(&mut talk, true).await;
        }
    });
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn policy_before_connection_tracking_keeps_the_outside_off() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let outside = super::translated::outside();
        let dataplane = open_offloading().await;
        let mut updates = vec![open_profile(), Update::InSync];
        updates.extend([&server, &client].map(|pod| Update::Endpoint(endpoint(pod, &[], &[]))));
        apply(&dataplane, updates).await;
        watch();
        let to =
            |port| Talk::new(&server.host, server.v4, port, from_host(&outside, server.v4, port));
        let (mut from_outside, mut denied) = (to(80), to(81));
        let mut inside =
            Talk::new(&server.host, server.v4, 82, from_host(&client.host, server.v4, 82));
        until_offloaded(&mut from_outside, true).await;
        until_offloaded(&mut denied, true).await;
        until_offloaded(&mut inside, true).await;
        let deny = |port| {
            ingress_policy(
                "raw",
                &[(Action::Deny, &|rule| {
                    rule.protocol = Some(6);
                    rule.destination.ports = ports(port, port);
                })],
            )
        };
        let tiers = vec![TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            ingress: vec![policy("raw")],
            egress: Vec::new(),
        }];
        let endpoint = HostEndpoint {
            name: "h".into(),
            interface: HostInterface::Named("up0".into()),
            local: Vec::new(),
            forward: Vec::new(),
            pre_dnat: Vec::new(),
            untracked: tiers,
            profiles: vec!["open".into()],
        };
        apply(&dataplane, vec![deny(81), Update::HostEndpoint(endpoint)]).await;
        assert!(!denied.goes(false), "each packet meets this policy");
        assert!(seen(&mut from_outside).await >= 8);
        until_offloaded(&mut inside, true).await;
        apply(&dataplane, vec![Update::HostEndpointRemoved("h".into())]).await;
        until_healed(&mut denied).await;
        until_offloaded(&mut denied, true).await;
        until_offloaded(&mut from_outside, true).await;
    });
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn bandwidth_is_limited_in_both_directions() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open_offloading().await;
        let bandwidth =
            Some(Bandwidth { rate: 8_000_000, burst: 400_000, peak_rate: 0, peak_burst: 0 });
        let mut limits = Limits::default();
        (limits.ingress.bandwidth, limits.egress.bandwidth) = (bandwidth, bandwidth);
        let updates = vec![
            open_profile(),
            limited(&server, limits),
            limited(&client, Limits::default()),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        let mut connection = crate::rtnl::Connection::open().unwrap();
        let started = Instant::now();
        while crate::qos::check(&mut connection, &server.interface, &limits).unwrap().is_some() {
            assert!(started.elapsed() < SOON, "the limits are not in force");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        watch();
        let mut talk =
            Talk::new(&server.host, server.v4, 80, from_host(&client.host, server.v4, 80));
        // What the workload sends takes the way through its own queue, and then that of rules.
        let before = forwarded().await;
        for from_server in [false, true, false, true] {
            assert!(talk.goes(from_server));
        }
        assert!(forwarded().await > before);
        for from_server in [false, true] {
            let (from, to) = match from_server {
                true => (&mut talk.server, &mut talk.client),
                false => (&mut talk.client, &mut talk.server),
            };
            to.set_read_timeout(Some(SOON)).unwrap();
            // A second's worth, less what may come at once.
            let bytes = 1_000_000;
            let started = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&vec![0; bytes]).unwrap());
                to.read_exact(&mut vec![0; bytes]).unwrap();
            });
            let took = started.elapsed();
            assert!(took > Duration::from_millis(800), "from server {from_server}: {took:?}");
        }
    });
}
