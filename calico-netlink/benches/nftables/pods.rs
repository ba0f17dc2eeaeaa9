//! Two pods on one host, and packets between them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use calico_netlink::testing::TestNet;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Two pods on one host.
pub(crate) struct Pods {
    pub(crate) host: TestNet,
    server: TestNet,
    client: TestNet,
}

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
/// The server answers here.
const ECHO: u16 = 9;

impl Pods {
    pub(crate) fn new() -> Option<Self> {
        let pods = Self {
            host: TestNet::new("bench-host")?,
            server: TestNet::new("bench-p1")?,
            client: TestNet::new("bench-p2")?,
        };
        pods.host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        for (n, pod) in [(1, &pods.server), (2, &pods.client)] {
            let commands = format!(
                "link add cali{n} type veth peer name eth0 netns {}\n\
                 addr add 169.254.1.1/32 dev cali{n}\nlink set cali{n} up\n\
                 route add 10.65.0.{n}/32 dev cali{n}\n",
                pod.name()
            );
            pods.host.run(|| ip(&commands));
            let commands = format!(
                "link set eth0 up\naddr add 10.65.0.{n}/32 dev eth0\n\
                 route add 169.254.1.1 dev eth0 scope link\n\
                 route add default via 169.254.1.1 dev eth0\n"
            );
            pod.run(|| ip(&commands));
        }
        Some(pods)
    }

    /// Answers what comes, for ever.
    pub(crate) fn echo(&self) {
        let echo = self.server.run(|| UdpSocket::bind((SERVER, ECHO)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((len, from)) = echo.recv_from(&mut buffer) {
                let _gone = echo.send_to(&buffer[..len], from);
            }
        });
    }

    /// Sockets of the client that speak to this port of the server, each by a connection of its
    /// own.
    fn sockets(&self, number: usize, port: u16) -> Vec<UdpSocket> {
        let connect = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((SERVER, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        self.client.run(|| (0..number).map(|_| connect()).collect())
    }

    /// Times from the first packet of a connection to its answer.
    pub(crate) fn first_packets(&self, number: usize) -> Vec<Duration> {
        let time = |socket: UdpSocket| {
            let started = Instant::now();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 8]).unwrap();
            started.elapsed()
        };
        self.sockets(number, ECHO).into_iter().map(time).collect()
    }

    /// As [`first_packets`](Self::first_packets), with nobody to be woken: one thread has both
    /// ends, and the kernel carries a packet to the other end within the call that sends it.
    pub(crate) fn first_packets_alone(&self, number: usize) -> Vec<Duration> {
        let server = self.server.run(|| UdpSocket::bind((SERVER, ECHO)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let time = |socket: UdpSocket| {
            let mut buffer = [0; 8];
            let started = Instant::now();
            socket.send(b"x").unwrap();
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
            socket.recv(&mut buffer).unwrap();
            started.elapsed()
        };
        self.sockets(number, ECHO).into_iter().map(time).collect()
    }

    /// Time of a datagram and its answer over a connection that is there, without wake-ups.
    pub(crate) fn established(&self, number: usize) -> Vec<Duration> {
        let server = self.server.run(|| UdpSocket::bind((SERVER, ECHO)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let client = self.sockets(1, ECHO).remove(0);
        let mut buffer = [0; 8];
        let mut time = || {
            let started = Instant::now();
            client.send(b"x").unwrap();
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
            client.recv(&mut buffer).unwrap();
            started.elapsed()
        };
        // Two ways each, then the connection counts as established.
        for _ in 0..4 {
            time();
        }
        (0..number).map(|_| time()).collect()
    }

    /// Times in which `CHUNK` bytes go over a TCP connection that is there, acknowledgements
    /// included. One thread has both ends, so that nobody is woken.
    pub(crate) fn bulk(&self, number: usize) -> Vec<Duration> {
        let address = SocketAddr::new(IpAddr::V4(SERVER), 10_000);
        let listener = self.server.run(|| TcpListener::bind(address).unwrap());
        let mut client = self.client.run(|| TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        let (chunk, mut buffer) = (vec![0; 1 << 17], vec![0; 1 << 18]);
        let mut time = || {
            let (mut sent, mut received) = (0, 0);
            let started = Instant::now();
            while received < CHUNK {
                let left = chunk.len().min(CHUNK - sent);
                sent += some(client.write(&chunk[..left]));
                received += some(server.read(&mut buffer));
            }
            started.elapsed()
        };
        // Until the windows are as large as they get.
        for _ in 0..10 {
            time();
        }
        (0..number).map(|_| time()).collect()
    }

    /// A TCP connection to another thread, for [`Stream::time`].
    pub(crate) fn stream(&self) -> Stream {
        let address = SocketAddr::new(IpAddr::V4(SERVER), 10_000);
        let listener = self.server.run(|| TcpListener::bind(address).unwrap());
        let client = self.client.run(|| TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        std::thread::spawn(move || {
            stay_on(1);
            let (mut left, mut buffer) = (BURST, vec![0; 1 << 18]);
            while let Ok(read @ 1..) = server.read(&mut buffer) {
                left -= read;
                if left == 0 {
                    left = BURST;
                    server.write_all(b"x").unwrap();
                }
            }
        });
        let mut stream = Stream(client);
        // Until the windows are as large as they get.
        for _ in 0..20 {
            stream.time();
        }
        stream
    }

    /// Times in which 64 datagrams of 1,400 bytes go one way over a connection that is there.
    pub(crate) fn datagrams(&self, number: usize) -> Vec<Duration> {
        let server = self.server.run(|| UdpSocket::bind((SERVER, ECHO)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let client = self.sockets(1, ECHO).remove(0);
        let mut buffer = [0; 1400];
        for _ in 0..4 {
            client.send(b"x").unwrap();
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
            client.recv(&mut buffer).unwrap();
        }
        let datagram = [0; 1400];
        let mut time = || {
            let started = Instant::now();
            (0..64).for_each(|_| assert_eq!(client.send(&datagram).unwrap(), 1400));
            (0..64).for_each(|_| assert_eq!(server.recv(&mut buffer).unwrap(), 1400));
            started.elapsed()
        };
        (0..number).map(|_| time()).collect()
    }
}

/// A connection to a thread on another CPU, which says when it has got everything.
pub(crate) struct Stream(TcpStream);

/// Bytes in one round of a stream.
const BURST: usize = 1 << 22;

impl Stream {
    /// Time until `BURST` bytes are there.
    pub(crate) fn time(&mut self) -> Duration {
        stay_on(0);
        let chunk = [0; 1 << 17];
        let started = Instant::now();
        (0..BURST / chunk.len()).for_each(|_| self.0.write_all(&chunk).unwrap());
        self.0.read_exact(&mut [0]).unwrap();
        started.elapsed()
    }
}

/// Keeps this thread on a CPU, if there is one of this number.
fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    let _one_cpu_only = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// What [`Pods::bulk`] sends at once.
pub(crate) const CHUNK: usize = 1 << 20;

/// How much was read or written, if anything.
fn some(result: std::io::Result<usize>) -> usize {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        result => result.unwrap(),
    }
}

fn ip(commands: &str) {
    let mut child = std::process::Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
