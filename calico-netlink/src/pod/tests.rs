use std::net::IpAddr;

use super::*;
use crate::link;
use crate::rtnl::Connection;
use crate::sysctl;
use crate::testing::TestNet;

const V4: &str = "10.65.0.2";
const V6: &str = "fd00:65::2";

fn spec(pod: &TestNet, addresses: &[&str]) -> PodSpec {
    PodSpec {
        netns: pod.netns().path().to_owned(),
        ifname: "eth0".into(),
        host_ifname: "cali0123456789a".into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..PodSpec::default()
    }
}

/// A host that forwards and has addresses (but no default route), and an empty pod.
fn nets(label: &str) -> Option<(TestNet, TestNet)> {
    let host = TestNet::new(&format!("{label}-host"))?;
    host.run(sysctl::prepare_host).unwrap();
    host.output("ip", &["address", "add", "192.0.2.9/32", "dev", "lo"]);
    host.output("ip", &["address", "add", "2001:db8::9/128", "dev", "lo", "nodad"]);
    Some((host, TestNet::new(&format!("{label}-pod"))?))
}

fn links(net: &TestNet) -> Vec<String> {
    let all = net.run(|| {
        link::list(&mut Connection::open().unwrap(), &link::LinkFilter::default()).unwrap()
    });
    // The kernel puts tunnel devices of loaded modules into every new namespace, down.
    all.into_iter().filter(|link| link.up || link.peer.is_some()).map(|link| link.name).collect()
}

/// Milliseconds until the first ping of each way was answered, of a pod that was just made.
fn first_pings() -> Option<Vec<(&'static str, f64)>> {
    let (host, pod) = nets("ping")?;
    let interfaces = host.run(|| setup(&spec(&pod, &[V4, V6]))).unwrap();
    assert_eq!(interfaces.host.mac, HOST_MAC);
    assert_eq!(interfaces.container.mtu, 1500);
    let ways = [(&pod, "192.0.2.9"), (&pod, "2001:db8::9"), (&host, V4), (&host, V6)];
    let ping = |(net, target): (&TestNet, &'static str)| {
        let text = net.output("ping", &["-n", "-c", "1", "-W", "3", target]);
        let milliseconds = text.split("time=").nth(1).and_then(|rest| rest.split(' ').next());
        (target, milliseconds.unwrap().parse().unwrap())
    };
    Some(ways.map(ping).into())
}

#[test]
fn the_first_packet_passes_both_ways_in_both_families() {
    // A lost first ARP or neighbour request is repeated after a second, seen as a slow answer. What
    // loses them does so for each pod; a busy machine, which may be as slow, not each time.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let Some(pings) = first_pings() else { return };
        if pings.iter().all(|(_, milliseconds)| *milliseconds < 900.0) {
            return;
        }
        seen.push(pings);
    }
    panic!("slow, each time: {seen:?}");
}

#[test]
fn two_pods_reach_each_other_through_the_host() {
    let Some((host, first)) = nets("pair") else { return };
    let second = TestNet::new("pair-second").unwrap();
    host.run(|| setup(&spec(&first, &[V4, V6]))).unwrap();
    let other = PodSpec {
        host_ifname: "cali-second".into(),
        ..spec(&second, &["10.65.0.3", "fd00:65::3"])
    };
    host.run(|| setup(&other)).unwrap();
    for target in ["10.65.0.3", "fd00:65::3"] {
        assert!(first.pings(target.parse().unwrap(), 3), "{target}");
    }
}

#[test]
fn both_sides_look_as_upstream_makes_them() {
    let Some((host, pod)) = nets("look") else { return };
    // New namespaces begin as the machine's own, which forwards.
    pod.run(sysctl::prepare_host).unwrap();
    host.run(|| setup(&spec(&pod, &[V4, V6]))).unwrap();
    assert_eq!(
        pod.output("ip", &["route"]).lines().map(str::trim).collect::<Vec<_>>(),
        ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
    );
    let v6 = pod.output("ip", &["-6", "route", "show", "default"]);
    assert!(v6.starts_with("default via fe80::ecee:eeff:feee:eeee dev eth0"), "{v6}");
    assert_eq!(
        host.output("ip", &["route"]).trim(),
        format!("{V4} dev cali0123456789a scope link metric 1024")
    );
    let v6 = host.output("ip", &["-6", "route", "show", V6]);
    assert!(v6.starts_with(&format!("{V6} dev cali0123456789a")), "{v6}");
    let settings = [
        ("ipv4/conf", "route_localnet", "1"),
        ("ipv4/conf", "proxy_arp", "1"),
        ("ipv4/conf", "forwarding", "1"),
        ("ipv4/neigh", "proxy_delay", "0"),
        ("ipv6/conf", "accept_dad", "0"),
        ("ipv6/conf", "disable_ipv6", "0"),
        ("ipv6/conf", "proxy_ndp", "1"),
        ("ipv6/conf", "forwarding", "1"),
        ("ipv6/conf", "accept_ra", "0"),
    ];
    for (family, name, expected) in settings {
        let path = format!("/proc/sys/net/{family}/cali0123456789a/{name}");
        assert_eq!(host.output("cat", &[&path]).trim(), expected, "{path}");
    }
    assert_eq!(pod.output("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(), "0");
    assert_eq!(pod.output("cat", &["/proc/sys/net/ipv6/conf/all/forwarding"]).trim(), "0");
}

#[test]
fn setup_again_changes_nothing() {
    let Some((host, pod)) = nets("again") else { return };
    let spec = spec(&pod, &[V4, V6]);
    let first = host.run(|| setup(&spec)).unwrap();
    assert_eq!(host.run(|| setup(&spec)).unwrap(), first);
    assert_eq!(host.run(|| check(&spec)).unwrap(), first);
}

#[test]
fn damage_is_found_and_repaired() {
    let Some((host, pod)) = nets("damage") else { return };
    let spec = spec(&pod, &[V4, V6]);
    let first = host.run(|| setup(&spec)).unwrap();
    for (inside, command, word) in [
        (true, vec!["address", "del", "10.65.0.2/32", "dev", "eth0"], "address"),
        (true, vec!["-6", "route", "del", "default"], "route"),
        (false, vec!["route", "del", V4], "route"),
        (false, vec!["link", "set", "cali0123456789a", "down"], "down"),
    ] {
        if inside { &pod } else { &host }.output("ip", &command);
        let error = host.run(|| check(&spec)).unwrap_err();
        assert!(
            matches!(&error, PodError::Incomplete { what } if what.contains(word)),
            "{command:?}: {error}"
        );
        let second = host.run(|| setup(&spec)).unwrap();
        assert_ne!(second.host.index, first.host.index);
        host.run(|| check(&spec)).unwrap();
    }
}

#[test]
fn an_old_interface_of_another_pod_gives_way() {
    let Some((host, old)) = nets("old") else { return };
    let new = TestNet::new("old-new").unwrap();
    host.run(|| setup(&spec(&old, &[V4]))).unwrap();
    host.run(|| setup(&spec(&new, &[V4]))).unwrap();
    assert!(host.pings(V4.parse().unwrap(), 3));
    assert_eq!(links(&old), ["lo"]);
}

#[test]
fn what_is_not_ours_stays() {
    let Some((host, pod)) = nets("foreign") else { return };
    pod.output("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    pod.output("ip", &["link", "set", "eth0", "up"]);
    let error = host.run(|| setup(&spec(&pod, &[V4]))).unwrap_err();
    assert!(matches!(error, PodError::InterfaceTaken { .. }), "{error}");
    assert_eq!(links(&pod), ["lo", "other", "eth0"]);

    host.output("ip", &["link", "add", "cali0123456789a", "type", "bridge"]);
    let clean = TestNet::new("foreign-clean").unwrap();
    let error = host.run(|| setup(&spec(&clean, &[V4]))).unwrap_err();
    assert!(matches!(error, PodError::HostInterfaceTaken { .. }), "{error}");
    assert_eq!(links(&clean), ["lo"]);
}

#[test]
fn failures_leave_nothing_half_made() {
    let Some((host, pod)) = nets("half") else { return };
    // A gateway that nothing leads to: refused after the veth and the addresses were made.
    let wrong = PodSpec {
        routes: PodRoutes::Only(vec!["fd00:1::/64".parse().unwrap()]),
        ..spec(&pod, &[V4])
    };
    pod.output("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    pod.output("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    let error = host.run(|| setup(&wrong)).unwrap_err();
    assert!(matches!(error, PodError::Kernel { .. }), "{error}");
    assert_eq!((links(&host), links(&pod)), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    assert_eq!(host.output("ip", &["route"]), "");

    let gone = PodSpec { netns: "/run/netns/cr-test-gone".into(), ..spec(&pod, &[V4]) };
    let error = host.run(|| setup(&gone)).unwrap_err();
    assert!(error.is_netns_gone() && error.to_string().contains("/run/netns/cr-test-gone"));
    let file = PodSpec { netns: "/etc/hostname".into(), ..spec(&pod, &[V4]) };
    let error = host.run(|| setup(&file)).unwrap_err();
    assert!(error.to_string().contains("/etc/hostname is not a network namespace"), "{error}");
    assert_eq!(links(&host), ["lo"]);
}

#[test]
fn teardown_leaves_nothing_and_may_be_repeated() {
    let Some((host, pod)) = nets("down") else { return };
    let spec = spec(&pod, &[V4, V6]);
    host.run(|| setup(&spec)).unwrap();
    for netns in [Some(spec.netns.as_path()), Some(spec.netns.as_path()), None] {
        host.run(|| teardown(&spec.host_ifname, netns, "eth0")).unwrap();
        assert_eq!((links(&host), links(&pod)), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    }
    let gone = std::path::Path::new("/run/netns/cr-test-gone");
    host.run(|| teardown(&spec.host_ifname, Some(gone), "eth0")).unwrap();
    assert_eq!(host.output("ip", &["route"]), "");
}

#[test]
fn options_take_effect() {
    let Some((host, pod)) = nets("options") else { return };
    host.output("ip", &["link", "add", "eth7", "mtu", "1400", "type", "veth", "peer", "name", "x"]);
    let spec = PodSpec {
        mac: Some("02:00:5e:10:00:01".parse().unwrap()),
        allow_ip_forwarding: true,
        allow_spoofing: true,
        queues: 2,
        routes: PodRoutes::Only(vec!["10.0.0.0/8".parse().unwrap()]),
        ..spec(&pod, &[V4])
    };
    host.output("sysctl", &["-qw", "net.ipv4.conf.default.rp_filter=1"]);
    let made = host.run(|| setup(&spec)).unwrap();
    assert_eq!(made.container.mac.to_string(), "02:00:5e:10:00:01");
    assert_eq!(made.container.mtu, 1400, "taken from the fabric's interface");
    assert_eq!(pod.output("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(), "1");
    let filter = "/proc/sys/net/ipv4/conf/cali0123456789a/rp_filter";
    assert_eq!(host.output("cat", &[filter]).trim(), "0");
    assert!(pod.output("ip", &["-d", "link", "show", "eth0"]).contains("numtxqueues 2"));
    let routes = pod.output("ip", &["route"]);
    assert!(routes.contains("10.0.0.0/8 via 169.254.1.1 dev eth0") && !routes.contains("default"));
    let target: IpAddr = "11.0.0.1".parse().unwrap();
    assert!(!pod.pings(target, 1), "there is no way out of the given routes");
}

#[test]
fn the_hosts_own_namespace_is_no_pod() {
    let Some((host, _)) = nets("own") else { return };
    host.output("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "uplink"]);
    let wrong = spec(&host, &[V4]);
    let error = host.run(|| setup(&wrong)).unwrap_err();
    assert!(matches!(error, PodError::HostNamespace { .. }), "{error}");
    host.run(|| teardown("cali0123456789a", Some(&wrong.netns), "eth0")).unwrap();
    assert_eq!(links(&host), ["lo", "uplink", "eth0"], "the host keeps its own interface");
}

#[test]
fn many_pods_at_once_do_not_disturb_each_other() {
    let Some((host, first)) = nets("many") else { return };
    let pods: Vec<_> = (0..12).map(|n| TestNet::new(&format!("many-{n}")).unwrap()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| {
                let addresses = [format!("10.65.1.{n}"), format!("fd00:65::1:{n}")];
                let spec = PodSpec {
                    host_ifname: format!("cali{n}"),
                    ..spec(pod, &addresses.each_ref().map(String::as_str))
                };
                let host = &host;
                scope.spawn(move || host.run(|| setup(&spec).and_then(|_| check(&spec))))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
    host.run(|| setup(&spec(&first, &[V4]))).unwrap();
    assert!(first.pings("10.65.1.11".parse().unwrap(), 3));
}

#[test]
fn threads_that_stay_make_and_cut_off_pods() {
    let Some((host, first)) = nets("workers") else { return };
    let pods: Vec<_> = (0..8).map(|n| TestNet::new(&format!("workers-{n}")).unwrap()).collect();
    let named = |(n, pod): (usize, &TestNet)| PodSpec {
        host_ifname: format!("cali{n}"),
        ..spec(pod, &[&format!("10.65.2.{n}"), &format!("fd00:65::2:{n}")])
    };
    let specs: Vec<_> = pods.iter().enumerate().map(named).collect();
    first.output("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    first.output("sysctl", &["-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    for most in [1, 3] {
        let work = async {
            let workers = Workers::new(most);
            // Refused in the pod's namespace: whoever tried must be back for the next.
            let wrong = PodSpec {
                routes: PodRoutes::Only(vec!["fd00:1::/64".parse().unwrap()]),
                ..spec(&first, &[V4])
            };
            let mut wrong = std::pin::pin!(workers.setup(wrong));
            let made =
                futures_util::future::join_all(specs.iter().map(|s| workers.setup(s.clone())));
            let (refused, made) = futures_util::join!(&mut wrong, made);
            assert!(matches!(refused, Err(PodError::Kernel { .. })), "{refused:?}");
            for made in made {
                made.unwrap();
            }
            for spec in &specs {
                assert!(workers.cut_off(spec.host_ifname.clone()).await.unwrap());
            }
            assert!(!workers.cut_off("cali0123456789a".into()).await.unwrap());
        };
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(work);
            assert!(remove_cut_off().unwrap());
        });
        assert_eq!((links(&host), links(&first)), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    }
}

#[test]
fn a_pod_that_is_cut_off_is_silent_and_goes_with_others() {
    let Some((host, pod)) = nets("cut") else { return };
    let other = TestNet::new("cut-other").unwrap();
    let second =
        PodSpec { host_ifname: "cali-second".into(), ..spec(&other, &["10.65.0.3", "fd00:65::3"]) };
    host.run(|| setup(&spec(&pod, &[V4, V6]))).unwrap();
    host.run(|| setup(&second)).unwrap();
    assert!(pod.pings("10.65.0.3".parse().unwrap(), 3));

    assert!(host.run(|| cut_off("cali0123456789a")).unwrap());
    assert!(!host.run(|| cut_off("cali-none")).unwrap());
    for (net, target) in [(&pod, "192.0.2.9"), (&pod, "2001:db8::9"), (&host, V4), (&host, V6)] {
        assert!(!net.pings(target.parse().unwrap(), 1), "{target}");
    }
    let routes = host.output("ip", &["route"]) + &host.output("ip", &["-6", "route"]);
    assert!(!routes.contains("cali0123456789a"), "{routes}");

    // The same names once more, for the same pod, before anybody removed anything.
    host.run(|| setup(&spec(&pod, &[V4, V6]))).unwrap();
    assert!(pod.pings("10.65.0.3".parse().unwrap(), 3));
    // And under another name on the host.
    host.run(|| cut_off("cali0123456789a")).unwrap();
    let renamed = PodSpec { host_ifname: "cali-third".into(), ..spec(&pod, &[V4, V6]) };
    host.run(|| setup(&renamed)).unwrap();

    assert!(host.run(|| cut_off("cali-third")).unwrap());
    assert!(host.run(|| cut_off("cali-second")).unwrap());
    let names = ["cali-second".to_owned(), "cali-third".to_owned()];
    assert!(!host.run(|| wait_removed(&names, || true)).unwrap(), "nobody removes them");
    host.run(|| {
        let removal = std::thread::spawn(remove_cut_off);
        assert!(wait_removed(&names, || removal.is_finished()).unwrap());
        // Out of sight on both sides, though the kernel may still be at it.
        for net in [&host, &pod, &other] {
            assert_eq!(links(net), ["lo"]);
        }
        assert!(removal.join().unwrap().unwrap());
    });
    assert!(!host.run(remove_cut_off).unwrap());
    for net in [&host, &pod, &other] {
        assert_eq!(links(net), ["lo"]);
    }
}
