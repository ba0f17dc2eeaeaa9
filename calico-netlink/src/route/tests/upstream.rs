//! Routes as upstream's programs make, leave and read them: over other routers, over tunnels, by
//! settings, and those of the host itself.

use super::*;

/// As of BGP peers several hops away: the kernel takes only gateways on a link.
#[test]
fn what_leads_to_a_gateway_stands_in_for_it() {
    let Some(net) = node("route-far") else { return };
    inside(&net, async |sync| {
        let far = [
            via("10.70.0.0/26", &["198.51.100.1"]),
            via("10.71.0.0/26", &["198.51.100.1", "192.0.2.9"]),
            via("fd00:70::/122", &["2001:db8:5::1"]),
        ];
        let report = sync.replace_all(&far, true).await.unwrap();
        assert_eq!((report.changed, report.standing.len()), (0, 3), "{report:?}");

        // Each comes as soon as something leads to its gateway.
        ip(&net, "route add 198.51.100.1/32 via 192.0.2.7 proto static");
        ip(&net, "-6 route add 2001:db8:5::/64 via 2001:db8::7 proto static");
        let underlay = [
            "198.51.100.1 via 192.0.2.7 dev fabric0 proto static",
            "2001:db8:5::/64 via 2001:db8::7 dev fabric0 proto static",
        ];
        let ours = |hop: &str| {
            [
                format!("10.70.0.0/26 via {hop} dev fabric0 proto bird"),
                format!(
                    "10.71.0.0/26 proto bird + nexthop via {hop} dev fabric0 weight 1 + nexthop \
                     via 192.0.2.9 dev fabric0 weight 1"
                ),
            ]
        };
        let [one, several] = ours("192.0.2.7");
        let v6 = "fd00:70::/122 via 2001:db8::7 dev fabric0 proto bird";
        eventually(&net, &[&one, &several, underlay[0], underlay[1], v6]).await;
        assert_eq!(sync.standing(), []);
        let again = sync.replace_all(&far, true).await.unwrap();
        assert_eq!((again.changed, again.drift), (0, vec![]));

        // They follow the way to the gateway.
        ip(&net, "route replace 198.51.100.1/32 via 192.0.2.8 proto static");
        let [one, several] = ours("192.0.2.8");
        let moved = underlay[0].replace(".7", ".8");
        eventually(&net, &[&one, &several, &moved, underlay[1], v6]).await;

        // What is learned itself leads to no gateway.
        let circle =
            [via("198.51.100.0/24", &["192.0.2.7"]), via("10.70.0.0/26", &["198.51.100.9"])];
        let report = sync.replace_all(&circle, true).await.unwrap();
        assert_eq!(report.standing.len(), 1, "{report:?}");
        assert_eq!(report.standing[0].0, "10.70.0.0/26".parse().unwrap());
    });
}

/// As upstream's: protocol 80, and the other end taken to be on the device.
#[test]
fn routes_over_a_tunnel_take_over_what_felix_left() {
    let Some(net) = node("route-tunnel") else { return };
    ip(&net, "link add vxlan.calico type vxlan id 4096 dstport 4789 dev fabric0");
    ip(&net, "link set vxlan.calico up");
    ip(&net, "route add 10.70.0.0/26 via 10.70.0.9 dev vxlan.calico onlink proto 80");
    ip(&net, "route add 10.71.0.0/26 via 10.71.0.9 dev vxlan.calico onlink proto 80");
    ip(&net, "route add 10.72.0.0/26 via 192.0.2.7 proto 80");
    net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = RouteConfig { onlink: true, ..RouteConfig::default() };
            let sync = RouteSync::open(config).unwrap();
            let hop = NextHop {
                gateway: "10.70.0.0".parse().unwrap(),
                interface: Some("vxlan.calico".into()),
            };
            let target = RouteTarget::Via(vec![hop]);
            let route = Route::new("10.70.0.0/26".parse().unwrap(), target);
            let report = sync.replace_all(&[route], true).await.unwrap();
            assert_eq!(report.standing, []);
            assert_eq!(
                shown(&net),
                [
                    "10.70.0.0/26 via 10.70.0.0 dev vxlan.calico proto 80 onlink",
                    // No tunnel, and not ours.
                    "10.72.0.0/26 via 192.0.2.7 dev fabric0 proto 80",
                ]
            );
        });
    });
}

/// The settings of upstream's that say what routes look like change while they are in use.
#[test]
fn another_configuration_makes_the_routes_anew_without_a_gap() {
    let Some(net) = node("route-config") else { return };
    ip(&net, "route add 10.65.0.9 dev cali1 scope link");
    ip(&net, "route add 10.65.0.2 dev cali1 scope link proto 77 metric 1024");
    inside(&net, async |sync| {
        let preferred = |route: Route| Route { metric: Some(1024), ..route };
        let wanted = || -> Vec<Route> {
            let mut routes = full();
            routes[0] = preferred(routes[0].clone());
            routes
        };
        let report = sync.replace_all(&wanted(), true).await.unwrap();
        assert_eq!(report.standing, [], "a route with another number is taken over");
        assert_eq!(shown(&net), FULL, "and what is left over goes");
        assert!(ip(&net, "route show 10.65.0.2").contains("metric 1024"));

        let config = RouteConfig {
            workload_protocol: 93,
            tunnel_protocol: 93,
            source_v4: Some([192, 0, 2, 1].into()),
            source_v6: Some("2001:db8::1".parse().unwrap()),
            ..RouteConfig::default()
        };
        // The kernel tells of every change: the address is never without a route.
        let mut monitor =
            crate::monitor::Monitor::open(crate::monitor::Follow { routes: true }).unwrap();
        sync.configure(config).await.unwrap();
        let address = "10.65.0.2/32".parse().unwrap();
        let mut seen = Vec::new();
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(300), monitor.next()).await
        {
            let (come, message) = match event.unwrap() {
                crate::monitor::Event::Route(message) => (true, message),
                crate::monitor::Event::RouteGone(message) => (false, message),
                _ => continue,
            };
            if message::decode(&message).is_some_and(|route| route.destination == address) {
                seen.push(come);
            }
        }
        assert_eq!(seen, [true], "one is put into the place of the other");
        let new = [
            "10.65.0.2 dev cali1 proto 93 scope link src 192.0.2.1",
            "blackhole 192.200.59.192/26 proto bird",
            "192.200.203.0/26 via 192.0.2.7 dev fabric0 proto bird src 192.0.2.1",
            "fd00:65::2 dev cali1 proto 93 src 2001:db8::1",
            "blackhole fd00:65::/122 dev lo proto bird",
            "fd00:66::/122 via 2001:db8::7 dev fabric0 proto bird src 2001:db8::1",
        ];
        assert_eq!(shown(&net), new);
        let again = sync.replace_all(&wanted(), true).await.unwrap();
        assert_eq!((again.changed, again.drift, again.standing), (0, vec![], vec![]));

        // An address that the host has not is the kernel's to refuse; the others are made.
        let foreign =
            RouteConfig { source_v4: Some([203, 0, 113, 1].into()), ..RouteConfig::default() };
        let report = sync.configure(foreign).await.unwrap();
        assert_eq!(report.standing.len(), 2, "{report:?}");
        assert!(shown(&net).contains(&"fd00:65::2 dev cali1".to_owned()));
        sync.configure(RouteConfig::default()).await.unwrap();
        assert_eq!((shown(&net), sync.standing()), (FULL.map(str::to_owned).to_vec(), vec![]));

        // Nothing is made or removed of a family that is somebody else's.
        let v4_only = RouteConfig { manage_v6: false, ..RouteConfig::default() };
        sync.configure(v4_only).await.unwrap();
        sync.replace_all(&[to_workload("fd00:65::3/128", "cali1")], true).await.unwrap();
        assert_eq!(shown(&net), FULL[3..], "of IPv4 none is desired");
        assert_eq!(sync.standing(), []);
        let off = RouteConfig { manage_v4: false, manage_v6: false, ..RouteConfig::default() };
        sync.configure(off).await.unwrap();
        sync.change(&full(), &[]).await.unwrap();
        assert_eq!(shown(&net), FULL[3..]);
        sync.configure(RouteConfig::default()).await.unwrap();
        assert_eq!(shown(&net).len(), 7, "they are all made now, one of them being new");
    });
}

/// What upstream's BIRD learns: routes that somebody else made, and subnets of interfaces.
#[test]
fn the_hosts_own_routes_are_those_of_others_and_of_interfaces() {
    let Some(net) = node("route-host") else { return };
    for command in [
        "route add 10.80.0.0/24 via 192.0.2.9 metric 50",
        "route add blackhole 10.81.0.0/24",
        "route add 10.82.0.0/24 via 192.0.2.9 proto bird",
        "route add 10.65.0.9 dev cali1 scope link",
        "route add 10.83.0.0/24 via 192.0.2.9 table 77",
        "-6 route add 2001:db8:7::/64 via 2001:db8::9",
        "address add 127.0.0.9/8 dev fabric0",
        "address add 198.51.100.1/24 dev pod1",
        "link set pod1 down",
    ] {
        ip(&net, command);
    }
    inside(&net, async |sync| {
        let shown = async || -> Vec<String> {
            let (routes, more) = sync.host_routes(100).await.unwrap();
            assert_eq!(more, 0);
            let show = |route: HostRoute| {
                format!(
                    "{} {:?} {:?}",
                    route.prefix,
                    route.interface.unwrap_or_default(),
                    route.metric
                )
            };
            routes.into_iter().map(show).collect()
        };
        let mut wanted = vec![
            "10.80.0.0/24 \"fabric0\" Some(50)",
            "10.81.0.0/24 \"\" Some(0)",
            "192.0.2.0/24 \"fabric0\" None",
            "2001:db8::/64 \"fabric0\" None",
            "2001:db8:7::/64 \"fabric0\" Some(1024)",
        ];
        assert_eq!(shown().await, wanted);
        let (few, more) = sync.host_routes(2).await.unwrap();
        assert_eq!((few.len(), more), (2, 3));

        sync.replace_all(&full(), true).await.unwrap();
        let mut others = sync.others_changed();
        ip(&net, "route del 10.80.0.0/24");
        tokio::time::timeout(Duration::from_secs(20), others.changed()).await.unwrap().unwrap();
        wanted.remove(0);
        assert_eq!(shown().await, wanted, "and ours are none of the host's");
    });
}
