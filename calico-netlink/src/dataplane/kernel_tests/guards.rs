//! What is dropped whatever policy says, and what reaches the host.

use calico_core::dataplane::{EndpointToHostAction, HostSettings, Verdict, VerdictCause};

use super::lab::{forward, ip};
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
