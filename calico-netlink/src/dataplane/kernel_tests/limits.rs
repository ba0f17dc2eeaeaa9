//! Limits of packets, connections and bandwidth, by real packets.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use calico_core::dataplane::{Bandwidth, Limits, PacketRate};

use super::lab::{forward, ip, nft};
use super::*;
use crate::dataplane::check_limits;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn limited(pod: &Pod, limits: Limits) -> Update {
    Update::Endpoint(WorkloadEndpoint { limits, ..endpoint(pod, &[], &[]) })
}

async fn lab(limits: Limits) -> (LinuxDataplane, Pod, Pod) {
    forward();
    let (server, client) = (Pod::new(1), Pod::new(2));
    let dataplane = open().await;
    let updates = vec![
        open_profile(),
        limited(&server, limits),
        limited(&client, Limits::default()),
        Update::InSync,
    ];
    let applied = apply(&dataplane, updates).await;
    assert_eq!(applied.failed, []);
    (dataplane, server, client)
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends datagrams as fast as it can; returns how many arrive, `least` or more if given time, and
/// how long it took until the last one.
fn flood(server: &Pod, client: &Pod, packets: u32, least: u32) -> (u32, Duration) {
    flood_of(server, client, packets, least, false)
}

/// The same within a connection, if `established`: the server has answered before.
fn flood_of(
    server: &Pod,
    client: &Pod,
    packets: u32,
    least: u32,
    established: bool,
) -> (u32, Duration) {
    let receiver = server.host.udp(server.v4, 7);
    let sender = client.host.udp(client.v4, 0);
    if established {
        sender.send_to(b"x", (server.v4, 7)).unwrap();
        let (_, from) = receiver.recv_from(&mut [0; 8]).unwrap();
        receiver.send_to(b"x", from).unwrap();
        sender.recv(&mut [0; 8]).unwrap();
    }
    let started = Instant::now();
    for _ in 0..packets {
        sender.send_to(b"x", (server.v4, 7)).unwrap();
    }
    let (mut arrived, mut took) = (0, started.elapsed());
    loop {
        if receiver.recv(&mut [0; 8]).is_ok() {
            arrived += 1;
            took = started.elapsed();
        } else if arrived >= least || started.elapsed() > SOON {
            return (arrived, took);
        }
    }
}

/// Ten a second, and twenty at once, of which one may have gone before.
fn assert_limited((arrived, took): (u32, Duration)) {
    let most = 21 + 10 * (u32::try_from(took.as_secs()).unwrap() + 1);
    assert!((19..=most).contains(&arrived), "{arrived} arrived of 100 in {took:?}");
}

#[test]
fn packets_beyond_the_rate_are_dropped_until_the_limit_goes() {
    in_new_netns(async || {
        let mut limits = Limits::default();
        limits.ingress.packets = Some(PacketRate { per_second: 10, burst: 20 });
        let (dataplane, server, client) = lab(limits).await;
        assert_limited(flood(&server, &client, 100, 20));
        // The other way there is no limit.
        assert_eq!(flood(&client, &server, 100, 100).0, 100);

        limits.ingress.packets = None;
        limits.egress.packets = Some(PacketRate { per_second: 10, burst: 20 });
        apply(&dataplane, vec![limited(&server, limits)]).await;
        assert_eq!(flood(&server, &client, 100, 100).0, 100);
        assert_limited(flood(&client, &server, 100, 20));

        // Whoever looks at the kernel sees what is in force, whatever it counted.
        let seen = async |limits: Limits| check_limits(&server.interface, &limits).await.unwrap();
        assert_eq!(seen(limits).await, None);
        let mut other = limits;
        other.egress.packets = Some(PacketRate { per_second: 11, burst: 20 });
        other.ingress.connections = Some(1);
        let missing = seen(other).await.unwrap();
        assert!(missing.contains("the limit of connections ingress"), "{missing}");
        other.ingress.connections = None;
        assert!(seen(other).await.unwrap().contains("the limit of packet rate egress"));

        apply(&dataplane, vec![limited(&server, Limits::default())]).await;
        assert_eq!(flood(&client, &server, 100, 100).0, 100);
        assert!(seen(limits).await.is_some());
        let text = nft(&["list", "table", "inet", "calico"]);
        assert!(!text.contains("limit rate"), "{text}");
    });
}

fn connect(client: &Pod, server: &Pod) -> std::io::Result<TcpStream> {
    let target = SocketAddr::new(server.v4, 80);
    client.host.run(|| TcpStream::connect_timeout(&target, SOON))
}

#[test]
fn packets_of_established_connections_are_limited_wherever_they_come_from() {
    in_new_netns(async || {
        let limits = |ingress: bool| {
            let mut limits = Limits::default();
            let of = if ingress { &mut limits.ingress } else { &mut limits.egress };
            of.packets = Some(PacketRate { per_second: 10, burst: 20 });
            limits
        };
        let (dataplane, server, client) = lab(limits(true)).await;
        assert_limited(flood_of(&server, &client, 100, 19, true));
        assert_eq!(flood_of(&client, &server, 100, 100, true).0, 100);
        apply(&dataplane, vec![limited(&server, limits(false))]).await;
        assert_eq!(flood_of(&server, &client, 100, 100, true).0, 100);
        assert_limited(flood_of(&client, &server, 100, 19, true));
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&server))]).await;
        let text = nft(&["list", "table", "inet", "calico"]);
        assert!(!text.contains("@limited-to"), "{text}");
    });
}

#[test]
fn connections_beyond_the_number_are_reset_whatever_happens_to_policy() {
    in_new_netns(async || {
        let mut limits = Limits::default();
        limits.ingress.connections = Some(2);
        let (dataplane, server, client) = lab(limits).await;
        let listener = server.host.listen(server.v4, 80);
        let open: Vec<TcpStream> = (0..2).map(|_| connect(&client, &server).unwrap()).collect();
        let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        assert!(refused(connect(&client, &server).unwrap_err()));
        // Other rules for the same endpoint do not forget what was counted.
        let policy = ingress_policy("any", &[(Action::Allow, &|_| {})]);
        let update =
            Update::Endpoint(WorkloadEndpoint { limits, ..endpoint(&server, &["any"], &[]) });
        apply(&dataplane, vec![policy, update]).await;
        assert!(refused(connect(&client, &server).unwrap_err()));
        // Nor does an agent that starts anew.
        drop(dataplane);
        let dataplane = open_again(&server, &client, limits).await;
        assert!(refused(connect(&client, &server).unwrap_err()));

        // One that ends makes room.
        drop(open);
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        }
        eventually("room for one more", || connect(&client, &server).is_ok()).await;
        apply(&dataplane, vec![limited(&server, Limits::default())]).await;
        let many: Vec<_> = (0..5).map(|_| connect(&client, &server)).collect();
        assert!(many.iter().all(Result::is_ok), "{many:?}");
    });
}

async fn open_again(server: &Pod, client: &Pod, limits: Limits) -> LinuxDataplane {
    let dataplane = open().await;
    let updates = vec![
        open_profile(),
        ingress_policy("any", &[(Action::Allow, &|_| {})]),
        Update::Endpoint(WorkloadEndpoint { limits, ..endpoint(server, &["any"], &[]) }),
        limited(client, Limits::default()),
        Update::InSync,
    ];
    assert_eq!(apply(&dataplane, updates).await.failed, []);
    dataplane
}

#[test]
fn bandwidths_follow_endpoints_and_interfaces() {
    in_new_netns(async || {
        let bandwidth =
            |rate| Some(Bandwidth { rate, burst: 1 << 20, peak_rate: 0, peak_burst: 0 });
        let mut limits = Limits::default();
        limits.ingress.bandwidth = bandwidth(10_000_000);
        limits.egress.bandwidth = bandwidth(20_000_000);
        let (dataplane, server, client) = lab(limits).await;
        let tc = || {
            let output = std::process::Command::new("tc").args(["qdisc", "show"]).output();
            String::from_utf8(output.expect("tc is needed: apt-get install iproute2").stdout)
                .unwrap()
        };
        let shaped = |ingress: &str, egress: &str| {
            let text = tc();
            text.contains(&format!("dev {} root", server.interface))
                && text.contains(&format!("rate {ingress}"))
                && text.contains(&format!("rate {egress}"))
        };
        eventually("limits", || shaped("10Mbit", "20Mbit")).await;
        limits.ingress.bandwidth = bandwidth(30_000_000);
        apply(&dataplane, vec![limited(&server, limits)]).await;
        eventually("other limits", || shaped("30Mbit", "20Mbit")).await;

        // The interface is made anew.
        ip(&format!("link del {}", server.interface));
        eventually("no device without interface", || !ip("-o link").contains("bwcali")).await;
        server.host.cable(&server.interface, "eth0");
        eventually("limits once more", || shaped("30Mbit", "20Mbit")).await;
        drop(dataplane);
        assert!(shaped("30Mbit", "20Mbit"), "they outlive the agent");

        // Another one knows the endpoint without limits; the device of one that is gone goes, too.
        ip(&format!("link add {} type ifb", crate::qos::ifb_name("cali-gone")));
        let dataplane = open().await;
        let updates = vec![open_profile(), limited(&server, Limits::default()), Update::InSync];
        apply(&dataplane, updates).await;
        eventually("no limits", || !tc().contains("tbf") && !ip("-o link").contains("bwcali"))
            .await;
        apply(&dataplane, vec![limited(&server, limits)]).await;
        eventually("limits", || shaped("30Mbit", "20Mbit")).await;
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&server))]).await;
        eventually("no limits", || !tc().contains("tbf") && !ip("-o link").contains("bwcali"))
            .await;
        drop((dataplane, client));
    });
}
