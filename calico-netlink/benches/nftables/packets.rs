//! What 1,000 endpoints with a policy of ten rules each cost packets between two of them.

use std::net::IpAddr;
use std::time::Duration;

use calico_core::dataplane::{Pool, SetKind, SetMember, Update};

use super::pods::{CLIENT, Pods};
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

const ROUNDS: usize = 40;

#[derive(Default)]
struct Figures {
    first: Vec<Duration>,
    alone: Vec<Duration>,
    established: Vec<Duration>,
    rates: Vec<f64>,
}

pub(crate) fn run() {
    let hosts: Option<Vec<Pods>> = WAYS.iter().map(|_| Pods::new()).collect();
    let Some(hosts) = hosts else { return };
    for (pods, (_, prepare)) in hosts.iter().zip(WAYS) {
        pods.host.run(prepare);
    }
    let mut figures: Vec<Figures> = WAYS.iter().map(|_| Figures::default()).collect();
    in_turns(|way, _| {
        let pods = &hosts[way];
        // The first ones are for the neighbours and the caches.
        pods.first_packets_alone(20);
        pods.established(20);
        figures[way].alone.extend(pods.first_packets_alone(100));
        figures[way].established.extend(pods.established(400));
    });
    in_turns(|way, round| {
        if round % 4 == 0 {
            figures[way].rates.push(hosts[way].throughput(Duration::from_millis(400)));
        }
    });
    hosts.iter().for_each(Pods::echo);
    in_turns(|way, _| {
        hosts[way].first_packets(20);
        figures[way].first.extend(hosts[way].first_packets(100));
    });
    print(figures);
}

fn in_turns(mut turn: impl FnMut(usize, usize)) {
    for round in 0..ROUNDS {
        (0..WAYS.len()).for_each(|way| turn((way + round) % WAYS.len(), round));
    }
}

fn print(figures: Vec<Figures>) {
    println!("packets from pod to pod of one host (medians, ways in turns; first row = 100 %):");
    println!(
        "  {:38} {:>17} {:>17} {:>17} {:>17}",
        "", "first, woken", "first, path", "established", "TCP"
    );
    let medians: Vec<_> = figures
        .into_iter()
        .map(|mut f| {
            f.rates.sort_by(f64::total_cmp);
            let rate = f.rates[f.rates.len() / 2];
            ([f.first, f.alone, f.established].map(median), rate)
        })
        .collect();
    for ((name, _), (times, rate)) in WAYS.iter().zip(&medians) {
        let base = &medians[0];
        print!("  {name:38}");
        for (time, base) in times.iter().zip(base.0) {
            print!(" {:>7.2?} {:>+5.1} %", time, 100.0 * (ratio(*time, base) - 1.0));
        }
        println!(" {:>4.2} GB/s {:>+5.1} %", rate / 1e9, 100.0 * (rate / base.1 - 1.0));
    }
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
