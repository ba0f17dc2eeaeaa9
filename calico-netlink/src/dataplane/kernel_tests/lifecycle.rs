//! Restarts and removal.

use std::time::Instant;

use calico_core::dataplane::{Route, RouteTarget};

use super::lab::forward;
use super::*;
use crate::route::{RouteConfig, RouteSync};

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
