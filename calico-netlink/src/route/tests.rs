mod upstream;

use std::time::Duration;

use calico_core::dataplane::{NextHop, Route, RouteTarget};

use super::*;
use crate::testing::TestNet;

fn to_workload(destination: &str, interface: &str) -> Route {
    Route::new(destination.parse().unwrap(), RouteTarget::Workload(interface.into()))
}

fn via(destination: &str, gateways: &[&str]) -> Route {
    let hop = |text: &&str| NextHop { gateway: text.parse().unwrap(), interface: None };
    let target = RouteTarget::Via(gateways.iter().map(hop).collect());
    Route::new(destination.parse().unwrap(), target)
}

fn blackhole(destination: &str) -> Route {
    Route::new(destination.parse().unwrap(), RouteTarget::Blackhole)
}

/// A namespace with a fabric interface of both families and a workload's interface.
fn node(label: &str) -> Option<TestNet> {
    let net = TestNet::new(label)?;
    for command in [
        "link add fabric0 type veth peer name far0",
        "link set fabric0 up",
        "link set far0 up",
        "address add 192.0.2.1/24 dev fabric0",
        "address add 2001:db8::1/64 dev fabric0 nodad",
        "link add cali1 type veth peer name pod1",
        "link set cali1 up",
        "link set pod1 up",
    ] {
        ip(&net, command);
    }
    Some(net)
}

fn ip(net: &TestNet, command: &str) -> String {
    net.output("ip", &command.split(' ').collect::<Vec<_>>())
}

/// Routes as `ip route` shows them, without those of the kernel itself.
fn shown(net: &TestNet) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for family in ["-4", "-6"] {
        for line in ip(net, &format!("{family} route")).lines() {
            match line.strip_prefix('\t') {
                Some(hop) => all.last_mut().unwrap().push_str(&format!(" + {}", hop.trim())),
                None => all.push(line.trim().to_owned()),
            }
        }
    }
    all.retain(|line| !line.contains("proto kernel"));
    all.iter()
        .map(|line| line.replace(" metric 1024", "").replace(" pref medium", ""))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn inside(net: &TestNet, work: impl AsyncFnOnce(RouteSync) + Send) {
    net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sync = RouteSync::open(RouteConfig::default()).unwrap();
            work(sync).await;
        });
    });
}

async fn eventually(net: &TestNet, wanted: &[&str]) {
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        if shown(net) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown(net), wanted);
}

const FULL: [&str; 6] = [
    "10.65.0.2 dev cali1 scope link",
    "blackhole 192.200.59.192/26 proto bird",
    "192.200.203.0/26 via 192.0.2.7 dev fabric0 proto bird",
    "fd00:65::2 dev cali1",
    "blackhole fd00:65::/122 dev lo proto bird",
    "fd00:66::/122 via 2001:db8::7 dev fabric0 proto bird",
];

fn full() -> Vec<Route> {
    vec![
        to_workload("10.65.0.2/32", "cali1"),
        to_workload("fd00:65::2/128", "cali1"),
        blackhole("192.200.59.192/26"),
        blackhole("fd00:65::/122"),
        via("192.200.203.0/26", &["192.0.2.7"]),
        via("fd00:66::/122", &["2001:db8::7"]),
    ]
}

#[test]
fn routes_look_as_upstream_makes_them() {
    let Some(net) = node("route-look") else { return };
    inside(&net, async |sync| {
        let report = sync.replace_all(&full(), true).await.unwrap();
        assert_eq!((report.changed, report.standing), (6, vec![]));
        assert_eq!(shown(&net), FULL);
        let again = sync.replace_all(&full(), true).await.unwrap();
        assert_eq!((again.changed, again.drift), (0, vec![]));
    });
}

#[test]
fn an_earlier_run_is_adopted_and_swept_only_when_complete() {
    let Some(net) = node("route-adopt") else { return };
    inside(&net, async |sync| drop(sync.replace_all(&full(), true).await.unwrap()));
    ip(&net, "route add blackhole 10.99.0.0/26 proto bird");
    ip(&net, "route add 10.65.0.99/32 dev cali1 scope link");
    ip(&net, "-6 route add fd00:99::/122 via 2001:db8::9 proto bird");
    inside(&net, async |sync| {
        let report = sync.change(&full(), &[]).await.unwrap();
        assert_eq!(report.changed, 0, "identical routes stay untouched");
        assert_eq!(shown(&net).len(), 9, "nothing is swept before the state is complete");
        let report = sync.replace_all(&full(), true).await.unwrap();
        assert_eq!(report.changed, 3);
        assert_eq!(shown(&net), FULL);
    });
}

#[test]
fn routes_of_others_stay_whatever_happens() {
    let Some(net) = node("route-foreign") else { return };
    let foreign = [
        "default via 192.0.2.254 dev fabric0",
        "10.1.0.0/24 via 192.0.2.9 dev fabric0 proto static",
        "blackhole 10.2.0.0/24 proto zebra",
        "10.65.0.9 dev fabric0 scope link",
        "fd00:1::/64 via 2001:db8::9 dev fabric0 proto static",
    ];
    for route in foreign {
        let family = if route.contains("fd00") { "-6 " } else { "" };
        ip(&net, &format!("{family}route add {route}"));
    }
    let before = shown(&net);
    inside(&net, async |sync| {
        sync.replace_all(&[], true).await.unwrap();
        assert_eq!(shown(&net), before);
        // Even where one of ours should be: the conflict is told, the others are made.
        let wanted = [
            blackhole("10.1.0.0/24"),
            via("10.2.0.0/24", &["192.0.2.7"]),
            blackhole("fd00:1::/64"),
            blackhole("10.3.0.0/24"),
        ];
        let report = sync.replace_all(&wanted, true).await.unwrap();
        let refused: Vec<_> = report.standing.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(refused, ["10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"]);
        let Standing::Refused { reason } = &report.standing[0].1 else { panic!("{report:?}") };
        assert!(reason.contains("not ours"), "{reason}");
        sync.replace_all(&[], true).await.unwrap();
        assert_eq!(shown(&net), before);
        // When the other one leaves, ours takes its place by itself.
        sync.replace_all(&[blackhole("10.1.0.0/24")], true).await.unwrap();
        ip(&net, "route del 10.1.0.0/24");
        for _ in 0..100 {
            if shown(&net).contains(&"blackhole 10.1.0.0/24 proto bird".to_owned()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", shown(&net));
    });
}

#[test]
fn every_kind_replaces_every_other_in_both_families() {
    let Some(net) = node("route-replace") else { return };
    inside(&net, async |sync| {
        for (destination, hops, device) in [
            ("10.7.0.0/26", ["192.0.2.7", "192.0.2.8", "192.0.2.9"], ""),
            ("fd00:7::/122", ["2001:db8::7", "2001:db8::8", "2001:db8::9"], " dev lo"),
        ] {
            let dead = |wanted: &[&str]| {
                (via(destination, wanted), {
                    let mut parts: Vec<_> = wanted
                        .iter()
                        .map(|hop| format!("nexthop via {hop} dev fabric0 weight 1"))
                        .collect();
                    match parts.len() {
                        1 => format!("{destination} via {} dev fabric0 proto bird", wanted[0]),
                        _ => {
                            parts.insert(0, format!("{destination} proto bird"));
                            parts.join(" + ")
                        }
                    }
                })
            };
            let states = [
                (blackhole(destination), format!("blackhole {destination}{device} proto bird")),
                dead(&hops[..1]),
                dead(&hops[..2]),
                dead(&hops[1..]),
                dead(&hops),
            ];
            for (from, _) in &states {
                for (to, shown_as) in &states {
                    sync.change(std::slice::from_ref(from), &[]).await.unwrap();
                    let report = sync.change(std::slice::from_ref(to), &[]).await.unwrap();
                    assert_eq!(report.standing, []);
                    assert_eq!(&shown(&net), std::slice::from_ref(shown_as), "{from:?}");
                    let drift = sync.resync().await.unwrap();
                    assert_eq!((drift.changed, drift.drift), (0, vec![]), "{from:?} to {to:?}");
                }
            }
            sync.change(&[], &[destination.parse().unwrap()]).await.unwrap();
            assert_eq!(shown(&net), [""; 0]);
        }
    });
}

#[test]
fn routes_wait_for_their_interface_and_return_with_it() {
    let Some(net) = node("route-wait") else { return };
    inside(&net, async |sync| {
        let routes = [to_workload("10.65.0.3/32", "cali2"), to_workload("fd00:65::3/128", "cali2")];
        let report = sync.replace_all(&routes, true).await.unwrap();
        let waiting = Standing::Waiting { interface: "cali2".into() };
        assert!(report.standing.iter().all(|(_, standing)| *standing == waiting));
        assert_eq!((report.changed, report.standing.len()), (0, 2));
        let there = ["10.65.0.3 dev cali2 scope link", "fd00:65::3 dev cali2"];
        for _ in 0..2 {
            ip(&net, "link add cali2 type veth peer name pod2");
            ip(&net, "link set pod2 up");
            ip(&net, "link set cali2 up");
            eventually(&net, &there).await;
            assert_eq!(sync.standing(), []);
            ip(&net, "link set cali2 down");
            eventually(&net, &[]).await;
            ip(&net, "link set cali2 up");
            eventually(&net, &there).await;
            ip(&net, "link del cali2");
            eventually(&net, &[]).await;
        }
    });
}

#[test]
fn what_others_remove_or_change_is_repaired_by_itself() {
    let Some(net) = node("route-repair") else { return };
    inside(&net, async |sync| {
        sync.replace_all(&full(), true).await.unwrap();
        for damage in [
            "route del 192.200.203.0/26",
            "route replace 192.200.203.0/26 via 192.0.2.9 proto bird",
            "-6 route del fd00:66::/122",
            "route del 10.65.0.2",
            "route add blackhole 10.99.0.0/26 proto bird",
        ] {
            ip(&net, damage);
            eventually(&net, &FULL).await;
        }
    });
}

#[test]
fn resync_tells_what_was_wrong() {
    let Some(net) = node("route-drift") else { return };
    inside(&net, async |sync| {
        sync.replace_all(&full(), true).await.unwrap();
        sync.stop_following();
        ip(&net, "route del 192.200.203.0/26");
        ip(&net, "route replace 192.200.59.192/26 via 192.0.2.9 proto bird");
        ip(&net, "route add blackhole 10.99.0.0/26 proto bird");
        let report = sync.resync().await.unwrap();
        let words: Vec<_> =
            report.drift.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(words, ["unwanted", "wrong", "missing"], "{:?}", report.drift);
        assert_eq!(shown(&net), FULL);
    });
}

#[test]
fn a_route_that_the_cni_program_made_is_adopted() {
    let Some(net) = node("route-cni") else { return };
    inside(&net, async |sync| {
        sync.replace_all(&[], true).await.unwrap();
        ip(&net, "route add 10.65.0.2/32 dev cali1 scope link");
        let early = ["10.65.0.2 dev cali1 scope link"];
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(shown(&net), early, "it is not swept before it is desired");
        let report = sync.change(&[to_workload("10.65.0.2/32", "cali1")], &[]).await.unwrap();
        assert_eq!((report.changed, report.standing), (0, vec![]));
        assert_eq!(shown(&net), early);
        let gone = ["10.65.0.2/32".parse().unwrap()];
        sync.change(&[], &gone).await.unwrap();
        assert_eq!(shown(&net), [""; 0]);
    });
}

#[test]
fn an_unreachable_gateway_is_told_and_tried_again() {
    let Some(net) = node("route-gateway") else { return };
    inside(&net, async |sync| {
        let routes = [via("10.8.0.0/26", &["198.51.100.7"]), via("10.9.0.0/26", &["192.0.2.7"])];
        let report = sync.replace_all(&routes, true).await.unwrap();
        assert_eq!(report.changed, 1);
        let (at, standing) = &report.standing[0];
        assert_eq!(at.to_string(), "10.8.0.0/26");
        assert!(matches!(standing, Standing::Refused { reason } if reason.contains("gateway")));
        ip(&net, "address add 198.51.100.1/24 dev fabric0");
        eventually(
            &net,
            &[
                "10.8.0.0/26 via 198.51.100.7 dev fabric0 proto bird",
                "10.9.0.0/26 via 192.0.2.7 dev fabric0 proto bird",
            ],
        )
        .await;
    });
}

#[test]
fn thousands_of_routes_take_one_call() {
    let Some(net) = node("route-many") else { return };
    let routes: Vec<_> = (0..5000u32)
        .map(|n| via(&format!("10.{}.{}.0/26", 100 + n / 256, n % 256), &["192.0.2.7"]))
        .collect();
    inside(&net, async |sync| {
        let start = std::time::Instant::now();
        assert_eq!(sync.replace_all(&routes, true).await.unwrap().changed, 5000);
        println!("5000 routes in {:?}", start.elapsed());
        assert_eq!(sync.replace_all(&routes, true).await.unwrap().changed, 0);
        assert_eq!(sync.replace_all(&[], true).await.unwrap().changed, 5000);
        assert_eq!(shown(&net), [""; 0]);
    });
}

#[test]
fn a_plan_is_the_smallest_difference_and_removes_nothing_early() {
    let hops = |gateway: &str, index| {
        KernelTarget::Hops(vec![Hop { gateway: Some(gateway.parse().unwrap()), index }])
    };
    let route = |destination: &str, target| KernelRoute {
        destination: destination.parse().unwrap(),
        protocol: 12,
        metric: 0,
        table: 254,
        target,
        source: None,
    };
    let mut table = RouteTable::new(RouteConfig::default());
    let same = route("10.1.0.0/24", hops("192.0.2.1", 2));
    let other = route("10.2.0.0/24", hops("192.0.2.1", 2));
    let stale = route("10.3.0.0/24", KernelTarget::Blackhole);
    let foreign = KernelRoute { protocol: 4, ..route("10.4.0.0/24", KernelTarget::Blackhole) };
    table.observe(&[], vec![same, other, stale.clone(), foreign]);
    table.desire(via("10.1.0.0/24", &["192.0.2.1"]));
    table.desire(blackhole("10.2.0.0/24"));
    let replace = Op::Replace(route("10.2.0.0/24", KernelTarget::Blackhole));
    assert_eq!(table.plan(), std::slice::from_ref(&replace));
    table.done(replace);
    assert_eq!(table.plan(), []);
    table.desire_exactly(&[via("10.1.0.0/24", &["192.0.2.1"]), blackhole("10.2.0.0/24")], true);
    assert_eq!(table.plan(), [Op::Remove(stale)]);
}

#[test]
fn learned_routes_of_an_earlier_run_wait_for_the_peers() {
    let Some(net) = node("route-learned") else { return };
    inside(&net, async |sync| drop(sync.replace_all(&full(), true).await.unwrap()));
    inside(&net, async |sync| {
        sync.replace_all(&[], false).await.unwrap();
        let via: Vec<_> = FULL.iter().copied().filter(|line| line.contains(" via ")).collect();
        assert_eq!(shown(&net), via, "the peers have not told their routes yet");
        sync.replace_all(&[], false).await.unwrap();
        assert_eq!(shown(&net), via);
        sync.replace_all(&[], true).await.unwrap();
        assert_eq!(shown(&net), [] as [&str; 0]);
    });
}
