use super::*;
use crate::testing::TestNet;

/// A namespace with the node's addresses on an interface.
fn node(label: &str) -> Option<TestNet> {
    let net = TestNet::new(label)?;
    for command in [
        "link add eth0 type veth peer name far0",
        "link set eth0 up",
        "link set far0 up",
        "address add 172.30.0.11/24 dev eth0",
        "address add fd30::11/64 dev eth0 nodad",
    ] {
        run(&net, "ip", command);
    }
    Some(net)
}

fn run(net: &TestNet, program: &str, command: &str) -> String {
    net.output(program, &command.split(' ').collect::<Vec<_>>())
}

fn remote(number: u8) -> Remote {
    Remote {
        node: [172, 30, 0, number].into(),
        address: [10, 244, number, 0].into(),
        mac: MacAddr([0x66, 0, 0, 0, 0, number]),
    }
}

fn tunnel(remotes: &[Remote]) -> Tunnel {
    Tunnel {
        name: "vxlan.calico".into(),
        encapsulation: Encapsulation::Vxlan(Vxlan {
            vni: 4096,
            port: 4789,
            local: [172, 30, 0, 11].into(),
            mac: MacAddr([0x66, 1, 2, 3, 4, 5]),
            remotes: remotes.iter().copied().collect(),
        }),
        address: [10, 244, 11, 0].into(),
        mtu: 1450,
    }
}

fn vxlan(tunnel: &mut Tunnel) -> &mut Vxlan {
    match &mut tunnel.encapsulation {
        Encapsulation::Vxlan(vxlan) => vxlan,
        Encapsulation::Ipip => panic!("no VXLAN"),
    }
}

/// The permanent entries of both tables, as iproute2 shows them.
fn entries(net: &TestNet) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (program, command) in [
        ("ip", "neigh show dev vxlan.calico nud permanent"),
        ("bridge", "fdb show dev vxlan.calico"),
    ] {
        let text = run(net, program, command);
        lines
            .extend(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    lines.sort();
    lines
}

#[test]
fn a_vxlan_is_made_as_upstream_makes_it_and_kept() {
    let Some(net) = node("vxlan") else { return };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let mut wanted = tunnel(&[remote(12), remote(13)]);
        assert!(sync(&mut connection, &wanted).unwrap() > 0);
        let shown = run(&net, "ip", "-d link show vxlan.calico");
        for part in [
            "vxlan id 4096",
            "local 172.30.0.11 dev eth0",
            "dstport 4789",
            "nolearning",
            "mtu 1450",
            "66:01:02:03:04:05",
            "LOWER_UP",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            run(&net, "ip", "address show vxlan.calico")
                .contains("inet 10.244.11.0/32 scope global")
        );
        let both = [
            "10.244.12.0 lladdr 66:00:00:00:00:0c PERMANENT",
            "10.244.13.0 lladdr 66:00:00:00:00:0d PERMANENT",
            "66:00:00:00:00:0c dst 172.30.0.12 self permanent",
            "66:00:00:00:00:0d dst 172.30.0.13 self permanent",
        ];
        assert_eq!(entries(&net), both);
        assert_eq!(sync(&mut connection, &wanted).unwrap(), 0, "nothing to do");

        // A node goes, another moves; the device itself stays.
        let index = link::by_name(&mut connection, "vxlan.calico").unwrap().unwrap().index;
        let moved = Remote { node: [172, 30, 0, 99].into(), ..remote(12) };
        vxlan(&mut wanted).remotes = [moved].into();
        sync(&mut connection, &wanted).unwrap();
        assert_eq!(entries(&net), [both[0], "66:00:00:00:00:0c dst 172.30.0.99 self permanent"]);
        // What others change is put right.
        run(&net, "ip", "link set vxlan.calico mtu 1400 down");
        run(&net, "ip", "address add 10.9.9.9/32 dev vxlan.calico");
        assert!(sync(&mut connection, &wanted).unwrap() >= 3);
        assert_eq!(sync(&mut connection, &wanted).unwrap(), 0);
        assert_eq!(link::by_name(&mut connection, "vxlan.calico").unwrap().unwrap().index, index);

        // Another identifier takes another device.
        vxlan(&mut wanted).vni = 4097;
        sync(&mut connection, &wanted).unwrap();
        assert!(run(&net, "ip", "-d link show vxlan.calico").contains("vxlan id 4097"));
        assert!(remove(&mut connection, "vxlan.calico").unwrap());
        assert!(!remove(&mut connection, "vxlan.calico").unwrap());
    });
}

#[test]
fn a_vxlan_over_ipv6_has_a_device_of_its_own() {
    let Some(net) = node("vxlan6") else { return };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        sync(&mut connection, &tunnel(&[remote(12)])).unwrap();
        let mut wanted = tunnel(&[]);
        wanted.name = "vxlan-v6.calico".into();
        wanted.mtu = 1430;
        wanted.address = "fd00:244::11".parse().unwrap();
        let v6 = vxlan(&mut wanted);
        v6.local = "fd30::11".parse().unwrap();
        v6.remotes = [Remote {
            node: "fd30::12".parse().unwrap(),
            address: "fd00:244::12".parse().unwrap(),
            mac: MacAddr([0x66, 0, 0, 0, 1, 12]),
        }]
        .into();
        sync(&mut connection, &wanted).unwrap();
        assert_eq!(sync(&mut connection, &wanted).unwrap(), 0);
        let shown = run(&net, "ip", "-d link show vxlan-v6.calico");
        assert!(shown.contains("local fd30::11 dev eth0"), "{shown}");
        let table = run(&net, "bridge", "fdb show dev vxlan-v6.calico");
        assert!(table.contains("66:00:00:00:01:0c dst fd30::12 self permanent"), "{table}");
    });
}

#[test]
fn what_cannot_be_is_told() {
    let Some(net) = node("tunnel-no") else { return };
    net.run(|| {
        let mut connection = Connection::open().unwrap();
        let mut elsewhere = tunnel(&[]);
        vxlan(&mut elsewhere).local = [192, 0, 2, 1].into();
        let error = sync(&mut connection, &elsewhere).unwrap_err();
        assert!(error.is_absent(), "{error}");
        // A kernel without IP-in-IP says so; one with it makes the device.
        let ipip = Tunnel {
            name: "tunl0".into(),
            encapsulation: Encapsulation::Ipip,
            address: [10, 244, 11, 1].into(),
            mtu: 1480,
        };
        match sync(&mut connection, &ipip) {
            Ok(_) => {
                assert_eq!(sync(&mut connection, &ipip).unwrap(), 0);
                assert!(run(&net, "ip", "address show tunl0").contains("inet 10.244.11.1/32"));
                assert!(remove(&mut connection, "tunl0").unwrap());
            }
            Err(RtnlError::Refused(refusal)) => {
                assert_eq!(refusal.errno, nix::errno::Errno::EOPNOTSUPP, "{refusal}");
            }
            Err(error) => panic!("{error}"),
        }
    });
}
