//! Addresses of services of type `LoadBalancer`, as upstream's controller gives them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::key::Scope;
use calico_ipam::{Served, ServiceWish};
use common::{Chances, Chaos, Cluster};

const POOLS: [(&str, &str); 5] = [
    ("one", r#"{"cidr":"10.0.1.0/29","blockSize":30,"allowedUses":["LoadBalancer"]}"#),
    ("six", r#"{"cidr":"fd00::/120","allowedUses":["LoadBalancer"]}"#),
    (
        "two",
        r#"{"cidr":"10.0.2.0/30","blockSize":30,"allowedUses":["LoadBalancer"],
            "namespaceSelector":"team == 'a'"}"#,
    ),
    (
        "manual",
        r#"{"cidr":"10.0.3.0/30","blockSize":30,"allowedUses":["LoadBalancer"],
            "assignmentMode":"Manual"}"#,
    ),
    ("pods", r#"{"cidr":"10.0.4.0/24"}"#),
];

fn wish(service: &str) -> ServiceWish {
    let attributes = [("service", service), ("namespace", "prod"), ("type", "LoadBalancer")];
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    ServiceWish {
        handle: format!("lb-{service}"),
        attributes: attributes.into_iter().map(own).collect(),
        v4: true,
        ..ServiceWish::default()
    }
}

/// The third and fourth bytes of each IPv4 address, or the last number of an IPv6 address.
fn short(served: &Served) -> Vec<String> {
    let short = |ip: &IpAddr| ip.to_string().trim_start_matches("10.0.").to_owned();
    served.addresses.iter().map(short).collect()
}

#[tokio::test]
async fn a_service_gets_what_it_asks_for_and_gives_back_the_rest() {
    let cluster = Cluster::with(&POOLS).await;
    let ipam = cluster.ipam();
    let mut web = wish("web");
    let first = ipam.serve(&web).await.unwrap();
    assert_eq!((short(&first).len(), &first.lacks), (1, &None));
    assert!(short(&first)[0].starts_with("1."), "{first:?}");
    // Nothing changes by asking again, and nothing is written.
    let revisions = cluster.paths(&Scope::All).await;
    assert_eq!(ipam.serve(&web).await.unwrap(), first);
    assert_eq!(cluster.paths(&Scope::All).await, revisions);

    // The second family comes and goes.
    web.v6 = true;
    let both = ipam.serve(&web).await.unwrap();
    assert_eq!((both.addresses.len(), both.addresses[0]), (2, first.addresses[0]));
    web.v6 = false;
    let one = ipam.serve(&web).await.unwrap();
    assert_eq!(
        (one.addresses, one.released),
        (first.addresses.clone(), both.addresses[1..].into())
    );

    // A pool by name, one that must be asked for, an address; each in the place of what was.
    for (change, expected) in [
        ((vec!["manual".to_owned()], vec![]), "3."),
        ((vec!["10.0.1.0/29".to_owned()], vec![]), "1."),
        ((vec![], vec!["10.0.3.2".parse().unwrap()]), "3.2"),
        ((vec![], vec![]), "1."),
    ] {
        (web.v4_pools, web.addresses) = change;
        let served = ipam.serve(&web).await.unwrap();
        assert!(short(&served)[0].starts_with(expected), "{web:?} {served:?}");
        assert_eq!((served.addresses.len(), served.released.len()), (1, 1));
        assert_eq!(ipam.addresses_by_handle("lb-web").await.unwrap(), served.addresses);
    }
    // Pools of a namespace are for its services.
    let mut team = wish("team");
    team.v4_pools = vec!["two".into()];
    assert!(short(&ipam.serve(&team).await.unwrap())[0].starts_with("2."));
    let of = ipam.served().await.unwrap();
    let services: Vec<&str> = of.iter().map(|a| &*a.attributes.secondary["service"]).collect();
    assert_eq!(services.len(), 2, "{services:?}");
    let blocks = ipam.blocks().await.unwrap();
    let owners = blocks.iter().map(|block| block.owner.as_ref().unwrap().to_string());
    assert!(owners.into_iter().all(|owner| owner == "virtual:load-balancer"));

    for handle in ["lb-web", "lb-team"] {
        assert_eq!(ipam.release_by_handle(handle).await.unwrap().len(), 1);
    }
    assert_eq!(cluster.assigned().await, []);
    assert_eq!(ipam.served().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_to_be_had_is_told_and_the_rest_is_given() {
    let cluster = Cluster::with(&POOLS).await;
    let ipam = cluster.ipam();
    let mut taken = wish("taken");
    taken.addresses = vec!["10.0.1.1".parse().unwrap()];
    ipam.serve(&taken).await.unwrap();
    for (mut wish, words, got) in [
        (ServiceWish { addresses: taken.addresses.clone(), ..wish("a") }, "lb-taken", 0),
        (ServiceWish { addresses: vec!["10.0.4.1".parse().unwrap()], ..wish("b") }, "use", 0),
        (
            ServiceWish { addresses: vec!["10.9.0.1".parse().unwrap()], ..wish("c") },
            "no IP pool",
            0,
        ),
        (ServiceWish { v4_pools: vec!["pods".into()], v6: true, ..wish("d") }, "pods", 1),
        (ServiceWish { v4_pools: vec!["none".into()], v6: true, ..wish("e") }, "none", 1),
    ] {
        let served = ipam.serve(&wish).await.unwrap();
        let lacks = served.lacks.unwrap().to_string();
        assert!(lacks.contains(words), "{lacks}");
        assert_eq!(served.addresses.len(), got, "{lacks}");
        // Once it asks for nothing in particular, it is served.
        (wish.addresses, wish.v4_pools) = (vec![], vec![]);
        assert_eq!(ipam.serve(&wish).await.unwrap().lacks, None);
    }
    // The pool is full: seven of eight by now, then one more.
    let mut last = wish("f");
    assert_eq!(ipam.serve(&last).await.unwrap().addresses.len(), 1);
    assert_eq!(ipam.serve(&wish("g")).await.unwrap().addresses.len(), 1);
    last = wish("h");
    let full = ipam.serve(&last).await.unwrap();
    assert_eq!(full.addresses, [] as [IpAddr; 0]);
    assert!(full.lacks.unwrap().to_string().contains("one"));
    // A pool that is for services no more: its addresses go, whoever has them.
    cluster.resource(calico_core::Kind::IpPool, "one", r#"{"cidr":"10.0.1.0/29"}"#).await;
    let gone = ipam.serve(&wish("a")).await.unwrap();
    assert_eq!((gone.addresses.len(), gone.released.len()), (0, 1));
}

/// Several controllers at the same time give one address of each family, whoever is slower.
#[tokio::test]
async fn controllers_that_do_the_same_do_no_harm() {
    for seed in 0..50_u64 {
        let cluster = Arc::new(Cluster::with(&POOLS).await);
        let others: Vec<_> = (0..3_u64)
            .map(|nth| {
                let memory = cluster.memory.clone();
                let store = Chaos::new(memory, seed * 10 + nth, Chances::default());
                let ipam = cluster.ipam_on(Arc::new(store));
                async move {
                    let wish = ServiceWish { v6: true, ..wish("web") };
                    for _ in 0..2 {
                        ipam.serve(&wish).await.unwrap();
                    }
                }
            })
            .collect();
        futures_util::future::join_all(others).await;
        let has = cluster.ipam().addresses_by_handle("lb-web").await.unwrap();
        assert_eq!(has.len(), 2, "seed {seed}: {has:?}");
        assert_eq!(cluster.ipam().check().await.unwrap(), [], "seed {seed}");
    }
}
