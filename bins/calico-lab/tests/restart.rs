//! Agents are killed in a loop: no packet of established traffic is lost, no route goes, policy
//! stays in force, and pods come and go as before.
//!
//! `CALICO_KILLS` says how many kills there are, instead of a few: `cargo xtask kills`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use calico_lab::{Lab, netns};
use common::continuity::{Monitor, interrupt};
use common::traffic::{SILENCE, assert_reaches, assert_routes, tcp, until_tcp};
use common::{assert_gone, lab_name, topology, turn};

/// How many agents are killed, unless `CALICO_KILLS` says otherwise.
const KILLS: usize = 6;

/// Where the connection goes that outlives all kills.
const ECHO: u16 = 9000;

const ONE_PORT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - { action: Allow, protocol: TCP, destination: { ports: [80, 9000] } }
  - { action: Allow, protocol: ICMP }
";

#[tokio::test]
async fn killed_agents_cost_no_packet_and_no_route() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("restart");
    let (topology, text) = topology("mesh.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();
    lab.apply_text(ONE_PORT).await.unwrap();
    let web = lab.pod("web").unwrap().address(false).unwrap();
    until_tcp(&lab, "client", (web, 8080).into(), false).await;

    let kills = std::env::var("CALICO_KILLS").ok().map(|text| text.parse().expect("a number"));
    let rounds = kills.unwrap_or(KILLS).div_ceil(2);
    let connection = Connection::open(&lab, "client", "web", (web, ECHO).into());
    let intruder = Intruder::start(&lab, "client", (web, 8080).into());
    let pings = Pings::start(&lab, "client", &web.to_string());
    let monitors: Vec<Monitor> =
        ["node1", "node2"].map(|node| Monitor::start(&lab, node)).into_iter().collect();
    for _ in 0..rounds {
        for node in ["node1", "node2"] {
            lab.crash_agent(node).unwrap();
            // The first moments after a start are when state could be lost.
            for _ in 0..5 {
                assert!(!tcp(&lab, "client", (web, 8080).into(), SILENCE / 4).await.is_answered());
            }
            lab.wait_for_sessions().await.unwrap();
        }
    }
    lab.wait_for_routes().await.unwrap();
    let (tried, entered) = intruder.stop();
    assert!(tried > 5 && entered == 0, "{entered} of {tried} forbidden connections");
    let echoes = connection.stop();
    println!("{} kills: {tried} forbidden connections dropped, {echoes} echoes", 2 * rounds);
    assert!(echoes > 20, "{echoes} echoes only");
    let (sent, received) = pings.stop();
    assert!(sent > 100, "{sent} packets only");
    assert_eq!(sent, received, "packets were lost");
    for monitor in monitors {
        let gone = monitor.stop();
        assert!(gone.is_empty(), "routes went: {gone:?}");
    }

    assert_routes(&lab, false);
    assert_routes(&lab, true);
    assert_reaches(&lab, "web", "near").await;
    lab.delete_pod("default/near").await.unwrap();
    lab.remove().unwrap();
    assert_gone(&name);
}

/// A connection that was allowed at its start, with a byte to and fro all the time.
struct Connection {
    stop: Arc<AtomicBool>,
    client: JoinHandle<u64>,
}

impl Connection {
    fn open(lab: &Lab, from: &str, to: &str, address: SocketAddr) -> Self {
        let namespace = |pod: &str| lab.pod(pod).unwrap().namespace().to_owned();
        let listener =
            netns::enter(&namespace(to), || TcpListener::bind(address)).unwrap().unwrap();
        let limit = Duration::from_secs(20);
        let connect = || TcpStream::connect_timeout(&address, limit);
        let client = netns::enter(&namespace(from), connect).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(limit)).unwrap();
        }
        std::thread::spawn(move || std::io::copy(&mut &server, &mut &server));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = std::thread::spawn(move || {
            let (mut echoes, mut client) = (0, client);
            while !stopped.load(Ordering::Relaxed) {
                client.write_all(b"x").expect("the connection stays");
                client.read_exact(&mut [0]).expect("the echo comes");
                echoes += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            echoes
        });
        Self { stop, client }
    }

    /// How often the byte came back.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

/// Tries what policy forbids, all the time.
struct Intruder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Intruder {
    fn start(lab: &Lab, from: &str, to: SocketAddr) -> Self {
        let namespace = lab.pod(from).unwrap().namespace().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut tried, mut entered) = (0, 0);
            netns::enter(&namespace, || {
                while !stopped.load(Ordering::Relaxed) {
                    let limit = Duration::from_millis(50);
                    entered += u64::from(TcpStream::connect_timeout(&to, limit).is_ok());
                    tried += 1;
                }
            })
            .unwrap();
            (tried, entered)
        });
        Self { stop, thread }
    }

    /// How often it tried, and how often it was let in.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A hundred pings a second.
struct Pings(Child);

impl Pings {
    fn start(lab: &Lab, from: &str, to: &str) -> Self {
        let namespace = lab.pod(from).unwrap().namespace().to_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "ping", "-n", "-q", "-i", "0.01", to]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Packets sent and received.
    fn stop(self) -> (u64, u64) {
        // The last one may be on its way: ping is told to end, and waits for nothing.
        std::thread::sleep(Duration::from_millis(50));
        let text = interrupt(self.0);
        let summary = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let number = |index: usize| {
            let part = summary.split(", ").nth(index).unwrap();
            part.split_whitespace().next().unwrap().parse().unwrap()
        };
        (number(0), number(1))
    }
}
