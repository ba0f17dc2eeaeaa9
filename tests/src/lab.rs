//! A host and its pods, each in a network namespace of its own, an outside that the host has its
//! default route to, and a second one. Packets are put on the wire as they are, and read from it.
//!
//! No pod has an address: nothing but the test sends or answers. The host has addresses, but what
//! it says by itself is dropped before anybody sees it.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use calico_netlink::testing::TestNet;
use calico_policy::eval::Packet;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
    socket,
};

use crate::stack::Stack;
use crate::wire;

/// How many pods there are, numbered from 1, unless more are asked for.
pub const PODS: u8 = 4;

/// The most pods that there may be.
pub const MAX_PODS: u8 = 16;

/// Room for what a burst leaves in one socket.
const QUEUE: usize = 4 << 20;

/// Where a packet enters or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// A pod, behind interface `cali<n>` of the host.
    Pod(u8),
    /// What is not on the host: 0 by default, 1 for some of it.
    Outside(u8),
    /// The host itself.
    Host,
}

/// Addresses behind the second way out.
const SECOND_OUTSIDE: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/48"];

impl Port {
    /// Where packets to `address` go.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut pods = (1..=MAX_PODS).map(Self::Pod);
        let second = || {
            let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
            SECOND_OUTSIDE.iter().any(|text| net(text).contains(&address))
        };
        match pods.find(|pod| pod.has(address)) {
            Some(pod) => pod,
            None if Self::Host.has(address) => Self::Host,
            None => Self::Outside(u8::from(second())),
        }
    }

    /// Whether it is a pod, or the host, with this address.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Pod(n) => addresses(n).contains(&address),
            Self::Outside(_) => false,
            Self::Host => [0, 1].iter().any(|n| host_addresses(*n).contains(&address)),
        }
    }

    /// The host's interface to it.
    #[must_use]
    pub fn interface(self) -> String {
        match self {
            Self::Pod(n) => format!("cali{n}"),
            Self::Outside(n) => format!("out{n}"),
            Self::Host => "lo".to_owned(),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(n) => n.fmt(f),
            Self::Outside(0) => f.write_str("out"),
            Self::Outside(n) => write!(f, "out{n}"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// The addresses of a pod.
#[must_use]
pub fn addresses(pod: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, pod.into());
    [Ipv4Addr::new(10, 65, 0, pod).into(), v6.into()]
}

/// The addresses of the host on its interface `out<n>`.
#[must_use]
pub fn host_addresses(n: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, u16::from(n) + 1);
    [Ipv4Addr::new(198, 51, 100, n + 1).into(), v6.into()]
}

/// The namespaces, and a socket in each.
#[derive(Debug)]
pub struct Lab {
    host: TestNet,
    stack: Stack,
    wires: Vec<Wire>,
}

/// The far end of one of the host's interfaces.
#[derive(Debug)]
struct Wire {
    port: Port,
    _net: TestNet,
    socket: OwnedFd,
    /// Which interface to send over.
    link: LinkAddr,
    own: [u8; 6],
    host: [u8; 6],
}

impl Lab {
    /// Makes everything, with [`PODS`] pods; `None` if privileged tests are to be skipped.
    ///
    /// # Panics
    ///
    /// Without root, or without `ip` (Debian package iproute2).
    #[must_use]
    pub fn new() -> Option<Self> {
        Self::with_pods(PODS)
    }

    /// As [`new`](Self::new), with so many pods.
    ///
    /// # Panics
    ///
    /// Likewise, and if there are more than [`MAX_PODS`].
    #[must_use]
    pub fn with_pods(pods: u8) -> Option<Self> {
        assert!(pods <= MAX_PODS, "there is room for {MAX_PODS} pods");
        let host = TestNet::new("diff-host")?;
        host.run(|| {
            for (name, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                // Connection tracking checks the sum of UDP-Lite as if it were UDP's
                // (`udplite_error` in the kernel), and finds every right one wrong.
                ("netfilter/nf_conntrack_checksum", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
            }
        });
        let stack = host.run(Stack::new);
        let ports = (1..=pods).map(Port::Pod).chain([0, 1].map(Port::Outside));
        let wires = ports.map(|port| Wire::new(&host, port)).collect::<Option<Vec<_>>>()?;
        let lab = Self { host, stack, wires };
        let elsewhere =
            ["203.0.113.5", "2001:db8::5", "192.0.2.9", "198.51.100.1", "2001:db8:ff::2"];
        for address in elsewhere {
            lab.wait_for(address.parse().expect("an address"));
        }
        for pod in 1..=pods {
            lab.wait_for(addresses(pod)[0]);
        }
        Some(lab)
    }

    /// Waits until every port reaches an address: the kernel drops what comes before it has
    /// noticed that an interface is up.
    fn wait_for(&self, destination: IpAddr) {
        let source = if destination.is_ipv4() { "203.0.113.200" } else { "2001:db8:99::1" };
        let packet = Packet::ping(source.parse().expect("an address"), destination);
        for port in self.wires.iter().map(|wire| wire.port).filter(|p| *p != Port::of(destination))
        {
            let arrived = (0..1000).any(|_| {
                self.send(port, &packet, 0, 0);
                std::thread::sleep(Duration::from_millis(2));
                !self.received().is_empty()
            });
            assert!(arrived, "{destination} is not reached from {port}");
        }
    }

    /// Runs work in the host's namespace, on a thread of its own.
    pub fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.host.run(work)
    }

    /// Sends a packet with this number and length of the IP packet, in bytes.
    ///
    /// # Panics
    ///
    /// If the kernel refuses it.
    pub fn send(&self, from: Port, packet: &Packet, number: u32, length: u16) {
        if from == Port::Host {
            return self.stack.send(packet, number, length);
        }
        let wire = self.wires.iter().find(|wire| wire.port == from).expect("a port of the lab");
        let frame = wire::frame(packet, number, length, wire.host, wire.own);
        let sent = sendto(wire.socket.as_raw_fd(), &frame, &wire.link, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "sending {packet} from {from}");
    }

    /// What arrived since the last call: where, and the packet's number.
    #[must_use]
    pub fn received(&self) -> Vec<(Port, u32)> {
        let by_host = self.stack.received().into_iter().map(|number| (Port::Host, number));
        self.wires.iter().flat_map(Wire::received).chain(by_host).collect()
    }
}

impl Wire {
    fn new(host: &TestNet, port: Port) -> Option<Self> {
        let net = TestNet::new(&format!("diff-{port}"))?;
        net.run(|| {
            // It must not ask for neighbours or routers.
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        });
        let name = port.interface();
        let far = net.name();
        host.run(|| {
            ip(&format!(
                "link add {name} type veth peer name eth0 netns {far}\nlink set {name} up\n"
            ));
        });
        let (link, own, socket) = net.run(|| {
            ip("link set eth0 up\n");
            let (link, own) = link("eth0");
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let every = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, every).unwrap();
            setsockopt(&socket, RcvBufForce, &QUEUE).unwrap();
            (link, own, socket)
        });
        let near = host.run(|| {
            ip(&routes(port, own));
            link_address(&name)
        });
        Some(Self { port, _net: net, socket, link, own, host: near })
    }

    fn received(&self) -> Vec<(Port, u32)> {
        let mut numbers = Vec::new();
        let mut buffer = [0; 2048];
        // As many as fit the queue: what comes meanwhile is for the next call.
        for _ in 0..QUEUE / 64 {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => {
                    let frame = &buffer[..len];
                    // What was sent from here is seen, too.
                    if frame.get(..6) == Some(&self.own[..]) {
                        numbers.extend(wire::number(frame).map(|number| (self.port, number)));
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("receiving at {}: {error}", self.port),
            }
        }
        numbers
    }
}

/// Routes and neighbours of the host that lead to a port.
fn routes(port: Port, mac: [u8; 6]) -> String {
    let name = port.interface();
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    match port {
        Port::Pod(n) => addresses(n)
            .map(|address| {
                format!(
                    "route add {address} dev {name}\n\
                     neigh add {address} lladdr {mac} dev {name} nud permanent\n"
                )
            })
            .concat(),
        Port::Outside(n) => {
            let destinations = if n == 0 { ["0.0.0.0/0", "::/0"] } else { SECOND_OUTSIDE };
            let [own4, own6] = host_addresses(n);
            format!(
                "addr add {own4}/32 dev {name}\n\
                 addr add {own6}/128 dev {name} nodad\n\
                 neigh add 169.254.9.9 lladdr {mac} dev {name} nud permanent\n\
                 neigh add fe80::9 lladdr {mac} dev {name} nud permanent\n\
                 route add {} via 169.254.9.9 dev {name} onlink\n\
                 route add {} via fe80::9 dev {name}\n",
                destinations[0], destinations[1]
            )
        }
        Port::Host => String::new(),
    }
}

/// Runs commands of `ip`, one a line, in the namespace of this thread.
fn ip(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip is needed: apt-get install iproute2");
    child.stdin.take().expect("piped").write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip failed: {commands}");
}

fn link_address(name: &str) -> [u8; 6] {
    link(name).1
}

/// An interface of this thread's namespace, with its hardware address.
fn link(name: &str) -> (LinkAddr, [u8; 6]) {
    let mut all = getifaddrs().unwrap().filter(|interface| interface.interface_name == name);
    let link = all.find_map(|interface| interface.address?.as_link_addr().copied());
    let link = link.expect("an interface of this name");
    (link, link.addr().expect("a veth has a hardware address"))
}
