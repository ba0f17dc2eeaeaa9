//! Whoever pretends to be of a connection does not get into it, nor its answers.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::*;

const PORT: u16 = 82;

/// Sends datagrams with any source.
struct Forger(OwnedFd);

impl Forger {
    fn new(host: &Host) -> Self {
        let raw = || {
            let protocol = Some(SockProtocol::Raw);
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), protocol).unwrap()
        };
        Self(host.run(raw))
    }

    /// Sends one as if from there; the kernel fills in length and checksum of the header (raw(7)).
    fn send(&self, from: IpAddr, to: IpAddr) {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("not IPv4") };
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(from.octets());
        packet.extend(to.octets());
        let data = b"forged";
        let length = u16::try_from(8 + data.len()).unwrap();
        for field in [PORT, PORT, length, 0] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(data);
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, PORT));
        sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    }
}

impl Datagrams {
    /// Whether a forged datagram is there.
    fn server_was_fooled(&self) -> bool {
        let mut buffer = [0; 16];
        while let Ok(len) = self.server.recv(&mut buffer) {
            if buffer[..len] == *b"forged" {
                return true;
            }
        }
        false
    }
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn forged_packets_of_another_workload_find_no_flow_and_make_none() {
    in_new_netns(async || {
        forward();
        let (server, client, forger) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open().await;
        let mut updates = vec![open_profile(), Update::InSync];
        updates
            .extend([&server, &client, &forger].map(|p| Update::Endpoint(endpoint(p, &[], &[]))));
        apply(&dataplane, updates).await;
        watch();
        let mut talk = Datagrams::new(&client.host, client.v4, &server.host, server.v4, PORT);
        assert!(seen(&mut talk).await >= 8);
        let by_forger = Forger::new(&forger.host);
        // Both ways of the connection, before anything is offloaded and after.
        for offloaded in [false, true] {
            dataplane.offload_flows(offload()).await;
            if offloaded {
                until_offloaded(&mut talk, true).await;
            }
            for _ in 0..3 {
                by_forger.send(client.v4, server.v4);
                by_forger.send(server.v4, client.v4);
            }
            assert!(!talk.server_was_fooled(), "offloaded: {offloaded}");
            assert!(talk.goes(true), "the answers went elsewhere");
        }
        until_offloaded(&mut talk, true).await;
        // The client itself sends such a packet with success.
        Forger::new(&client.host).send(client.v4, server.v4);
        assert!(talk.server_was_fooled());
    });
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn forged_packets_from_outside_do_not_lead_answers_there() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let outside = Host::new();
        outside.cable("up0", "eth0");
        ip("addr add 192.0.2.1/24 dev up0");
        ip("route add default via 192.0.2.2");
        outside.ip("addr add 192.0.2.2/24 dev eth0");
        outside.ip("route add 10.65.0.0/16 via 192.0.2.1");
        // Loose routers do not look at the source.
        for name in ["all", "up0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        }
        let dataplane = open().await;
        let mut updates = vec![open_profile(), Update::InSync];
        updates.extend([&server, &client].map(|pod| Update::Endpoint(endpoint(pod, &[], &[]))));
        apply(&dataplane, updates).await;
        watch();
        let mut talk = Datagrams::new(&client.host, client.v4, &server.host, server.v4, PORT);
        assert!(seen(&mut talk).await >= 8);
        let by_forger = Forger::new(&outside);
        dataplane.offload_flows(offload()).await;
        assert_eq!(dataplane.flow_status().await.devices, 3);
        // The first packet that could make a flow is the forged one; what belongs to a connection
        // comes through from the fabric, as ever.
        by_forger.send(client.v4, server.v4);
        assert!(talk.server_was_fooled(), "this test shows nothing");
        until_offloaded(&mut talk, true).await;
    });
}
