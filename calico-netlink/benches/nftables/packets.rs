//! What 1,000 endpoints with a policy of ten rules each cost packets between two of them.

use std::net::IpAddr;
use std::time::Duration;

use calico_core::dataplane::{Pool, SetKind, SetMember, Update};

use super::pods::{CLIENT, Pods, Stream};
use super::{apply, endpoint, median, nft, open, profile, ratio, rules, runtime, set};

/// What is on a host, and how it comes there.
type Way = (&'static str, fn());

const WAYS: [Way; 5] = [
    ("no ruleset, no connection tracking", || {}),
    ("connection tracking alone (one rule)", tracking),
    ("tracking and a NAT hook without rules", || {
        tracking();
        nft(&["add chain inet t n { type nat hook postrouting priority 100; }"]);
    }),
    ("1,000 endpoints, 10,000 rules", || ours(false)),
    ("the same, pools masqueraded", || ours(true)),
];

const ROUNDS: usize = 60;

/// A time that is measured, and what it is called.
type Figure = (&'static str, fn(&Pods) -> Vec<Duration>);

/// What depends on how two threads meet differs much from round to round.
const STREAM_ROUNDS: usize = 1000;

/// The times that need no process besides.
const ALONE: [Figure; 4] = [
    ("first packet and its answer, nobody to be woken", |pods| {
        // The first ones are for the neighbours and the caches.
        pods.first_packets_alone(20);
        pods.first_packets_alone(100)
    }),
    ("established: a small datagram and its answer", |pods| pods.established(300)),
    ("established: 64 datagrams of 1,400 bytes", |pods| pods.datagrams(30)),
    ("established: 1 MiB of TCP", |pods| pods.bulk(20)),
];

const WOKEN: Figure = ("first packet and its answer by another thread", |pods| {
    pods.first_packets(20);
    pods.first_packets(100)
});

pub(crate) fn run() {
    let hosts: Option<Vec<Pods>> = WAYS.iter().map(|_| Pods::new()).collect();
    let Some(hosts) = hosts else { return };
    for (pods, (_, prepare)) in hosts.iter().zip(WAYS) {
        pods.host.run(prepare);
    }
    println!(
        "packets from pod to pod of one host: medians, and how much they are above those of no \
         ruleset\nand of tracking alone (median of {ROUNDS} or more rounds in which the ways \
         take turns, and twice its standard error)"
    );
    for figure in ALONE {
        measure(&hosts, figure);
    }
    // In a thread of its own, which stays on one CPU.
    std::thread::scope(|scope| scope.spawn(|| streams(&hosts)).join()).unwrap();
    hosts.iter().for_each(Pods::echo);
    measure(&hosts, WOKEN);
}

fn streams(hosts: &[Pods]) {
    let mut streams: Vec<Stream> = hosts.iter().map(Pods::stream).collect();
    let name = "established: 4 MiB of TCP from thread to thread, each on a CPU of its own";
    rounds(name, STREAM_ROUNDS, |way| streams[way].time());
}

fn measure(hosts: &[Pods], (name, times): Figure) {
    rounds(name, ROUNDS, |way| median(times(&hosts[way])));
}

fn rounds(name: &str, rounds: usize, mut time: impl FnMut(usize) -> Duration) {
    // By way, then by round.
    let mut medians = vec![Vec::new(); WAYS.len()];
    for round in 0..rounds {
        for way in (0..WAYS.len()).map(|way| (way + round) % WAYS.len()) {
            medians[way].push(time(way));
        }
    }
    println!("{name}");
    for ((name, _), of_way) in WAYS.iter().zip(&medians) {
        print!("  {name:38} {:>9.2?}", median(of_way.clone()));
        for base in &medians[..2] {
            let (mean, error) = above(of_way, base);
            print!("   {mean:>+6.1} % ± {:.1}", 2.0 * error);
        }
        println!();
    }
}

/// By how many percent the first are above the second, round by round: the median, and its standard
/// error by the median deviation from it, so that rounds in which the machine did something else do
/// not count more than others.
fn above(times: &[Duration], base: &[Duration]) -> (f64, f64) {
    let percent = |(time, base): (&Duration, &Duration)| 100.0 * (ratio(*time, *base) - 1.0);
    let mut all: Vec<f64> = times.iter().zip(base).map(percent).collect();
    let middle = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let median = middle(&mut all);
    let mut deviations = all.iter().map(|one| (one - median).abs()).collect();
    let rounds = f64::from(u32::try_from(times.len()).unwrap());
    // As of a normal distribution.
    (median, 1.2533 * 1.4826 * middle(&mut deviations) / rounds.sqrt())
}

fn tracking() {
    nft(&["add table inet t; add chain inet t f { type filter hook forward priority 0; };
        add rule inet t f ct state established accept"]);
}

fn ours(masquerade: bool) {
    runtime().block_on(async {
        let mut updates: Vec<Update> = (0..100).map(|n| set(n, 100)).collect();
        updates.extend([profile(), set_of_client()]);
        updates.extend((0..1000).map(|n| rules(n, 100)));
        updates.extend((1..=1000).map(|n| endpoint(n, [n - 1])));
        if masquerade {
            let cidr = "10.65.0.0/16".parse().unwrap();
            updates.push(Update::Pools(vec![Pool { cidr, nat_outgoing: true }]));
        }
        updates.push(Update::InSync);
        apply(&open().await, updates).await;
    });
}

/// The first set, of which the server's TCP port is for, has the client.
fn set_of_client() -> Update {
    let client = SetMember::Net(IpAddr::V4(CLIENT).into());
    Update::Set { id: "s:0".into(), kind: SetKind::Address, members: vec![client] }
}
