//! The scenarios that upstream's own tests of IPAM cover (`libcalico-go/lib/ipam`: allocation from
//! pools, borrowing, selectors, uses, limits, release, utilization), as tables of our own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::key::{Key, Scope};
use calico_core::resource::AllowedUse;
use calico_core::{Datastore, Kind};
use calico_ipam::{
    AssignIp, AssignRequest, Ipam, IpamError, Left, Owner, OwnerAttributes, OwnerChange, Release,
    UNPOOLED,
};
use common::Cluster;

/// A request of a table: node, pools asked for, number of IPv4 and of IPv6 addresses.
type Wish<'a> = (&'a str, &'a [&'a str], u32, u32);

fn request((node, pools, v4, v6): Wish<'_>, handle: &str) -> AssignRequest {
    let mut request = AssignRequest::new(node).handle(handle).attribute("node", node).v4(v4).v6(v6);
    let named = |v6: bool| {
        let of = pools.iter().filter(|pool| pool.contains("::") == v6);
        of.map(|pool| (*pool).to_owned()).collect()
    };
    (request.v4_pools, request.v6_pools) = (named(false), named(true));
    request
}

/// Addresses got, or the error in words.
async fn assign(ipam: &Ipam, request: AssignRequest) -> Result<Vec<IpAddr>, String> {
    let assigned = ipam.auto_assign(request).await.map_err(|error| error.to_string())?;
    Ok(assigned.addresses().map(|address| address.ip).collect())
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn blocks_have_the_size_that_their_pool_says() {
    for (cidr, size) in [
        ("10.0.0.0/16", 20),
        ("10.0.0.0/16", 24),
        ("10.0.0.0/16", 26),
        ("10.0.0.0/24", 29),
        ("10.0.0.0/28", 32),
        ("10.0.0.0/32", 32),
        ("fd00::/64", 116),
        ("fd00::/64", 122),
        ("fd00::/120", 128),
        ("fd00::7/128", 128),
    ] {
        let spec = format!(r#"{{"cidr":"{cidr}","blockSize":{size}}}"#);
        let cluster = Cluster::with(&[("p", &spec)]).await;
        let (four, six) = if cidr.contains(':') { (0, 1) } else { (1, 0) };
        let wish = request(("n", &[], four, six), "h");
        let got = cluster.ipam().auto_assign(wish).await.unwrap().complete().unwrap();
        let address = got.addresses().next().unwrap();
        assert_eq!(address.block.prefix_len(), size, "{cidr}");
        assert!(cidr.parse::<ipnet::IpNet>().unwrap().contains(&address.ip), "{cidr}");
    }
    // A block larger than its pool, or of a size that no block has.
    for (cidr, size) in [("10.0.0.0/28", 26), ("10.0.0.0/8", 19), ("fd00::/64", 115)] {
        let spec = format!(r#"{{"cidr":"{cidr}","blockSize":{size}}}"#);
        let cluster = Cluster::with(&[("p", &spec)]).await;
        let (four, six) = if cidr.contains(':') { (0, 1) } else { (1, 0) };
        assert!(assign(&cluster.ipam(), request(("n", &[], four, six), "h")).await.is_err());
        assert!(cluster.paths(&Scope::Blocks).await.is_empty(), "{cidr}/{size}");
    }
}

#[tokio::test]
async fn pools_are_taken_as_asked_for() {
    let pools = [
        ("one", r#"{"cidr":"10.0.0.0/24","blockSize":26}"#),
        ("two", r#"{"cidr":"10.0.1.0/24","blockSize":30}"#),
        ("off", r#"{"cidr":"10.0.2.0/24","disabled":true}"#),
        ("racks", r#"{"cidr":"10.0.3.0/24","nodeSelector":"rack == 'r1'"}"#),
        ("spaces", r#"{"cidr":"10.0.4.0/24","namespaceSelector":"team == 'red'"}"#),
        ("manual", r#"{"cidr":"10.0.5.0/24","assignmentMode":"Manual"}"#),
        ("tunnels", r#"{"cidr":"10.0.6.0/24","allowedUses":["Tunnel"]}"#),
        ("six", r#"{"cidr":"fd00::/112"}"#),
    ];
    // Named pools are used whatever node, namespace or mode; but not if closed, of the other
    // family, or for other uses.
    let table: &[(Wish<'_>, Result<&str, &str>)] = &[
        (("n", &["one"], 1, 0), Ok("10.0.0.")),
        (("n", &["10.0.0.0/24"], 1, 0), Ok("10.0.0.")),
        (("n", &["two"], 9, 0), Ok("10.0.1.")),
        (("n", &["racks"], 1, 0), Ok("10.0.3.")),
        (("n", &["10.0.4.0/24"], 1, 0), Ok("10.0.4.")),
        (("n", &["manual"], 1, 0), Ok("10.0.5.")),
        (("n", &["fd00::/112"], 0, 1), Ok("fd00::")),
        (("n", &["off"], 1, 0), Err("off is disabled")),
        (("n", &["tunnels"], 1, 0), Err("tunnels does not allow use Workload")),
        (("n", &["10.9.0.0/24"], 1, 0), Err("there is no IPv4 pool 10.9.0.0/24")),
        // Half of a pool is no pool.
        (("n", &["10.0.0.0/25"], 1, 0), Err("there is no IPv4 pool 10.0.0.0/25")),
        (("n", &["one", "none"], 1, 0), Err("there is no IPv4 pool none")),
    ];
    for (wish, expected) in table {
        let cluster = Cluster::with(&pools).await;
        let got = assign(&cluster.ipam(), request(*wish, "h")).await;
        match (got, expected) {
            (Ok(ips), Ok(prefix)) => {
                assert_eq!(ips.len() as u32, wish.2 + wish.3, "{wish:?}");
                assert!(
                    ips.iter().all(|ip| ip.to_string().starts_with(prefix)),
                    "{wish:?} {ips:?}"
                );
            }
            (Err(error), Err(words)) => assert!(error.contains(words), "{wish:?}: {error}"),
            (got, _) => panic!("{wish:?}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn pools_select_nodes_and_namespaces() {
    let both = r#"{"cidr":"10.0.3.0/24","nodeSelector":"rack == 'r2'","namespaceSelector":"team == 'red'"}"#;
    let cluster = Cluster::with(&[
        ("r1", r#"{"cidr":"10.0.1.0/24","nodeSelector":"rack == 'r1'"}"#),
        ("red", r#"{"cidr":"10.0.2.0/24","nodeSelector":"rack == 'r3'","namespaceSelector":"team == 'red'"}"#),
        ("both", both),
    ])
    .await;
    for (node, rack) in [("n1", "r1"), ("n2", "r2"), ("n3", "r3")] {
        cluster.node(node, &format!(r#"{{"rack":"{rack}"}}"#)).await;
    }
    let ipam = cluster.ipam();
    for (node, team, expected) in [
        ("n1", Some("red"), Some("10.0.1.")),
        ("n1", None, Some("10.0.1.")),
        ("n2", Some("red"), Some("10.0.3.")),
        ("n2", Some("blue"), None),
        ("n2", None, None),
        ("n3", Some("red"), Some("10.0.2.")),
        ("n4", Some("red"), None),
    ] {
        let mut wish = request((node, &[], 1, 0), "h");
        wish.namespace = team.map(|team| labels(&[("team", team)]));
        let got = assign(&ipam, wish).await;
        match expected {
            Some(prefix) => {
                assert!(got.unwrap()[0].to_string().starts_with(prefix), "{node} {team:?}");
            }
            None => assert!(got.unwrap_err().contains("no IPv4 pool serves"), "{node} {team:?}"),
        }
    }
}

#[tokio::test]
async fn addresses_are_for_the_use_that_their_pool_allows() {
    let cluster = Cluster::with(&[
        ("work", r#"{"cidr":"10.0.1.0/24","allowedUses":["Workload"]}"#),
        ("tunnel", r#"{"cidr":"10.0.2.0/24","allowedUses":["Tunnel"]}"#),
        ("service", r#"{"cidr":"10.0.3.0/24","allowedUses":["LoadBalancer"]}"#),
    ])
    .await;
    let ipam = cluster.ipam();
    for (used, prefix) in [
        (AllowedUse::Workload, "10.0.1."),
        (AllowedUse::Tunnel, "10.0.2."),
        (AllowedUse::LoadBalancer, "10.0.3."),
    ] {
        let mut wish = request(("n", &[], 1, 0), prefix);
        wish.intended_use = used;
        assert!(assign(&ipam, wish).await.unwrap()[0].to_string().starts_with(prefix));
        for third in 1..=3 {
            let address: IpAddr = [10, 0, third, 200].into();
            let mut wish = AssignIp::new("n", address);
            wish.intended_use = used;
            let got = ipam.assign_ip(wish).await;
            assert_eq!(got.is_ok(), address.to_string().starts_with(prefix), "{used} {address}");
            if got.is_ok() {
                ipam.release_ips(&[Release::any(address)]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn load_balancers_have_blocks_of_their_own() {
    let pool = r#"{"cidr":"10.0.3.0/24","blockSize":30,"allowedUses":["LoadBalancer"]}"#;
    let cluster = Cluster::with(&[("service", pool)]).await;
    let ipam = cluster.ipam();
    let mut wish = request(("virtual:load-balancer", &[], 5, 0), "lb-a");
    wish.owner = Some(Owner::virtual_named("load-balancer"));
    wish.intended_use = AllowedUse::LoadBalancer;
    assert_eq!(assign(&ipam, wish).await.unwrap().len(), 5);
    let blocks = ipam.blocks().await.unwrap();
    let owners: BTreeSet<String> =
        blocks.iter().map(|b| b.owner.as_ref().unwrap().to_string()).collect();
    assert_eq!(owners, BTreeSet::from(["virtual:load-balancer".to_owned()]));
    assert!(
        cluster
            .paths(&Scope::Affinities)
            .await
            .keys()
            .all(|path| path.starts_with("/calico/ipam/v2/virtual/load-balancer/ipv4/block/"))
    );
    assert_eq!(ipam.release_by_handle("lb-a").await.unwrap().len(), 5);
}

/// Nodes that ask one after the other in a pool of four blocks of four: what each gets, in which
/// number of own blocks.
#[tokio::test]
async fn nodes_borrow_only_where_affinity_is_loose() {
    /// Node, addresses wanted and got, own blocks then.
    type Asked<'a> = (&'a str, u32, usize, usize);
    let loose = r#"{"strict_affinity":false,"auto_allocate_blocks":true}"#;
    let strict = r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#;
    let limited = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":1}"#;
    let table: &[(&str, &[Asked<'_>])] = &[
        (loose, &[("a", 1, 1, 1), ("b", 1, 1, 1), ("c", 8, 8, 2), ("d", 3, 3, 0), ("e", 9, 3, 0)]),
        (strict, &[("a", 1, 1, 1), ("b", 1, 1, 1), ("c", 8, 8, 2), ("d", 3, 0, 0), ("a", 9, 3, 1)]),
        (
            limited,
            &[("a", 9, 4, 1), ("b", 1, 1, 1), ("c", 8, 4, 1), ("d", 3, 3, 1), ("e", 1, 0, 0)],
        ),
    ];
    for (config, asked) in table {
        let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#)]).await;
        cluster.config(config).await;
        let ipam = cluster.ipam();
        let mut seen = BTreeSet::new();
        for (nth, (node, wanted, got, blocks)) in asked.iter().enumerate() {
            let wish = request((node, &[], *wanted, 0), &format!("h{nth}"));
            let ips = assign(&ipam, wish).await.unwrap();
            assert_eq!(ips.len(), *got, "{config}: {node} wants {wanted}");
            assert!(ips.iter().all(|ip| seen.insert(*ip)), "{config}: {node} got one twice");
            let own = cluster.paths(&Scope::AffinitiesOf((*node).to_owned())).await.len();
            assert_eq!(own, *blocks, "{config}: blocks of {node}");
        }
        assert_eq!(ipam.check().await.unwrap(), []);
    }
}

#[tokio::test]
async fn reserved_addresses_are_given_to_nobody_who_does_not_ask() {
    // Part of a block, a whole block, a whole pool; several reservations overlap.
    let table: &[(&[&str], usize)] = &[
        (&[], 16),
        (&["10.0.0.0/32"], 15),
        (&["10.0.0.0/30", "10.0.0.0/31"], 12),
        (&["10.0.0.0/29", "10.0.0.14/31"], 6),
        (&["10.0.0.0/8"], 0),
        (&["fd00::/8"], 16),
    ];
    for (reserved, free) in table {
        let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#)]).await;
        for (nth, cidr) in reserved.iter().enumerate() {
            let spec = format!(r#"{{"reservedCIDRs":["{cidr}"]}}"#);
            cluster.resource(Kind::IpReservation, &format!("r{nth}"), &spec).await;
        }
        let ipam = cluster.ipam();
        let ips = assign(&ipam, request(("n", &[], 16, 0), "h")).await.unwrap();
        assert_eq!(ips.len(), *free, "{reserved:?}");
        let inside = |ip: &IpAddr| {
            reserved.iter().any(|cidr| cidr.parse::<ipnet::IpNet>().unwrap().contains(ip))
        };
        assert!(!ips.iter().any(inside), "{reserved:?}: {ips:?}");
        // Who asks for the address gets it.
        if *free < 16 {
            let wish = AssignIp::new("n", "10.0.0.0".parse().unwrap());
            assert!(ipam.assign_ip(wish).await.is_ok(), "{reserved:?}");
        }
    }
}

#[tokio::test]
async fn freed_addresses_come_last() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/29","blockSize":29}"#)]).await;
    let ipam = cluster.ipam();
    let mut order = Vec::new();
    for nth in 0..40 {
        let handle = format!("h{nth}");
        order.push(assign(&ipam, request(("n", &[], 1, 0), &handle)).await.unwrap()[0]);
        ipam.release_by_handle(&handle).await.unwrap();
    }
    for window in order.windows(8) {
        let different: BTreeSet<_> = window.iter().collect();
        assert_eq!(different.len(), 8, "one of the last eight came again: {window:?}");
    }
}

#[tokio::test]
async fn handles_count_what_they_have() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/26","blockSize":30}"#)]).await;
    let ipam = cluster.ipam();
    let handle = async || cluster.paths(&Scope::Handles).await.values().next().cloned();
    let ips = assign(&ipam, request(("n", &[], 6, 0), "h\rcut off")).await.unwrap();
    let counted = handle().await.unwrap();
    assert_eq!(counted.matches("10.0.0.").count(), 2, "{counted}");
    assert_eq!(ipam.addresses_by_handle("h").await.unwrap().len(), 6);
    // One by one: counts go down, and the handle goes with its last address.
    for (nth, ip) in ips.iter().enumerate() {
        assert!(handle().await.is_some(), "after {nth}");
        let wrong = ipam.release_ips(&[Release::of_handle(*ip, "other")]).await.unwrap_err();
        assert!(matches!(wrong, IpamError::OtherOwner { .. }), "{wrong}");
        let released = ipam.release_ips(&[Release::of_handle(*ip, "h")]).await.unwrap();
        assert_eq!(released.released, [*ip]);
        assert_eq!(ipam.check().await.unwrap(), []);
    }
    assert!(handle().await.is_none());
    let again = ipam.release_ips(&[Release::any(ips[0])]).await.unwrap();
    assert_eq!((again.released, again.unassigned), (vec![], vec![ips[0]]));
}

#[tokio::test]
async fn blocks_without_owner_go_with_their_last_address() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#)]).await;
    let ipam = cluster.ipam();
    let node = Owner::host("n");
    let got = ipam.auto_assign(request(("n", &[], 2, 0), "h")).await.unwrap();
    let block = got.v4[0].block;
    for (only_if_empty, gone) in [(true, false), (false, true), (false, true)] {
        assert_eq!(ipam.release_affinity(&node, block, only_if_empty).await.unwrap(), gone);
    }
    assert!(ipam.blocks().await.unwrap()[0].owner.is_none());
    // Under strict affinity nobody may take from it; else everybody.
    let ordinal = |n: u8| -> IpAddr {
        let IpAddr::V4(base) = block.addr() else { unreachable!() };
        IpAddr::from((u32::from(base) + u32::from(n)).to_be_bytes())
    };
    cluster.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#).await;
    let refused = ipam.assign_ip(AssignIp::new("m", ordinal(3))).await.unwrap_err();
    assert!(matches!(refused, IpamError::StrictAffinity { .. }), "{refused}");
    cluster.config(r#"{"strict_affinity":false,"auto_allocate_blocks":true}"#).await;
    ipam.assign_ip(AssignIp::new("m", ordinal(3))).await.unwrap();
    ipam.release_by_handle("h").await.unwrap();
    assert_eq!(ipam.blocks().await.unwrap().len(), 1);
    ipam.release_ips(&[Release::any(ordinal(3))]).await.unwrap();
    assert!(ipam.blocks().await.unwrap().is_empty());
}

#[tokio::test]
async fn use_is_counted_by_pool_and_block() {
    let cluster = Cluster::with(&[
        ("a", r#"{"cidr":"10.0.0.0/28","blockSize":30}"#),
        ("b", r#"{"cidr":"10.0.1.0/28","blockSize":30}"#),
    ])
    .await;
    cluster.resource(Kind::IpReservation, "r", r#"{"reservedCIDRs":["10.0.0.0/31"]}"#).await;
    let ipam = cluster.ipam();
    assign(&ipam, request(("n", &["a"], 3, 0), "h")).await.unwrap();
    assign(&ipam, request(("n", &["b"], 5, 0), "i")).await.unwrap();
    cluster.memory.delete(Key::resource(Kind::IpPool, None, "b"), None).await.unwrap();
    let uses = ipam.utilization().await.unwrap();
    let row = |name: &str| {
        let of = uses.iter().find(|pool| pool.name == name).unwrap();
        (of.capacity, of.in_use, of.reserved, of.available, of.blocks.len())
    };
    assert_eq!(row("a").0, 16);
    assert_eq!((row("a").1, row("a").2, row("a").3), (3, 2, 11));
    // What lies in no pool is counted under a row of its own.
    assert_eq!(row(UNPOOLED), (8, 5, 0, 3, 2));
}
