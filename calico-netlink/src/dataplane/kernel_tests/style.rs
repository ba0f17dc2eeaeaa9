//! Which bits of marks are ours, and what becomes of packets that policy denies.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};

use calico_core::dataplane::{DenyAction, HostEndpoint, HostInterface, HostSettings};

use super::lab::{forward, nft};
use super::*;

fn listed() -> String {
    nft(&["list", "table", "inet", "calico"])
}

#[test]
fn marks_are_bits_of_the_mask_and_change_at_once() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let (server, client) = (Pod::new(1), Pod::new(2));
        // Tiers that pass, two of them, so that every bit has its say.
        let rules: [RuleSpec<'_>; 3] = [
            (Action::Log, &|rule| {
                rule.source.port_sets = in_set("n:x");
                rule.source.ports = ports(1, 65535);
            }),
            (Action::Pass, &|rule| {
                rule.protocol = Some(17);
                rule.destination.ports = ports(7, 7);
            }),
            (Action::Deny, &|_| {}),
        ];
        let mut of_server = endpoint(&server, &["first"], &[]);
        let mut second = of_server.tiers[0].clone();
        (second.tier, second.ingress) = ("second".into(), vec![policy("udp")]);
        of_server.tiers.push(second);
        let mut updates = everything(&server, &client);
        updates.insert(
            0,
            Update::Set { id: "n:x".into(), kind: SetKind::AddressPort, members: vec![] },
        );
        updates.insert(1, ingress_policy("first", &rules));
        updates.push(Update::Endpoint(of_server));
        let host = HostEndpoint {
            name: "all".into(),
            interface: HostInterface::All,
            local: Vec::new(),
            forward: Vec::new(),
            pre_dnat: Vec::new(),
            untracked: Vec::new(),
            profiles: vec!["open".into()],
        };
        updates.push(Update::HostEndpoint(host));
        assert_eq!(apply(&dataplane, updates).await.failed, []);
        let passes = |port| {
            let receiver = server.host.udp(server.v4, port);
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, port)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        let open_connection = server.host.udp(server.v4, 7);
        let sender = client.host.udp(client.v4, 0);
        sender.send_to(b"x", (server.v4, 7)).unwrap();
        assert!(open_connection.recv_from(&mut [0; 8]).is_ok());
        assert!(!passes(8));
        let bits = |text: &str| {
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            let marks = words.filter_map(|word| word.strip_prefix("0x"));
            let of = |digits| u32::from_str_radix(digits, 16).unwrap();
            // What `nft` shows of a change is the mask of what stays, or the bit that is set.
            let bits = marks.map(of).map(|bits| if bits >> 24 == 0xff { !bits } else { bits });
            bits.fold(0, |all, bits| all | bits)
        };
        assert_eq!(bits(&listed()), 0x001f_0000);

        let mask = |mark_mask| Update::Host(HostSettings { mark_mask, ..HostSettings::default() });
        apply(&dataplane, vec![mask(0x001f_1000)]).await;
        assert_eq!(bits(&listed()), 0x000f_1000, "the lowest five");
        drop(open_connection);
        assert!(passes(7) && !passes(8));

        // A connection that policy comes to deny is cut by the bit of now, and goes on later.
        let receiver = server.host.udp(server.v4, 7);
        sender.send_to(b"x", (server.v4, 7)).unwrap();
        assert!(receiver.recv_from(&mut [0; 8]).is_ok());
        let deny: [RuleSpec<'_>; 1] = [(Action::Deny, &|_| {})];
        apply(&dataplane, vec![ingress_policy("first", &deny)]).await;
        let marked = async |bit: u32| {
            for _ in 0..2000 {
                let connections = Socket::open().unwrap().connections().await.unwrap();
                if connections.iter().any(|connection| connection.mark & bit != 0) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        };
        assert!(marked(0x0008_0000).await, "no connection was cut");
        sender.send_to(b"x", (server.v4, 7)).unwrap();
        assert!(receiver.recv_from(&mut [0; 8]).is_err());
        // And by the next one's.
        apply(&dataplane, vec![mask(0x0000_001f)]).await;
        assert!(marked(0x10).await, "no connection was cut");
        // No rule reports and goes on now, which the third bit is for.
        assert_eq!(bits(&listed()), 0x1b);
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
    });
}

#[test]
fn what_is_denied_is_refused_if_the_settings_say_so() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let (server, client) = (Pod::new(1), Pod::new(2));
        apply(&dataplane, everything(&server, &client)).await;
        let connect = |to: IpAddr, patience| {
            let to = SocketAddr::new(to, 80);
            let error = client.host.run(|| TcpStream::connect_timeout(&to, patience)).unwrap_err();
            error.kind()
        };
        assert_eq!(connect(server.v4, lab::PATIENCE), ErrorKind::TimedOut, "dropped");
        let reject =
            || Update::Host(HostSettings { deny: DenyAction::Reject, ..HostSettings::default() });
        apply(&dataplane, vec![reject()]).await;
        // The end of a tier, a rule, and that no profile allows it.
        let refused = || {
            for to in [server.v4, server.v6] {
                assert_eq!(connect(to, Duration::from_secs(20)), ErrorKind::ConnectionRefused);
            }
        };
        refused();
        let deny: [RuleSpec<'_>; 1] = [(Action::Deny, &|_| {})];
        apply(&dataplane, vec![ingress_policy("udp", &deny)]).await;
        refused();
        let closed = WorkloadEndpoint {
            tiers: Vec::new(),
            profiles: Vec::new(),
            ..endpoint(&server, &[], &[])
        };
        apply(&dataplane, vec![Update::Endpoint(closed)]).await;
        refused();
        let counters = dataplane.rule_counters().await.unwrap();
        assert!(counters.iter().any(|c| c.identity.starts_with("no profile") && c.packets >= 2));

        // Host endpoints drop, and policies that they share with workloads, too.
        let tiers = endpoint(&server, &["udp"], &["udp"]).tiers;
        let host = HostEndpoint {
            name: "all".into(),
            interface: HostInterface::All,
            local: tiers,
            forward: Vec::new(),
            pre_dnat: Vec::new(),
            untracked: Vec::new(),
            profiles: Vec::new(),
        };
        let judged = Update::Endpoint(endpoint(&server, &["udp"], &[]));
        let applied = apply(&dataplane, vec![Update::HostEndpoint(host), judged]).await;
        assert_eq!(applied.failed, []);
        assert_eq!(connect(server.v4, lab::PATIENCE), ErrorKind::TimedOut);
        apply(&dataplane, vec![Update::HostEndpointRemoved("all".into())]).await;
        refused();
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
    });
}
