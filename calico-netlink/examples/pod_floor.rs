//! How long the network of a pod takes, against the bare netlink calls it cannot do without.
//!
//! Run as root: `cargo run --example pod_floor -p calico-netlink -- [iterations]`. Every round
//! measures each way once, in fresh network namespaces, so that all ways share the machine's
//! moods.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use calico_netlink::link::{self, MacAddr, VethEnd};
use calico_netlink::netns::Netns;
use calico_netlink::pod::{self, PodSpec};
use calico_netlink::rtnl::Connection;
use calico_netlink::testing::TestNet;
use calico_netlink::{address, sysctl};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let iterations = std::env::args().nth(1).map_or(Ok(200), |text| text.parse::<usize>())?;
    let addresses: [(&str, Vec<IpAddr>); 2] = [
        ("IPv4", vec!["10.65.0.2".parse()?]),
        ("IPv4 and IPv6", vec!["10.65.0.2".parse()?, "fd00:65::2".parse()?]),
    ];
    for (label, addresses) in addresses {
        let (mut floor, mut moved, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..iterations {
            floor.push(measure(&addresses, bare)?);
            moved.push(measure(&addresses, bare_with_move)?);
            ours.push(measure(&addresses, full)?);
        }
        let [floor, moved, ours] = [floor, moved, ours].map(median);
        println!("{label}, median of {iterations}:");
        println!("  bare: create in place, address, up          {floor:>9.1?}");
        println!(
            "  bare: create, move, rename, address, up     {moved:>9.1?}  {:.2} x",
            ratio(moved, floor)
        );
        println!(
            "  pod::setup: all of it, routes and settings  {ours:>9.1?}  {:.2} x  ({:.2} x of create and move)",
            ratio(ours, floor),
            ratio(ours, moved)
        );
    }
    Ok(())
}

type Way = fn(&Netns, &[IpAddr]) -> Outcome<()>;

fn measure(addresses: &[IpAddr], way: Way) -> Outcome<Duration> {
    let host = TestNet::new("floor-host").ok_or("this needs root")?;
    let pod = TestNet::new("floor-pod").ok_or("this needs root")?;
    host.run(|| {
        sysctl::prepare_host()?;
        let start = Instant::now();
        way(pod.netns(), addresses)?;
        Ok(start.elapsed())
    })
}

fn full(netns: &Netns, addresses: &[IpAddr]) -> Outcome<()> {
    pod::setup(&PodSpec {
        netns: netns.path().to_owned(),
        ifname: "eth0".into(),
        host_ifname: "cali0123456789a".into(),
        addresses: addresses.to_vec(),
        mtu: 1500,
        ..PodSpec::default()
    })?;
    Ok(())
}

fn bare(netns: &Netns, addresses: &[IpAddr]) -> Outcome<()> {
    let netns = Netns::open(netns.path())?;
    let mut host = Connection::open()?;
    let near = VethEnd {
        name: "cali0123456789a",
        mac: Some(MacAddr([0xee; 6])),
        up: true,
        ..VethEnd::default()
    };
    let far = VethEnd { name: "eth0", netns: Some(&netns), ..VethEnd::default() };
    link::create_veth(&mut host, &near, &far)?;
    inside(&netns, addresses)
}

fn bare_with_move(netns: &Netns, addresses: &[IpAddr]) -> Outcome<()> {
    let netns = Netns::open(netns.path())?;
    let mut host = Connection::open()?;
    let near = VethEnd { name: "cali0123456789a", ..VethEnd::default() };
    let far = VethEnd { name: "temporary", ..VethEnd::default() };
    link::create_veth(&mut host, &near, &far)?;
    link::move_to(&mut host, "temporary", &netns, Some("eth0"))?;
    link::set_up(&mut host, "cali0123456789a")?;
    inside(&netns, addresses)
}

fn inside(netns: &Netns, addresses: &[IpAddr]) -> Outcome<()> {
    netns.run(|| {
        let mut pod = Connection::open()?;
        let eth0 = link::by_name(&mut pod, "eth0")?.ok_or("no eth0")?;
        for address in addresses {
            address::add(&mut pod, eth0.index, (*address).into())?;
        }
        link::set_up(&mut pod, "eth0")?;
        Ok(())
    })?
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
