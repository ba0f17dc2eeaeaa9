//! A table that nobody but its owner can change.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::Settings;
use super::lab::{forward, nft};
use super::*;

fn others_may(arguments: &[&str]) -> bool {
    let mut command = Command::new("nft");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("nft is needed as oracle: apt-get install nftables").success()
}

async fn open_owning() -> LinuxDataplane {
    LinuxDataplane::open_owning(Arc::new(NoRoutes), Settings::default()).await.unwrap()
}

#[test]
fn an_owned_table_survives_other_programs_and_its_owner() {
    in_new_netns(async || {
        forward();
        let dataplane = open_owning().await;
        if others_may(&["add", "chain", "inet", "calico", "meddling"]) {
            println!("this kernel does not know tables that are owned and persist");
            return;
        }
        let (server, client) = (Pod::new(1), Pod::new(2));
        apply(&dataplane, everything(&server, &client)).await;
        let passes = |port| {
            let receiver = server.host.udp(server.v4, port);
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, port)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(passes(7) && !passes(6));
        nft(&["flush", "ruleset"]);
        assert!(!others_may(&["delete", "table", "inet", "calico"]));
        assert!(passes(8) && !passes(6), "nothing changed for a moment");

        // Between two runs everything stays in force; the next one owns it again.
        drop(dataplane);
        let mut orphaned = false;
        for _ in 0..2000 {
            // Its tasks end, and with them its socket, when the runtime comes to them.
            tokio::time::sleep(Duration::from_millis(10)).await;
            orphaned = others_may(&["add", "chain", "inet", "calico", "meanwhile"]);
            if orphaned {
                break;
            }
        }
        assert!(orphaned, "still owned after twenty seconds");
        assert!(passes(7) && !passes(6));
        let dataplane = open_owning().await;
        assert!(passes(9) && !passes(6));
        assert!(!others_may(&["delete", "table", "inet", "calico"]));
        apply(&dataplane, everything(&server, &client)).await;
        assert!(passes(70) && !passes(6));
        dataplane.remove_all().await.unwrap();
        assert_eq!(table().await, None);
    });
}

/// A client that opens a connection and speaks on it now and then.
pub(super) struct Talk(TcpStream, TcpStream);

impl Talk {
    pub(super) fn begin(client: &Pod, server: &Pod) -> Self {
        let listener = server.host.listen(server.v4, 80);
        let to = SocketAddr::new(server.v4, 80);
        let patience = Duration::from_secs(20);
        let one = client.host.run(|| TcpStream::connect_timeout(&to, patience)).unwrap();
        let (other, _) = listener.accept().unwrap();
        other.set_read_timeout(Some(patience)).unwrap();
        Self(one, other)
    }

    pub(super) fn goes_on(&mut self) -> bool {
        self.0.write_all(b"x").is_ok() && self.1.read_exact(&mut [0; 1]).is_ok()
    }
}

/// `cargo xtask vm` runs it on a kernel that knows no such owners, too.
#[test]
fn who_wants_to_own_the_table_of_an_earlier_run_closes_nobody() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        let open = ingress_policy("udp", &[(Action::Allow, &|_| {})]);
        let all = || {
            let mut all = everything(&server, &client);
            all[2] = open.clone();
            all
        };
        apply(&dataplane, all()).await;
        let receiver = server.host.udp(server.v4, 7);
        let passes = || {
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, 7)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(passes());
        drop(dataplane);
        for _ in 0..2 {
            let dataplane = open_owning().await;
            assert!(passes(), "what an earlier run left is in force until all is known");
            assert_eq!(apply(&dataplane, all()).await.failed, []);
            assert!(passes());
            assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        }
    });
}

#[test]
fn a_table_that_anybody_may_change_is_replaced_by_an_owned_one_without_a_gap() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let all = || {
            let mut all = everything(&server, &client);
            let open: [RuleSpec<'_>; 2] = [
                (Action::Deny, &|rule| {
                    rule.protocol = Some(17);
                    rule.destination.ports = ports(6, 6);
                }),
                (Action::Allow, &|_| {}),
            ];
            all[2] = ingress_policy("udp", &open);
            all
        };
        let dataplane = open().await;
        apply(&dataplane, all()).await;
        let passes = |port| {
            let receiver = server.host.udp(server.v4, port);
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, port)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(passes(7) && !passes(6));
        let mut talk = Talk::begin(&client, &server);
        assert!(talk.goes_on());
        let counted = async |dataplane: &LinuxDataplane| {
            let counters = dataplane.rule_counters().await.unwrap();
            let denied =
                counters.iter().find(|counter| counter.identity.ends_with("ingress rule 0"));
            denied.map_or(0, |counter| counter.packets)
        };
        assert_eq!(counted(&dataplane).await, 1);
        drop(dataplane);

        // Packets that policy denies, as fast as they can be sent, while the table is replaced.
        let denied = server.host.udp(server.v4, 6);
        let flood = Flood::start(client.host.udp(client.v4, 0), (server.v4, 6).into());
        let dataplane = open_owning().await;
        let ours = !others_may(&["add", "chain", "inet", "calico", "meddling"]);
        assert!(!ours, "nothing is replaced before all is known");
        apply(&dataplane, all()).await;
        let owned = !others_may(&["add", "chain", "inet", "calico", "meddling"]);
        assert!(flood.end() > 0);
        assert!(denied.recv_from(&mut [0; 8]).is_err(), "a packet that policy denies has passed");
        assert!(talk.goes_on(), "a connection was cut");
        drop(denied);
        assert!(passes(7) && !passes(6));
        assert!(counted(&dataplane).await > 1, "counts go on");
        if !owned {
            println!("this kernel does not know tables that are owned and persist");
            return;
        }
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        // Not an owner twice: the other one is told.
        let second = LinuxDataplane::open_owning(Arc::new(NoRoutes), Settings::default()).await;
        let error = second.unwrap_err().to_string();
        assert!(error.contains("another agent"), "{error}");
        drop(dataplane);

        // Who does not want to own it takes it as it is, and repairs what others change.
        let mut repaired = None;
        for _ in 0..2000 {
            if others_may(&["add", "rule", "inet", "calico", "cali-tracked", "drop"]) {
                repaired = Some(());
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(repaired.is_some(), "still owned after twenty seconds");
        let dataplane = open().await;
        apply(&dataplane, all()).await;
        assert!(passes(7) && !passes(6) && talk.goes_on());
        assert!(others_may(&["add", "chain", "inet", "calico", "meddling"]));
    });
}

/// A thread that sends until it is told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Flood {
    fn start(socket: UdpSocket, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !told.load(Ordering::Relaxed) {
                // A full queue is no matter.
                let _refused = socket.send_to(b"x", to);
                sent += 1;
            }
            sent
        });
        Self { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
