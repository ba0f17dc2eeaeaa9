//! A node and its pods, each in a network namespace of its own, with real packets between them.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// A packet between two namespaces of one kernel takes microseconds. One not there by then was
/// dropped, however busy the machine is. Less than the second after which a SYN is sent again: counts
/// of rules would differ.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

/// A namespace that lives as long as its process.
#[derive(Debug)]
pub(super) struct Host {
    process: Child,
}

/// A pod: its namespace, and the host's side of its interface.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) host: Host,
    pub(super) interface: String,
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
}

impl Host {
    pub(super) fn new() -> Self {
        let process = Command::new("unshare")
            .args(["-n", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare (util-linux) makes the namespace of a pod");
        let host = Self { process };
        // The process exists before it has left our namespace.
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = host.path();
        for _ in 0..500 {
            if std::fs::read_link(&path).is_ok_and(|other| other != own) {
                host.ip("link set lo up");
                return host;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("no namespace after a second");
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.process.id())
    }

    /// Runs `work` on a thread inside the namespace; sockets it makes stay there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    pub(super) fn ip(&self, arguments: &str) {
        self.run(|| ip(arguments));
    }

    /// Moves one end of a new veth pair here, as `name`.
    pub(super) fn cable(&self, outer: &str, name: &str) {
        let pid = self.process.id();
        ip(&format!("link add {outer} type veth peer name {name} netns {pid}"));
        ip(&format!("link set {outer} up"));
        self.ip(&format!("link set {name} up"));
        // The kernel notices the carrier in its own time, and has no IPv6 there before.
        is_up(outer);
        self.run(|| is_up(name));
    }

    pub(super) fn pings(&self, to: IpAddr) -> bool {
        let to = to.to_string();
        let arguments = ["-n", "-q", "-c", "1", "-W", "0.5", &to];
        self.run(|| {
            let mut ping = Command::new("ping");
            ping.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            ping.status().expect("ping is needed: apt-get install iputils-ping").success()
        })
    }

    pub(super) fn listen(&self, address: IpAddr, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((address, port)).unwrap())
    }

    pub(super) fn connects(&self, to: IpAddr, port: u16) -> bool {
        self.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).is_ok())
    }

    pub(super) fn udp(&self, address: IpAddr, port: u16) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind((address, port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Pod {
    /// A pod with addresses 10.65.0.`n` and fd65::`n` behind interface `cali<n>`, cabled and
    /// routed, but not known to any dataplane.
    pub(super) fn new(n: u8) -> Self {
        let host = Host::new();
        let interface = format!("cali{n}");
        let v4: IpAddr = [10, 65, 0, n].into();
        let v6: IpAddr = format!("fd65::{n}").parse().unwrap();
        host.cable(&interface, "eth0");
        ip(&format!("addr add 169.254.1.1/32 dev {interface}"));
        ip(&format!("addr add fe80::1/64 dev {interface} nodad"));
        ip(&format!("route add {v4}/32 dev {interface}"));
        ip(&format!("route add {v6}/128 dev {interface}"));
        host.ip(&format!("addr add {v4}/32 dev eth0"));
        host.ip(&format!("addr add {v6}/128 dev eth0 nodad"));
        host.ip("route add 169.254.1.1 dev eth0 scope link");
        host.ip("route add default via 169.254.1.1 dev eth0");
        host.ip("route add default via fe80::1 dev eth0");
        Self { host, interface, v4, v6 }
    }
}

/// Waits until an interface has its carrier.
fn is_up(interface: &str) {
    for _ in 0..2000 {
        if ip(&format!("-o link show dev {interface}")).contains("state UP") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{interface} has no carrier");
}

/// Turns the namespace of this thread into a router.
pub(super) fn forward() {
    ip("link set lo up");
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
    }
}

/// Runs `ip` in the namespace of this thread; returns what it prints.
pub(super) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip is needed: apt-get install iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `bridge` in the namespace of this thread.
pub(super) fn bridge(arguments: &str) {
    let mut command = Command::new("bridge");
    let status = command.args(arguments.split_whitespace()).status();
    assert!(status.expect("bridge is needed: apt-get install iproute2").success(), "{arguments}");
}

/// Runs `nft` in the namespace of this thread: the oracle, and the other program that meddles.
pub(super) fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft")
        .args(arguments)
        .output()
        .expect("nft is needed as oracle: apt-get install nftables");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
