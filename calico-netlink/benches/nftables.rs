//! What programming the kernel costs beside `nft -f`, and what the rules cost packets.
//!
//! `cargo bench -p calico-netlink --bench nftables`, as root, with `nft` and `ip`. All figures of
//! a run are taken in turns, so that they share the machine's moods.

#![allow(missing_docs, reason = "a program, not a library")]
#![allow(clippy::unwrap_used, reason = "a bench that fails says where")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Kind;
use calico_core::dataplane::{
    Action, Dataplane as _, DefaultAction, Direction, EndpointId, PolicyId, PortRange, Rule,
    RuleId, RuleOwner, RuleSet, SetKind, SetMember, TierPolicies, Transaction, Update,
    WorkloadEndpoint,
};
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes, Settings};
use calico_netlink::nft::wire::Family;
use calico_netlink::nft::{Socket, Tracker};
use calico_netlink::testing::TestNet;

fn main() {
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(programming()));
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(one_endpoint()));
    packets();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open() -> LinuxDataplane {
    let settings = Settings { guard_interval: None };
    LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap()
}

async fn apply(dataplane: &LinuxDataplane, updates: Vec<Update>) -> Duration {
    let started = Instant::now();
    let applied = dataplane.apply(Transaction { revision: 1, updates }).await.unwrap();
    assert_eq!(applied.failed, []);
    started.elapsed()
}

fn policy(n: usize) -> PolicyId {
    let name = format!("policy-{n}").into();
    PolicyId { kind: Kind::NetworkPolicy, namespace: Some("default".into()), name }
}

/// A policy of ten rules: a set of addresses and a port each; the last lets port 9 through.
fn rules(n: usize, sets: usize) -> Update {
    let owner = RuleOwner::Policy(policy(n));
    let rule = |index: u16| {
        let id = RuleId { owner: owner.clone(), direction: Direction::Ingress, index };
        let mut rule = Rule::any(id, Action::Allow);
        let port = if index == 9 { 9 } else { 10_000 + index };
        rule.protocol = Some(if index == 9 { 17 } else { 6 });
        rule.destination.ports = vec![PortRange { first: port, last: port }];
        if index != 9 {
            let set = (n * 10 + usize::from(index)) % sets;
            rule.source.sets = vec![format!("s:{set}").as_str().into()];
        }
        rule
    };
    Update::Rules {
        owner: owner.clone(),
        rules: RuleSet { ingress: (0..10).map(rule).collect(), egress: Vec::new() },
    }
}

/// Lets everything out.
fn profile() -> Update {
    let owner = RuleOwner::Profile("open".into());
    let rule = |direction| {
        let id = RuleId { owner: owner.clone(), direction, index: 0 };
        vec![Rule::any(id, Action::Allow)]
    };
    let (ingress, egress) = (rule(Direction::Ingress), rule(Direction::Egress));
    Update::Rules { owner: owner.clone(), rules: RuleSet { ingress, egress } }
}

fn set(n: usize, members: usize) -> Update {
    let member = |m: usize| {
        let address = Ipv4Addr::from(0x0a80_0000 + u32::try_from(n * members + m).unwrap());
        SetMember::Net(IpAddr::V4(address).into())
    };
    Update::Set {
        id: format!("s:{n}").as_str().into(),
        kind: SetKind::Address,
        members: (0..members).map(member).collect(),
    }
}

fn endpoint(n: usize, policies: impl IntoIterator<Item = usize>) -> Update {
    let tier = TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        ingress: policies.into_iter().map(policy).collect(),
        egress: Vec::new(),
    };
    let address = Ipv4Addr::from(0x0a41_0000 + u32::try_from(n).unwrap());
    Update::Endpoint(WorkloadEndpoint {
        id: id(n),
        interface: format!("cali{n}").into(),
        addresses: vec![IpAddr::V4(address).into()],
        allowed_sources: Vec::new(),
        tiers: vec![tier],
        profiles: vec!["open".into()],
    })
}

fn id(n: usize) -> EndpointId {
    EndpointId { namespace: "default".into(), name: format!("{n}").into() }
}

fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// 10,000 rules and 100,000 members of sets, from nothing.
async fn programming() {
    let mut updates: Vec<Update> = (0..100).map(|n| set(n, 1000)).collect();
    updates.push(profile());
    updates.extend((0..1000).map(|n| rules(n, 100)));
    updates.extend((0..100).map(|n| endpoint(n, n * 10..n * 10 + 10)));
    updates.push(Update::InSync);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs, mut encoding, mut kernel) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        let dataplane = open().await;
        ours.push(apply(&dataplane, updates.clone()).await);
        let mut socket = Socket::open().unwrap();
        let (table, ..) = socket.read_table(Family::Inet, "calico").await.unwrap();
        std::fs::write(&path, nft(&["list", "table", "inet", "calico"])).unwrap();
        dataplane.remove_all().await.unwrap();
        drop(dataplane);

        let mut tracker = Tracker::new(Family::Inet, "calico");
        let table = table.unwrap();
        for (name, set) in &table.sets {
            tracker.put_set(name, set.clone());
        }
        for (name, chain) in &table.chains {
            tracker.put_chain(name, chain.clone());
        }
        let started = Instant::now();
        let batch = tracker.batch();
        encoding.push(started.elapsed());
        let started = Instant::now();
        socket.commit(&batch, None).await.unwrap();
        kernel.push(started.elapsed());
        nft(&["flush", "ruleset"]);

        let started = Instant::now();
        nft(&["-f", path.to_str().unwrap()]);
        theirs.push(started.elapsed());
        nft(&["flush", "ruleset"]);
    }
    std::fs::remove_file(&path).unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("10,000 rules and 100,000 members of sets, from nothing (median of 5):");
    println!("  ours, from updates to the acknowledgement  {ours:?}");
    println!("  of that the batch as bytes                 {:?}", median(encoding));
    println!("  of that the kernel (send to answer)        {:?}", median(kernel));
    println!("  nft -f with the same ruleset               {theirs:?}");
    println!("  ratio                                      {:.1}", ratio(theirs, ours));
}

/// One endpoint more among 2,000.
async fn one_endpoint() {
    let dataplane = open().await;
    let mut updates = vec![profile(), set(0, 10), rules(0, 1), Update::InSync];
    updates.extend((0..2000).map(|n| endpoint(n, [0])));
    apply(&dataplane, updates).await;
    let listed = nft(&["list", "map", "inet", "calico", "cali-to-wl-dispatch"]);
    let to = chain_of(&listed);
    let listed = nft(&["list", "map", "inet", "calico", "cali-from-wl-dispatch"]);
    let from = chain_of(&listed);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 2000..2021 {
        ours.push(apply(&dataplane, vec![endpoint(n, [0])]).await);
        apply(&dataplane, vec![Update::EndpointRemoved(id(n))]).await;
        let script = format!(
            "add element inet calico cali-to-wl-dispatch {{ \"cali{n}\" : goto {to} }}\n\
             add element inet calico cali-from-wl-dispatch {{ \"cali{n}\" : goto {from} }}\n\
             add element inet calico cali40workload-sources {{ \"cali{n}\" . 10.65.7.208 }}\n"
        );
        std::fs::write(&path, &script).unwrap();
        let started = Instant::now();
        nft(&["-f", path.to_str().unwrap()]);
        theirs.push(started.elapsed());
        dataplane.resync().await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("one endpoint more among 2,000 (median of 21):");
    println!("  ours                                       {ours:?}");
    println!("  nft -f with the same change                {theirs:?}");
    println!("  ratio                                      {:.1}", ratio(theirs, ours));
}

/// The chain that the first interface of a listed map leads to.
fn chain_of(listed: &str) -> String {
    let after = listed.split("goto ").nth(1).unwrap();
    after.split([',', ' ', '}', '\n']).next().unwrap().to_owned()
}

fn ratio(theirs: Duration, ours: Duration) -> f64 {
    theirs.as_secs_f64() / ours.as_secs_f64()
}

/// Two pods on one host.
struct Pods {
    host: TestNet,
    server: TestNet,
    client: TestNet,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);

impl Pods {
    fn new() -> Option<Self> {
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

    /// Times from the first packet of a connection to its answer.
    fn first_packets(&self, number: usize) -> Vec<Duration> {
        let connect = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((SERVER, 9)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        let sockets: Vec<UdpSocket> = self.client.run(|| (0..number).map(|_| connect()).collect());
        let time = |socket: UdpSocket| {
            let started = Instant::now();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 8]).unwrap();
            started.elapsed()
        };
        sockets.into_iter().map(time).collect()
    }

    /// Bytes a second over a connection that is there.
    fn throughput(&self) -> f64 {
        let address = SocketAddr::new(IpAddr::V4(SERVER), 10_000);
        let listener = self.server.run(|| TcpListener::bind(address).unwrap());
        let mut client = self.client.run(|| TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut total, mut buffer) = (0, vec![0; 1 << 18]);
            while let Ok(read @ 1..) = server.read(&mut buffer) {
                total += read;
            }
            total
        });
        let (started, chunk) = (Instant::now(), vec![0; 1 << 17]);
        while started.elapsed() < Duration::from_millis(700) {
            client.write_all(&chunk).unwrap();
        }
        drop(client);
        let total = reader.join().unwrap();
        f64::from(u32::try_from(total >> 10).unwrap()) * 1024.0 / started.elapsed().as_secs_f64()
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

/// What 1,000 endpoints with a policy of ten rules each cost packets between two of them.
fn packets() {
    let Some(pods) = Pods::new() else { return };
    let echo = pods.server.run(|| UdpSocket::bind((SERVER, 9)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 8];
        while let Ok((len, from)) = echo.recv_from(&mut buffer) {
            let _gone = echo.send_to(&buffer[..len], from);
        }
    });
    let mut latencies: [Vec<Duration>; 3] = Default::default();
    let mut rates: [Vec<f64>; 3] = Default::default();
    let ways = ["no ruleset", "connection tracking alone", "1,000 endpoints, 10,000 rules"];
    for round in 0..11 {
        for way in 0..3 {
            let way = (way + round) % 3;
            pods.host.run(|| prepare(way));
            // The first ones are for the neighbours.
            pods.first_packets(20);
            latencies[way].extend(pods.first_packets(400));
            rates[way].push(pods.throughput());
            pods.host.run(|| nft(&["flush", "ruleset"]));
        }
    }
    println!("packets from pod to pod of one host (medians of 11 rounds):");
    let base = latencies.clone().map(median);
    for (way, name) in ways.iter().enumerate() {
        rates[way].sort_by(f64::total_cmp);
        let rate = rates[way][rates[way].len() / 2];
        let least = rates[0][rates[0].len() / 2];
        println!(
            "  {name}: first packet and its answer {:?} ({:+.1} %, {:+.1} % of tracking alone), \
             established {:.2} GB/s ({:+.1} %)",
            base[way],
            100.0 * (ratio(base[way], base[0]) - 1.0),
            100.0 * (ratio(base[way], base[1]) - 1.0),
            rate / 1e9,
            100.0 * (rate / least - 1.0),
        );
    }
}

fn prepare(way: usize) {
    match way {
        0 => {}
        1 => {
            nft(&["add table inet t; add chain inet t f { type filter hook forward priority 0; };
                add rule inet t f ct state established accept"]);
        }
        _ => runtime().block_on(async {
            let mut updates: Vec<Update> = (0..100).map(|n| set(n, 100)).collect();
            updates.extend([profile(), set_of_client()]);
            updates.extend((0..1000).map(|n| rules(n, 100)));
            updates.extend((1..=1000).map(|n| endpoint(n, [n - 1])));
            updates.push(Update::InSync);
            apply(&open().await, updates).await;
        }),
    }
}

/// The first set, of which the server's TCP port is for, has the client.
fn set_of_client() -> Update {
    let client = SetMember::Net(IpAddr::V4(Ipv4Addr::new(10, 65, 0, 2)).into());
    Update::Set { id: "s:0".into(), kind: SetKind::Address, members: vec![client] }
}
