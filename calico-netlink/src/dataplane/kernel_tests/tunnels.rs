//! Tunnels between nodes, and strangers who wrap packets as nodes do.

use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use calico_core::dataplane::{HostEndpoint, HostInterface, HostSettings, Tunnels, VerdictCause};
use calico_core::key::Family;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::lab::{self, Host, forward, ip};
use super::*;

/// A node, another one, and a stranger who all speak VXLAN; the node knows the other one.
struct Lab {
    family: Family,
    node: Host,
    stranger: Host,
}

impl Lab {
    fn new(family: Family) -> Self {
        forward();
        let lab = Self { family, node: Host::new(), stranger: Host::new() };
        lab.node.cable("up0", "eth0");
        lab.stranger.cable("up1", "eth0");
        let (device, len, inner_len) = match family {
            Family::V4 => ("vxlan.calico", 24, 16),
            Family::V6 => ("vxlan-v6.calico", 64, 48),
        };
        for (cable, other) in [(0, &lab.node), (1, &lab.stranger)] {
            ip(&format!("addr add {}/{len} dev up{cable} nodad", lab.outer(cable, 1)));
            other.ip(&format!("addr add {}/{len} dev eth0 nodad", lab.outer(cable, 2)));
            let (own, remote) = (lab.outer(cable, 2), lab.outer(cable, 1));
            other.ip(&format!(
                "link add {device} address 66:00:00:00:00:0{} type vxlan id 4096 dstport 4789 \
                 local {own} remote {remote} nolearning",
                cable + 2
            ));
            other.ip(&format!("link set {device} up"));
            let inner = lab.inner(cable + 2);
            other.ip(&format!("addr add {inner}/{inner_len} dev {device} nodad"));
            other.ip(&format!("neigh add {} lladdr 66:00:00:00:00:01 dev {device}", lab.inner(1)));
        }
        ip(&format!(
            "link add {device} address 66:00:00:00:00:01 type vxlan id 4096 dstport 4789 local {} \
             nolearning",
            lab.outer(0, 1)
        ));
        ip(&format!("link set {device} up"));
        ip(&format!("addr add {}/{inner_len} dev {device} nodad", lab.inner(1)));
        for cable in [0, 1] {
            let mac = format!("66:00:00:00:00:0{}", cable + 2);
            ip(&format!("neigh add {} lladdr {mac} dev {device}", lab.inner(cable + 2)));
            lab::bridge(&format!("fdb add {mac} dev {device} dst {}", lab.outer(cable, 2)));
        }
        lab
    }

    fn outer(&self, cable: u8, host: u8) -> IpAddr {
        match self.family {
            Family::V4 => [192, 0, 2 + cable, host].into(),
            Family::V6 => format!("2001:db8:{cable}::{host}").parse().unwrap(),
        }
    }

    fn inner(&self, host: u8) -> IpAddr {
        match self.family {
            Family::V4 => [10, 66, 0, host].into(),
            Family::V6 => format!("fd66::{host}").parse().unwrap(),
        }
    }

    /// Waits until what this host wraps is taken by the node.
    fn comes_at_last(&self, from: &Host, number: u8) -> bool {
        (0..20).any(|_| self.comes(from, number))
    }

    /// Whether what this host wraps is taken by the node, at once.
    fn comes(&self, from: &Host, number: u8) -> bool {
        let receiver = UdpSocket::bind((self.inner(1), 9)).unwrap();
        receiver.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        from.udp(self.inner(number), 0).send_to(b"x", (self.inner(1), 9)).unwrap();
        receiver.recv(&mut [0; 8]).is_ok()
    }

    fn settings(&self, external: &[&str]) -> HostSettings {
        let tunnels = match self.family {
            Family::V4 => Tunnels { vxlan_v4: true, ..Tunnels::default() },
            Family::V6 => Tunnels { vxlan_v6: true, ..Tunnels::default() },
        };
        HostSettings {
            node_addresses: vec![self.outer(0, 1), self.outer(0, 2)],
            external_nodes: external.iter().map(|net| net.parse().unwrap()).collect(),
            tunnels,
            ..HostSettings::default()
        }
    }
}

async fn tracked() -> bool {
    let connections = Socket::open().unwrap().connections().await.unwrap();
    connections.iter().any(|connection| {
        connection.as_forwarded().ports.is_some_and(|(_, destination)| destination == 4789)
    })
}

fn only_nodes_are_heard(family: Family) {
    in_new_netns(async || {
        let lab = Lab::new(family);
        let dataplane = open().await;
        // A rule that asks for connections makes the kernel track them.
        apply(&dataplane, vec![open_profile(), Update::InSync]).await;
        assert!(lab.comes_at_last(&lab.node, 2), "no tunnel is in use");
        assert!(lab.comes_at_last(&lab.stranger, 3), "no tunnel is in use");
        assert!(tracked().await, "as any packet");

        let mut verdicts = dataplane.verdicts();
        apply(&dataplane, vec![Update::Host(lab.settings(&[]))]).await;
        let peers = [lab.outer(0, 2), lab.outer(1, 2)];
        Socket::open().unwrap().forget_connections(&peers).await.unwrap();
        assert!(!tracked().await);
        assert!(lab.comes_at_last(&lab.node, 2));
        assert!(!lab.comes(&lab.stranger, 3));
        let event = next(&mut verdicts).await;
        let seen = (event.cause, &*event.interface, event.flow.source);
        assert_eq!(seen, (VerdictCause::ForeignTunnel, "up1", lab.outer(1, 2)));

        // The host's own way back, from another of its addresses as after a translated service.
        let receiver = lab.node.udp(lab.inner(2), 9);
        let sender = UdpSocket::bind((lab.outer(0, 1), 0)).unwrap();
        let arrives = || {
            (0..20).find_map(|_| {
                sender.send_to(b"x", (lab.inner(2), 9)).unwrap();
                receiver.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
            })
        };
        assert_eq!(arrives(), Some(lab.inner(1)), "answers come back through the tunnel");
        assert!(!tracked().await, "neither to nodes nor from them");

        let all = match family {
            Family::V4 => "192.0.3.0/24",
            Family::V6 => "2001:db8:1::/64",
        };
        apply(&dataplane, vec![Update::Host(lab.settings(&[all]))]).await;
        assert!(lab.comes_at_last(&lab.stranger, 3), "a node without a resource");
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());

        // A host endpoint that nothing allows anything at does not cut the nodes off.
        let closed = |interface: &str| {
            Update::HostEndpoint(HostEndpoint {
                name: interface.into(),
                interface: HostInterface::Named(interface.into()),
                local: Vec::new(),
                forward: Vec::new(),
                pre_dnat: Vec::new(),
                untracked: Vec::new(),
                profiles: Vec::new(),
            })
        };
        let updates = vec![closed("up0"), closed("up1"), Update::Host(lab.settings(&[]))];
        apply(&dataplane, updates).await;
        assert!(lab.comes_at_last(&lab.node, 2) && !lab.comes(&lab.stranger, 3));
        assert!(arrives().is_some());
        // To the stranger the host itself may not send any.
        let receiver = lab.stranger.udp(lab.inner(3), 9);
        UdpSocket::bind((lab.inner(1), 0)).unwrap().send_to(b"x", (lab.inner(3), 9)).unwrap();
        assert!(receiver.recv_from(&mut [0; 8]).is_err());

        // Without tunnels everything is as before.
        let none = HostSettings::default();
        apply(&dataplane, vec![Update::HostEndpointRemoved("up0".into())]).await;
        let updates = vec![Update::HostEndpointRemoved("up1".into()), Update::Host(none)];
        apply(&dataplane, updates).await;
        assert!(lab.comes_at_last(&lab.stranger, 3));
    });
}

#[test]
fn vxlan_is_taken_from_nodes_only() {
    only_nodes_are_heard(Family::V4);
}

#[test]
fn vxlan_over_ipv6_is_taken_from_nodes_only() {
    only_nodes_are_heard(Family::V6);
}

/// Sends a packet that claims to be IP in IP.
fn send_ipip(source: [u8; 4], destination: [u8; 4]) {
    let flags = SockFlag::empty();
    let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).unwrap();
    // Version and length of the header, time to live, protocol; the kernel fills in the rest.
    let mut packet = [0; 24];
    (packet[0], packet[8], packet[9]) = (0x45, 64, 4);
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    let to = SockaddrIn::from(SocketAddrV4::new(destination.into(), 0));
    sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
}

/// Without the kernel's module nobody unwraps it; the rules count it all the same.
#[test]
fn ip_in_ip_is_taken_from_nodes_only() {
    in_new_netns(async || {
        forward();
        let outside = Host::new();
        outside.cable("up0", "eth0");
        ip("addr add 192.0.2.1/24 dev up0");
        for host in [2, 3] {
            outside.ip(&format!("addr add 192.0.2.{host}/24 dev eth0"));
        }
        let dataplane = open().await;
        let settings = HostSettings {
            node_addresses: vec![[192, 0, 2, 2].into()],
            tunnels: Tunnels { ipip: true, ..Tunnels::default() },
            ..HostSettings::default()
        };
        let closed = HostEndpoint {
            name: "h".into(),
            interface: HostInterface::All,
            local: Vec::new(),
            forward: Vec::new(),
            pre_dnat: Vec::new(),
            untracked: Vec::new(),
            profiles: Vec::new(),
        };
        let updates = vec![Update::Host(settings), Update::HostEndpoint(closed), Update::InSync];
        apply(&dataplane, updates).await;
        let mut verdicts = dataplane.verdicts();
        for host in [2, 3, 3] {
            outside.run(|| send_ipip([192, 0, 2, host], [192, 0, 2, 1]));
        }
        let event = next(&mut verdicts).await;
        let seen = (event.cause, event.flow.source);
        assert_eq!(seen, (VerdictCause::ForeignTunnel, IpAddr::from([192, 0, 2, 3])));
        let counted = |counters: &[super::super::SourceCounter], what: &str| {
            counters.iter().find(|c| c.identity == what).map_or(0, |counter| counter.packets)
        };
        let counters = dataplane.rule_counters().await.unwrap();
        assert_eq!(counted(&counters, "IPIP from a node"), 1, "{counters:?}");
        assert_eq!(counted(&counters, "IPIP that is not from a node"), 2, "{counters:?}");
    });
}
