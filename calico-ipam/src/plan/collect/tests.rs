#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use calico_core::resource::{AllocationAttribute, WorkloadEndpointSpec};
use ipnet::IpNet;

use super::*;
use crate::plan::block::Block;
use crate::plan::reserved::Reserved;
use crate::plan::tunnel::Tunnel;

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// An owner: its handle, and what is recorded of it, such as `node=a pod=web`.
fn owner(handle: &str, recorded: &str) -> AllocationAttribute {
    let pairs = |text: &str| -> BTreeMap<String, String> {
        let pair = |pair: &str| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        text.split_whitespace().filter_map(pair).collect()
    };
    let (first, second) = recorded.split_once('|').unwrap_or((recorded, ""));
    AllocationAttribute {
        handle_id: (!handle.is_empty()).then(|| handle.to_owned()),
        secondary: pairs(first),
        alternate_owner_attrs: pairs(second),
        ..AllocationAttribute::default()
    }
}

/// A block of `host` with one address for each owner.
fn block(cidr: &str, host: &str, owners: &[AllocationAttribute]) -> Block {
    let host = (!host.is_empty()).then(|| Owner::host(host));
    let mut block = Block::new(net(cidr), host.as_ref(), UNIX_EPOCH).unwrap();
    for owner in owners {
        block.assign(1, owner, &Reserved::default());
    }
    block
}

/// A look at blocks, and at what their owners claim, with these nodes.
fn look(nodes: &str, blocks: Vec<Block>) -> Look {
    let claims = blocks.iter().filter_map(|b| Some((b.owner()?, b.cidr()))).collect();
    let nodes = nodes.split_whitespace().map(str::to_owned).collect();
    Look { blocks, claims, nodes, endpoints: Endpoints::default() }
}

/// Verdicts after three looks over the whole grace time.
fn settled(look: &Look) -> Vec<(String, Verdict)> {
    let mut collector = Collector::new(Settings::default(), Some("me"));
    for nth in 0..3 {
        collector.look(look, minutes(5 * nth)).unwrap();
    }
    let decisions = collector.look(look, minutes(15)).unwrap();
    decisions.into_iter().map(|d| (d.subject.to_string(), d.verdict)).collect()
}

#[test]
fn what_a_node_that_is_gone_has_left_goes_after_the_grace_time() {
    let pod = owner("net.c1", "node=a pod=web namespace=default");
    let tunnel = owner("vxlan-tunnel-addr-a", "node=a type=vxlanTunnelAddress");
    let other = owner("net.c2", "node=me pod=db namespace=default");
    let look = look("me", vec![block("10.0.0.0/30", "a", &[pod, tunnel, other])]);
    let mut collector = Collector::new(Settings::default(), Some("me"));
    let mut verdicts = |at| {
        let decisions = collector.look(&look, at).unwrap();
        decisions.into_iter().map(|d| d.verdict).collect::<Vec<_>>()
    };
    let watch = |left| vec![Verdict::Watch(minutes(left)); 3];
    assert_eq!(verdicts(minutes(100)), watch(15));
    assert_eq!(verdicts(minutes(107)), watch(8));
    // Even if nobody looks for longer than that, three looks are wanted.
    assert_eq!(verdicts(minutes(115)), vec![Verdict::Free; 3]);
    assert_eq!(
        settled(&look),
        [
            ("10.0.0.0 of net.c1".to_owned(), Verdict::Free),
            ("10.0.0.1 of vxlan-tunnel-addr-a".to_owned(), Verdict::Free),
            ("claim of host:a on 10.0.0.0/30".to_owned(), Verdict::Free),
        ]
    );
}

#[test]
fn whatever_is_not_known_for_sure_stays() {
    let endpoint = |spec: WorkloadEndpointSpec| {
        let mut endpoints = Endpoints::default();
        endpoints.add("default", &spec);
        endpoints
    };
    let on = |node: &str| WorkloadEndpointSpec { node: node.into(), ..Default::default() };
    let nothing = Endpoints::default;
    let mut unreadable = Endpoints::default();
    unreadable.add_unreadable();
    let pod = "node=a pod=web namespace=default";
    for (handle, recorded, endpoints, reason) in [
        ("net.c1", pod, nothing(), None),
        ("net.c1", "node=a sandbox=c1", nothing(), None),
        // A moved machine, or a changed host name: somebody somewhere has the address.
        (
            "net.c1",
            pod,
            endpoint(WorkloadEndpointSpec {
                ip_networks: vec!["10.0.0.0/32".parse().unwrap()],
                ..on("elsewhere")
            }),
            Some(Reason::Endpoint),
        ),
        (
            "net.c1",
            pod,
            endpoint(WorkloadEndpointSpec { container_id: "c1".into(), ..on("elsewhere") }),
            Some(Reason::Endpoint),
        ),
        (
            "net.c1",
            pod,
            endpoint(WorkloadEndpointSpec { pod: "web".into(), ..on("a") }),
            Some(Reason::Endpoint),
        ),
        // The next pod of that name, on another node: another address.
        ("net.c1", pod, endpoint(WorkloadEndpointSpec { pod: "web".into(), ..on("b") }), None),
        ("net.c1", pod, unreadable, Some(Reason::Endpoint)),
        (
            "net.c1",
            "node=a pod=web namespace=default | node=b pod=web2 namespace=default",
            nothing(),
            Some(Reason::SecondOwner("b".into())),
        ),
        ("net.vmi.default.vm", pod, nothing(), Some(Reason::Machine)),
        ("net.c1", "node=a pod=p namespace=n vmi-name=vm", nothing(), Some(Reason::Machine)),
        ("mine", "node=a", nothing(), Some(Reason::UnknownOwner)),
        ("", "node=a type=loadBalancer", nothing(), Some(Reason::UnknownOwner)),
        // A tunnel's address stays as long as anything runs there.
        (
            "vxlan-tunnel-addr-a",
            "node=a type=vxlanTunnelAddress",
            endpoint(on("a")),
            Some(Reason::NodeInUse),
        ),
        ("vxlan-tunnel-addr-a", "node=a type=vxlanTunnelAddress", nothing(), None),
    ] {
        let mut look = look("me b", vec![block("10.0.0.0/30", "", &[owner(handle, recorded)])]);
        look.endpoints = endpoints;
        let verdict = reason.map_or(Verdict::Free, Verdict::Keep);
        let verdicts: Vec<Verdict> = settled(&look).into_iter().map(|(_, v)| v).collect();
        assert_eq!(verdicts, [verdict], "{handle}, {recorded}");
    }
}

#[test]
fn addresses_of_every_tunnel_stay_while_their_node_does() {
    for (tunnel, handle, kind) in [
        (Tunnel::Wireguard, "wireguard-tunnel-addr-a", "wireguardTunnelAddress"),
        (Tunnel::WireguardV6, "wireguard-v6-tunnel-addr-a", "wireguardV6TunnelAddress"),
        (Tunnel::Ipip, "ipip-tunnel-addr-a", "ipipTunnelAddress"),
        (Tunnel::Vxlan, "vxlan-tunnel-addr-a", "vxlanTunnelAddress"),
        (Tunnel::VxlanV6, "vxlan-v6-tunnel-addr-a", "vxlanV6TunnelAddress"),
    ] {
        assert_eq!((tunnel.handle("a"), tunnel.attribute()), (handle.to_owned(), kind));
        let recorded = format!("node=a type={kind}");
        let of =
            |nodes: &str| look(nodes, vec![block("10.0.0.0/30", "", &[owner(handle, &recorded)])]);
        assert_eq!(settled(&of("me a")), [], "{kind}");
        let mut gone = of("me b");
        let verdicts = |look: &Look| -> Vec<Verdict> {
            settled(look).into_iter().map(|(_, verdict)| verdict).collect()
        };
        assert_eq!(verdicts(&gone), [Verdict::Free], "{kind}");
        // Something runs there, under a name that the datastore does not know as a node.
        let there = WorkloadEndpointSpec { node: "a".into(), ..WorkloadEndpointSpec::default() };
        gone.endpoints.add("default", &there);
        assert_eq!(verdicts(&gone), [Verdict::Keep(Reason::NodeInUse)], "{kind}");
    }
    assert_eq!(Tunnel::ALL.len(), 5);
}

#[test]
fn what_lives_or_has_no_node_is_no_business_of_ours() {
    let owners = [
        owner("net.c1", "node=me pod=web namespace=default"),
        owner("lb-x", "service=web namespace=default type=loadBalancer"),
        owner("embedder", ""),
    ];
    assert_eq!(settled(&look("me", vec![block("10.0.0.0/29", "me", &owners)])), []);
    let mut of_nobody = look("me", vec![block("10.0.0.0/29", "", &owners)]);
    of_nobody.claims.push((Owner::virtual_named("load-balancer"), net("10.0.0.0/29")));
    assert_eq!(settled(&of_nobody), []);
}

#[test]
fn a_claim_stays_with_what_is_unknown_in_its_block() {
    let verdicts = settled(&look("me", vec![block("10.0.0.0/30", "a", &[owner("x", "")])]));
    assert_eq!(verdicts[0].1, Verdict::Keep(Reason::UnknownOwner));
    // Without its block, and for what Windows keeps of every block, nobody needs it.
    let windows = owner("windows-reserved-ipam-handle", "note=windows");
    let mut look = look("me", vec![block("10.0.0.0/30", "a", &[windows])]);
    look.claims.push((Owner::host("b"), net("10.9.0.0/26")));
    assert!(settled(&look).iter().all(|(_, verdict)| *verdict == Verdict::Free));
    assert_eq!(settled(&look).len(), 2);
}

#[test]
fn a_break_begins_anew() {
    let pod = |handle| owner(handle, "node=a pod=web namespace=default");
    let gone = look("me", vec![block("10.0.0.0/30", "", &[pod("net.c1")])]);
    let back = look("me a", vec![block("10.0.0.0/30", "", &[pod("net.c1")])]);
    let anew = look("me", vec![block("10.0.0.0/30", "", &[pod("net.c2")])]);
    let mut collector = Collector::new(Settings::default(), Some("me"));
    let mut left = |look: &Look, at| match collector.look(look, minutes(at)) {
        Ok(decisions) => decisions.first().map(|d| d.verdict.clone()),
        Err(_) => None,
    };
    let watch = |left| Some(Verdict::Watch(minutes(left)));
    for (look, at, expected) in [
        (&gone, 0, watch(15)),
        (&gone, 10, watch(5)),
        // The node comes back, and goes again.
        (&back, 12, None),
        (&gone, 14, watch(15)),
        (&gone, 28, watch(1)),
        // Who looks was paused, or slept: what was meanwhile nobody knows.
        (&gone, 90, watch(15)),
        (&gone, 104, watch(1)),
        // Time went backwards.
        (&gone, 50, watch(15)),
        (&gone, 60, watch(5)),
        // The address was given to another container.
        (&anew, 64, watch(15)),
        // A look that shows nothing is worth nothing, and neither is what came before.
        (&Look::default(), 66, None),
        (&anew, 80, watch(15)),
        (&anew, 94, watch(1)),
        (&anew, 95, Some(Verdict::Free)),
    ] {
        assert_eq!(left(look, at), expected, "at {at}");
    }
}

#[test]
fn a_look_without_myself_is_no_proof() {
    let look = look("b", vec![block("10.0.0.0/30", "a", &[])]);
    let mut collector = Collector::new(Settings::default(), Some("me"));
    assert_eq!(collector.look(&look, minutes(0)), Err(Doubt::WithoutMe));
    let mut stranger = Collector::new(Settings::default(), None);
    assert_eq!(stranger.look(&look, minutes(0)).unwrap().len(), 1);
    assert_eq!(stranger.look(&Look::default(), minutes(1)), Err(Doubt::NoNodes));
}

#[test]
fn so_many_are_freed_in_one_look_and_the_claim_last() {
    let pods: Vec<_> =
        (0..4).map(|n| owner(&format!("net.c{n}"), &format!("node=a sandbox=c{n}"))).collect();
    let look = look("me", vec![block("10.0.0.0/29", "a", &pods)]);
    let settings = Settings { most: 3, looks: 1, grace: Duration::ZERO, ..Settings::default() };
    let decisions = Collector::new(settings, None).look(&look, minutes(0)).unwrap();
    let verdicts: Vec<_> = decisions.into_iter().map(|d| d.verdict).collect();
    let expected = [Verdict::Free, Verdict::Free, Verdict::Free, Verdict::Later, Verdict::Later];
    assert_eq!(verdicts, expected);
}

#[test]
fn a_node_gives_back_empty_blocks_and_keeps_one_of_each_family() {
    let blocks = |empty: [bool; 4]| {
        let cidrs = ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30", "fd00::/126"];
        cidrs.into_iter().map(net).zip(empty).collect::<Vec<_>>()
    };
    let settings = Settings::default();
    let mut spare = SpareBlocks::default();
    assert_eq!(spare.look(&blocks([true; 4]), &settings, minutes(0)), []);
    // The second is used for a moment: its time begins anew.
    spare.look(&blocks([true, false, true, true]), &settings, minutes(5));
    spare.look(&blocks([true; 4]), &settings, minutes(10));
    let names = |blocks: &[IpNet]| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
    let gone = spare.look(&blocks([true; 4]), &settings, minutes(16));
    assert_eq!(names(&gone), ["10.0.0.0/30", "10.0.0.8/30"]);
    assert_eq!(spare.look(&blocks([true; 4])[1..2], &settings, minutes(30)), []);
}

#[test]
fn evidence_is_worded() {
    let pod = owner("net.c1", "node=a sandbox=c1");
    let look = look("me", vec![block("10.0.0.0/30", "a", &[pod])]);
    let mut collector = Collector::new(Settings::default(), None);
    let words = |decisions: Vec<Decision>| decisions[0].evidence();
    assert_eq!(
        words(collector.look(&look, minutes(0)).unwrap()),
        "node a is gone, no endpoint has the address, container or pod; so for 0 s, in 1 look"
    );
    assert_eq!(
        words(collector.look(&look, minutes(2)).unwrap()),
        "node a is gone, no endpoint has the address, container or pod; so for 120 s, in 2 looks"
    );
}
