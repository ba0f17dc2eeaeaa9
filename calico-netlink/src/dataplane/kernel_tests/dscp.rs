//! Code points of packets that leave the cluster, read where they arrive.

use std::io::IoSliceMut;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use calico_core::dataplane::{Dscp, HostSettings, Marking, Pool};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::lab::{Host, forward, ip, nft};
use super::*;

/// ECT(1) of RFC 3168, which is the sender's and must stay.
const ECN: i32 = 1;

/// Sends a packet with this traffic class; returns the one that it arrives with.
fn arrives(from: &UdpSocket, class: i32, at: &UdpSocket) -> i32 {
    let to = at.local_addr().unwrap();
    if to.is_ipv4() {
        setsockopt(from, sockopt::Ipv4Tos, &class).unwrap();
        setsockopt(at, sockopt::IpRecvTos, &true).unwrap();
    } else {
        setsockopt(from, sockopt::Ipv6TClass, &class).unwrap();
        setsockopt(at, sockopt::Ipv6RecvTClass, &true).unwrap();
    }
    // The first may be lost while neighbours are looked for on a busy machine, or only be late.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let class = (0..20).find_map(|_| {
        from.send_to(&number.to_be_bytes(), to).unwrap();
        class_of(number, at)
    });
    class.unwrap_or_else(|| panic!("nothing arrives at {to}"))
}

/// Each packet has its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Traffic class of the packet with this number, if it arrives in time.
fn class_of(number: u32, at: &UdpSocket) -> Option<i32> {
    loop {
        let (mut bytes, mut space) = ([0; 4], nix::cmsg_space!(i32));
        let mut data = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let received =
            recvmsg::<SockaddrStorage>(at.as_raw_fd(), &mut data, Some(&mut space), flags).ok()?;
        let class = received.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::Ipv4Tos(class) => Some(class.into()),
            ControlMessageOwned::Ipv6TClass(class) => Some(class),
            _ => None,
        });
        if bytes == number.to_be_bytes() {
            return Some(class.expect("the class of a packet"));
        }
    }
}

fn marking(source: IpAddr, dscp: u8) -> Marking {
    Marking { source, dscp: Dscp::new(dscp).unwrap() }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn packets_that_leave_the_cluster_carry_their_code_point() {
    in_new_netns(async || {
        forward();
        let outside = Host::new();
        outside.cable("up0", "eth0");
        let here = [address("192.0.2.1"), address("2001:db8::1")];
        let there = [address("192.0.2.2"), address("2001:db8::2")];
        ip("addr add 192.0.2.1/24 dev up0");
        ip("addr add 2001:db8::1/64 dev up0 nodad");
        // What asks for a neighbour; the kernel's own is not valid yet.
        ip("addr add fe80::9/64 dev up0 nodad");
        outside.ip("addr add 192.0.2.2/24 dev eth0");
        outside.ip("addr add 2001:db8::2/64 dev eth0 nodad");
        outside.ip("route add 10.65.0.0/16 via 192.0.2.1");
        outside.ip("route add fd65::/64 via 2001:db8::1");
        let dataplane = open().await;
        let (pod, other) = (Pod::new(1), Pod::new(2));
        let pools = |nat_outgoing| {
            let pool = |cidr: &str| Pool { cidr: cidr.parse().unwrap(), nat_outgoing };
            Update::Pools(vec![pool("10.65.0.0/16"), pool("fd65::/64")])
        };
        let both = |dscp| vec![marking(pod.v4, dscp), marking(pod.v6, dscp)];
        let updates = vec![
            open_profile(),
            pools(false),
            Update::Endpoint(endpoint(&pod, &[], &[])),
            Update::Endpoint(endpoint(&other, &[], &[])),
            Update::Markings([both(46), vec![marking(here[0], 20)]].concat()),
            Update::InSync,
        ];
        assert_eq!(apply(&dataplane, updates).await.failed, []);

        let server = there.map(|address| outside.udp(address, 7));
        let of = |host: &Host, sources: [IpAddr; 2]| sources.map(|source| host.udp(source, 0));
        let (pod_at, other_at) = (of(&pod.host, [pod.v4, pod.v6]), [other.v4, other.v6]);
        let leave = |from: &[UdpSocket; 2]| {
            [0, 1].map(|family| arrives(&from[family], ECN, &server[family]))
        };
        assert_eq!(leave(&pod_at), [46 << 2 | ECN; 2], "and ECN is the sender's");
        // What the sender wrote is written over.
        assert_eq!(arrives(&pod_at[0], 63 << 2, &server[0]), 46 << 2);
        assert_eq!(arrives(&pod_at[1], 63 << 2, &server[1]), 46 << 2);
        assert_eq!(leave(&of(&other.host, other_at)), [ECN; 2], "others are not marked");
        let host_at = UdpSocket::bind((here[0], 0)).unwrap();
        assert_eq!(arrives(&host_at, ECN, &server[0]), 20 << 2 | ECN, "the host's own");

        // Within the cluster nothing is marked: to a pod, to the host, to a node, ...
        for (from, to) in pod_at.iter().zip(other_at) {
            assert_eq!(arrives(from, ECN, &other.host.udp(to, 8)), ECN);
        }
        let settings = |nodes: &[IpAddr], external: &[&str]| {
            Update::Host(HostSettings {
                node_addresses: nodes.to_vec(),
                external_nodes: external.iter().map(|net| net.parse().unwrap()).collect(),
                endpoint_to_host: calico_core::dataplane::EndpointToHostAction::Accept,
                ..HostSettings::default()
            })
        };
        apply(&dataplane, vec![settings(&there, &[])]).await;
        assert_eq!(leave(&pod_at), [ECN; 2]);
        // ... to a node without a resource.
        apply(&dataplane, vec![settings(&here, &["192.0.2.0/24"])]).await;
        assert_eq!(leave(&pod_at), [ECN, 46 << 2 | ECN]);
        apply(&dataplane, vec![settings(&here, &[])]).await;

        // Another one, with the source translated on the way.
        apply(&dataplane, vec![Update::Markings(both(8)), pools(true)]).await;
        assert_eq!(leave(&of(&pod.host, [pod.v4, pod.v6])), [8 << 2 | ECN; 2]);
        assert_eq!(arrives(&host_at, ECN, &server[0]), ECN, "the host's own no longer");
        let listed = nft(&["list", "table", "inet", "calico"]);
        assert!(
            listed.contains("ip dscp set cs1") && listed.contains("ip6 dscp set cs1"),
            "{listed}"
        );
        assert!(!listed.contains("dscp-46"), "{listed}");
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());

        // Who starts anew finds it as it should be.
        drop(dataplane);
        let dataplane = open().await;
        let updates = vec![
            open_profile(),
            pools(true),
            settings(&here, &[]),
            Update::Endpoint(endpoint(&pod, &[], &[])),
            Update::Endpoint(endpoint(&other, &[], &[])),
            Update::Markings(both(8)),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        assert_eq!(leave(&pod_at), [8 << 2 | ECN; 2]);
        // With the last one everything about them goes.
        apply(&dataplane, vec![Update::Markings(Vec::new())]).await;
        assert_eq!(leave(&pod_at), [ECN; 2]);
        let listed = nft(&["list", "table", "inet", "calico"]);
        assert!(!listed.contains("dscp") && !listed.contains("mangle"), "{listed}");
    });
}
