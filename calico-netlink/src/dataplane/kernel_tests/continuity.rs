//! Traffic that policy allows goes on, and what it forbids stays out, while things change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use calico_core::dataplane::VerdictCause;

use super::lab::{PATIENCE, forward, nft};
use super::*;

#[test]
fn a_restart_changes_nothing_and_loses_no_new_flow() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Arc::new(Pod::new(2)));
        let mut dataplane = open().await;
        apply(&dataplane, everything(&server, &client)).await;
        let before = table().await;
        let handles = || nft(&["-s", "-a", "list", "table", "inet", "calico"]);
        let handles_before = handles();
        let stop = Arc::new(AtomicBool::new(false));
        // Whoever answers must outlast whoever asks.
        let answered = Arc::new(AtomicBool::new(false));
        let echo = echo(&server, &answered);
        let traffic = traffic(&client, &server, &stop, PATIENCE);
        for _ in 0..10 {
            drop(dataplane);
            dataplane = open().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            apply(&dataplane, everything(&server, &client)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, received) = traffic.join().unwrap();
        answered.store(true, Ordering::Relaxed);
        echo.join().unwrap();
        assert!(sent > 100, "{sent} datagrams are too few to show anything");
        assert_eq!(sent, received);
        assert_eq!(table().await, before);
        // Handles would differ had anything been made anew, and counters be lost.
        assert_eq!(handles(), handles_before);
        println!("{sent} flows over 10 restarts, none lost");
    });
}

#[test]
fn no_packet_meets_half_of_a_change() {
    in_new_netns(async || {
        forward();
        let server = Pod::new(1);
        let (friend, foe) = (Arc::new(Pod::new(2)), Arc::new(Pod::new(3)));
        let dataplane = open().await;
        let stop = Arc::new(AtomicBool::new(false));
        // Two ways to say the same, which share nothing: other sets, other policies, and a deny
        // that must never be without the allow before it, nor the other way round.
        let by_set = vec![
            address_set("s:friends", &[&friend]),
            ingress_policy(
                "by-set",
                &[(Action::Allow, &|rule| {
                    rule.source.sets = in_set("s:friends");
                })],
            ),
            Update::Endpoint(endpoint(&server, &["by-set"], &[])),
            Update::RulesRemoved(RuleOwner::Policy(policy("by-net"))),
            Update::SetRemoved("s:foes".into()),
        ];
        let by_net = vec![
            address_set("s:foes", &[&foe]),
            ingress_policy(
                "by-net",
                &[
                    (Action::Deny, &|rule| rule.source.sets = in_set("s:foes")),
                    (Action::Allow, &|_| {}),
                ],
            ),
            Update::Endpoint(endpoint(&server, &["by-net"], &[])),
            Update::RulesRemoved(RuleOwner::Policy(policy("by-set"))),
            Update::SetRemoved("s:friends".into()),
        ];
        let start = vec![
            open_profile(),
            Update::Endpoint(endpoint(&friend, &[], &[])),
            Update::Endpoint(endpoint(&foe, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, [by_set.clone(), start].concat()).await;
        let answered = Arc::new(AtomicBool::new(false));
        let echo = echo(&server, &answered);
        let friendly = traffic(&friend, &server, &stop, PATIENCE);
        let hostile = flood(&foe, &server, &stop);
        for _ in 0..200 {
            apply(&dataplane, by_net.clone()).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            apply(&dataplane, by_set.clone()).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, received) = friendly.join().unwrap();
        let forbidden = hostile.join().unwrap();
        answered.store(true, Ordering::Relaxed);
        println!(
            "over 400 changes, {received} of {sent} allowed flows passed; {forbidden} forbidden"
        );
        assert!(sent > 100 && forbidden > 100, "{sent} and {forbidden} show nothing");
        assert_eq!(sent, received);
        assert_eq!(echo.join().unwrap(), BTreeSet::from([friend.v4]));
    });
}

/// New flows from `from` to port 9 of `to`, each of its own socket, until told to stop. Returns
/// how many were sent and how many arrived.
fn traffic(
    from: &Arc<Pod>,
    to: &Pod,
    stop: &Arc<AtomicBool>,
    patience: Duration,
) -> std::thread::JoinHandle<(usize, usize)> {
    let (from, stop, address) = (from.clone(), stop.clone(), to.v4);
    std::thread::spawn(move || {
        let (mut sent, mut received) = (0, 0);
        while !stop.load(Ordering::Relaxed) && sent < 100_000 {
            let sender = from.host.udp(from.v4, 0);
            sender.set_read_timeout(Some(patience)).unwrap();
            sender.send_to(b"x", (address, 9)).unwrap();
            sent += 1;
            received += usize::from(sender.recv_from(&mut [0; 8]).is_ok());
        }
        (sent, received)
    })
}

/// New flows as [`traffic`], but nobody waits for answers. Returns how many.
fn flood(from: &Arc<Pod>, to: &Pod, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (from, stop, address) = (from.clone(), stop.clone(), to.v4);
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && sent < 10_000_000 {
            from.host.udp(from.v4, 0).send_to(b"x", (address, 9)).unwrap();
            sent += 1;
        }
        sent
    })
}

/// Answers every datagram to port 9 of a pod. Returns who sent some.
fn echo(pod: &Pod, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<BTreeSet<IpAddr>> {
    let (socket, stop) = (pod.host.udp(pod.v4, 9), stop.clone());
    std::thread::spawn(move || {
        let mut senders = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut [0; 8]) {
                senders.insert(from.ip());
                socket.send_to(&b"xxxxxxxx"[..len], from).unwrap();
            }
        }
        senders
    })
}

/// Connection tracking knows no interfaces: without a look at the source first, a forged packet
/// would pass for a part of the connection.
#[test]
fn nobody_joins_a_connection_of_another_by_forging_its_source() {
    in_new_netns(async || {
        forward();
        let (server, client, intruder) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let mut updates = vec![open_profile()];
        updates
            .extend([&server, &client, &intruder].map(|p| Update::Endpoint(endpoint(p, &[], &[]))));
        updates.push(Update::InSync);
        apply(&dataplane, updates).await;
        for (to, from) in [(server.v4, client.v4), (server.v6, client.v6)] {
            let listener = server.host.udp(to, 8);
            let talker = client.host.udp(from, 9);
            let mut buffer = [0; 8];
            let mut heard =
                || listener.recv_from(&mut buffer).map(|(len, _)| buffer[..len].to_vec());
            talker.send_to(b"hello", (to, 8)).unwrap();
            assert_eq!(heard().unwrap(), b"hello");
            listener.send_to(b"and you", (from, 9)).unwrap();
            talker.recv_from(&mut [0; 8]).unwrap();
            let suffix = if from.is_ipv4() { "/32" } else { "/128" };
            let nodad = if from.is_ipv4() { "" } else { " nodad" };
            intruder.host.ip(&format!("addr add {from}{suffix} dev eth0{nodad}"));
            let forger = intruder.host.udp(from, 9);
            forger.send_to(b"me too", (to, 8)).unwrap();
            let event = next(&mut verdicts).await;
            assert_eq!(event.cause, VerdictCause::Spoofed, "{event:?}");
            assert_eq!(&*event.interface, "cali3");
            assert!(heard().is_err(), "the forged packet arrived");
            talker.send_to(b"still", (to, 8)).unwrap();
            assert_eq!(heard().unwrap(), b"still");
        }
    });
}
