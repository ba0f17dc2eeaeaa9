//! Large transactions go to the kernel in several batches, and what packets meet in the last one.

use std::net::Ipv4Addr;

use super::super::Settings;
use super::*;
use crate::nft::wire::Generation;

/// So much that it is sent in parts: a thousand rules, ten thousand members of sets.
fn large() -> Vec<Update> {
    let set = |n: u32| Update::Set {
        id: format!("s:{n}").as_str().into(),
        kind: SetKind::Address,
        members: (0..500)
            .map(|m| {
                SetMember::Net(
                    std::net::IpAddr::from(Ipv4Addr::from(0x0a80_0000 + n * 500 + m)).into(),
                )
            })
            .collect(),
    };
    let rules = |n: u16| {
        let owner = RuleOwner::Policy(policy(&format!("p{n}")));
        let ingress = (0..10).map(|index| {
            let mut rule = rule(&owner, Direction::Ingress, index, Action::Allow);
            rule.protocol = Some(6);
            rule.source.sets = in_set(&format!("s:{}", (n + index) % 20));
            rule.destination.ports = ports(1000 + index, 1000 + index);
            rule
        });
        let rules = RuleSet { ingress: ingress.collect(), egress: Vec::new() };
        Update::Rules { owner, rules }
    };
    let endpoint = |n: u8| {
        let policies = (0..10).map(|m| policy(&format!("p{}", n * 10 + m)));
        let tier = TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            ingress: policies.collect(),
            egress: Vec::new(),
        };
        let address = Ipv4Addr::new(10, 65, 0, n);
        Update::Endpoint(WorkloadEndpoint {
            id: EndpointId { namespace: "prod".into(), name: n.to_string().into() },
            interface: format!("cali{n}").into(),
            addresses: vec![std::net::IpAddr::V4(address).into()],
            allowed_sources: Vec::new(),
            limits: Default::default(),
            tiers: vec![tier],
            profiles: vec!["open".into()],
        })
    };
    let mut updates: Vec<Update> = (0..20).map(set).collect();
    updates.push(open_profile());
    updates.extend((0..100).map(rules));
    updates.extend((0..10).map(endpoint));
    updates.push(Update::InSync);
    updates
}

async fn generation() -> u32 {
    let Generation(generation) = Socket::open().unwrap().generation().await.unwrap();
    generation
}

async fn unwatched() -> LinuxDataplane {
    let settings = Settings { guard_interval: None };
    LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap()
}

fn nft(arguments: &[&str]) {
    let status = std::process::Command::new("nft").args(arguments).status();
    assert!(status.expect("nft is needed: apt-get install nftables").success(), "{arguments:?}");
}

#[test]
fn a_large_transaction_is_in_force_whole_and_adopted_as_it_is() {
    in_new_netns(async || {
        let dataplane = unwatched().await;
        let before = generation().await;
        assert_eq!(apply(&dataplane, large()).await.failed, []);
        assert!(generation().await >= before + 4, "it was to go in several batches");
        let whole = table().await;
        assert_eq!(whole.as_ref().unwrap().chains["cali-pi-np/prod/p99//tcp"].rules.len(), 10);
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        drop(dataplane);
        // The next run finds all of it, and changes nothing.
        let dataplane = unwatched().await;
        let before = generation().await;
        assert_eq!(apply(&dataplane, large()).await.failed, []);
        assert_eq!((generation().await, table().await), (before, whole.clone()));
        // In small transactions it comes to the same.
        dataplane.remove_all().await.unwrap();
        for update in large() {
            assert_eq!(apply(&dataplane, vec![update]).await.failed, []);
        }
        assert_eq!(table().await, whole);
    });
}

#[test]
fn what_others_do_before_a_large_transaction_does_not_keep_it_away() {
    in_new_netns(async || {
        let dataplane = unwatched().await;
        apply(&dataplane, large()).await;
        let whole = table().await;
        for meddling in [
            // Only the generation differs.
            &["add", "table", "ip", "other"][..],
            // A set of the name and another type (EEXIST), a chain with rules of theirs.
            &["add", "set", "inet", "calico", "cali40s-0", "{ type inet_service; }"],
            &["add", "chain", "inet", "calico", "cali-pi-np/prod/p7//tcp"],
            &["delete", "table", "inet", "calico"],
        ] {
            let gone = large().into_iter().filter_map(|update| match update {
                Update::Endpoint(endpoint) => Some(Update::EndpointRemoved(endpoint.id)),
                _ => None,
            });
            let mut gone: Vec<Update> = gone.collect();
            let owners = (0..100).map(|n| RuleOwner::Policy(policy(&format!("p{n}"))));
            gone.extend(owners.map(Update::RulesRemoved));
            gone.extend((0..20).map(|n| Update::SetRemoved(format!("s:{n}").as_str().into())));
            apply(&dataplane, gone).await;
            nft(meddling);
            assert_eq!(apply(&dataplane, large()).await.failed, [], "{meddling:?}");
            assert_eq!(table().await, whole, "{meddling:?}");
        }
    });
}

async fn table() -> Option<crate::nft::Ruleset> {
    let mut socket = Socket::open().unwrap();
    socket.read_table(Family::Inet, super::super::TABLE).await.unwrap().0
}
