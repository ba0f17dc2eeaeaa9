use super::*;
use crate::address;
use crate::testing::TestNet;

#[test]
fn names_follow_the_kernel() {
    for good in ["eth0", "cali0123456789a", "a.b"] {
        assert!(is_valid_name(good), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a b", "a:1", "cali0123456789ab"] {
        assert!(!is_valid_name(bad), "{bad}");
    }
}

#[test]
fn a_bridge_joins_two_namespaces() {
    let Some(net) = TestNet::new("link") else { return };
    let far_net = TestNet::new("link-far").unwrap();
    let near = VethEnd { name: "near", mtu: 1400, up: true, ..VethEnd::default() };
    let far =
        VethEnd { name: "far", netns: Some(far_net.netns()), mtu: 1400, ..VethEnd::default() };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        create_veth(&mut connection, &near, &far).unwrap();
        create_bridge(&mut connection, "bridge").unwrap();
        let bridge = by_name(&mut connection, "bridge").unwrap().unwrap();
        set_master(&mut connection, "near", Some(bridge.index)).unwrap();
        address::add(&mut connection, bridge.index, "10.0.0.1/24".parse().unwrap()).unwrap();
        address::add(&mut connection, bridge.index, "fd00::1/64".parse().unwrap()).unwrap();

        let ports = LinkFilter { master: Some(bridge.index), ..LinkFilter::default() };
        let ports = list(&mut connection, &ports).unwrap();
        assert_eq!(ports.len(), 1);
        assert_eq!((ports[0].name.as_str(), ports[0].mtu), ("near", 1400));
        assert_eq!(ports[0].kind.as_deref(), Some("veth"));
        let same = by_index(&mut connection, bridge.index).unwrap().unwrap();
        assert_eq!(same.name, "bridge");
    });
    far_net.run(|| {
        let mut connection = Connection::open().unwrap();
        set_up(&mut connection, "far").unwrap();
        let index = by_name(&mut connection, "far").unwrap().unwrap().index;
        address::add(&mut connection, index, "10.0.0.2/24".parse().unwrap()).unwrap();
        address::add(&mut connection, index, "fd00::2/64".parse().unwrap()).unwrap();
        let addresses = address::list(&mut connection, Some(index)).unwrap();
        assert!(addresses.iter().any(|found| found.address == "10.0.0.2/24".parse().unwrap()));
        assert!(addresses.iter().all(|found| found.index == index));
    });
    assert!(far_net.pings("10.0.0.1".parse().unwrap(), 5));
    assert!(far_net.pings("fd00::1".parse().unwrap(), 5));
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let bridge = by_name(&mut connection, "bridge").unwrap().unwrap().index;
        let address = "10.0.0.1/24".parse().unwrap();
        assert!(address::delete(&mut connection, bridge, address).unwrap());
        assert!(!address::delete(&mut connection, bridge, address).unwrap());
        assert!(delete(&mut connection, "near").unwrap());
        assert!(!delete(&mut connection, "near").unwrap());
    });
    assert!(far_net.run(|| by_name(&mut Connection::open().unwrap(), "far").unwrap()).is_none());
}

#[test]
fn interfaces_move_change_and_refuse() {
    let Some(net) = TestNet::new("link-move") else { return };
    let other = TestNet::new("link-other").unwrap();
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let near = VethEnd { name: "a", ..VethEnd::default() };
        let far = VethEnd { name: "b", ..VethEnd::default() };
        create_veth(&mut connection, &near, &far).unwrap();
        let again = create_veth(&mut connection, &near, &far).unwrap_err();
        assert_eq!(again.errno(), Some(Errno::EEXIST));
        set_mtu(&mut connection, "a", 9000).unwrap();
        assert_eq!(by_name(&mut connection, "a").unwrap().unwrap().mtu, 9000);
        assert_eq!(set_mtu(&mut connection, "a", 1).unwrap_err().errno(), Some(Errno::EINVAL));
        set_up(&mut connection, "a").unwrap();
        set_down(&mut connection, "a").unwrap();
        assert!(!by_name(&mut connection, "a").unwrap().unwrap().up);
        move_to(&mut connection, "b", other.netns(), Some("eth0")).unwrap();
        assert!(by_name(&mut connection, "b").unwrap().is_none());
        let absent = move_to(&mut connection, "b", other.netns(), None).unwrap_err();
        assert!(absent.is_absent());
        assert!(set_up(&mut connection, "b").unwrap_err().is_absent());
    });
    assert!(other.run(|| by_name(&mut Connection::open().unwrap(), "eth0").unwrap()).is_some());
}

#[test]
fn a_refusal_in_a_batch_stops_nothing() {
    let Some(net) = TestNet::new("link-batch") else { return };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let bridge = |name: &str| {
            let message = LinkBridge::new(name).build();
            Request::new(RouteNetlinkMessage::NewLink(message), CREATE)
        };
        let mut requests = vec![bridge("first"), bridge("first")];
        // More than one datagram.
        requests.extend((0..120).map(|_| bridge("second")));
        requests.push(get_request(LinkUnspec::new_with_name("second")));
        let outcomes = connection.exchange(&requests).unwrap();
        assert_eq!(outcomes.len(), 123);
        assert_eq!(outcomes[0], Ok(None));
        assert_eq!(outcomes[1].as_ref().unwrap_err().errno, Errno::EEXIST);
        assert_eq!(outcomes[2], Ok(None));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 120);
        let found = outcomes[122].as_ref().unwrap().as_ref().and_then(link_of).unwrap();
        assert_eq!(found.name, "second");
    });
}

#[test]
fn settings_are_set_without_proc() {
    let Some(net) = TestNet::new("conf") else { return };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let end = |name| VethEnd { name, ..VethEnd::default() };
        create_veth(&mut connection, &end("a"), &end("b")).unwrap();
        let before = by_name(&mut connection, "a").unwrap().unwrap();
        assert_eq!((before.settings.proxy_arp, before.settings.route_localnet), (Some(0), Some(0)));
        let settings = [(Ipv4Conf::ProxyArp, 1), (Ipv4Conf::RouteLocalnet, 1)];
        let requests = [
            conf_request(LinkUnspec::new_with_name("a"), &settings),
            proxy_at_once_request(before.index),
        ];
        for outcome in connection.exchange(&requests).unwrap() {
            outcome.unwrap();
        }
        let after = by_name(&mut connection, "a").unwrap().unwrap();
        assert_eq!((after.settings.proxy_arp, after.settings.route_localnet), (Some(1), Some(1)));
        let other = by_name(&mut connection, "b").unwrap().unwrap();
        assert_eq!(other.settings.proxy_arp, Some(0));
        let delay = std::fs::read_to_string("/proc/sys/net/ipv4/neigh/a/proxy_delay").unwrap();
        assert_eq!(delay.trim(), "0");
    });
}

#[test]
fn the_least_mtu_of_those_that_count_and_are_up() {
    let Some(net) = TestNet::new("link-mtu") else { return };
    for command in [
        "link add eth0 mtu 1400 type veth peer name far0",
        "link add eth1 mtu 1300 type veth peer name far1",
        "link add other mtu 1200 type veth peer name far2",
        "link set eth0 up",
        "link set other up",
    ] {
        net.output("ip", &command.split(' ').collect::<Vec<_>>());
    }
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let mut least = |prefix: &'static str| {
            least_mtu(&mut connection, |name| name.starts_with(prefix)).unwrap()
        };
        assert_eq!((least("eth"), least(""), least("wlan")), (Some(1400), Some(1200), None));
    });
}
