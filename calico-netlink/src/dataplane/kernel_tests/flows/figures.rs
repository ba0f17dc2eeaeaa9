//! What packets of established connections cost with rules and without. Ratios of an emulated
//! machine are about those of instructions.

use std::io::{ErrorKind, Read as _, Write as _};

use super::*;

const WAYS: [&str; 4] = ["no ruleset", "tracking alone", "our rules", "our rules, offloaded"];
const ROUNDS: usize = 5;
const BULK: usize = 1 << 20;

struct Bench {
    server: Pod,
    client: Pod,
    dataplane: LinuxDataplane,
}

impl Bench {
    /// Makes the host as one of the ways says.
    async fn prepare(&self, way: usize) {
        self.dataplane.remove_all().await.unwrap();
        nft(&["flush ruleset"]);
        match way {
            0 => {}
            1 => {
                nft(&[
                    "add table inet t; add chain inet t f { type filter hook forward priority 0; };
                    add rule inet t f ct state established accept",
                ]);
            }
            _ => {
                self.dataplane.offload_flows(offload().filter(|_| way == 3)).await;
                apply(&self.dataplane, vec![Update::InSync]).await;
                assert_eq!(
                    self.dataplane.flow_status().await.devices,
                    if way == 3 { 2 } else { 0 }
                );
            }
        }
    }

    /// Times of: 200 datagrams and their answers, 1,024 datagrams of 1,400 bytes, 8 MiB of TCP; one
    /// thread has both ends.
    fn times(&self) -> [Duration; 3] {
        let (client, server) = (&self.client, &self.server);
        let mut talk = Datagrams::new(&client.host, client.v4, &server.host, server.v4, 9);
        let mut tcp =
            Talk::new(&server.host, server.v4, 80, from_host(&client.host, server.v4, 80));
        for from_server in [false, true, false, true, false, true] {
            assert!(talk.goes(from_server) && tcp.goes(from_server));
        }
        let time = |work: &mut dyn FnMut()| {
            let started = Instant::now();
            work();
            started.elapsed()
        };
        let answered = time(&mut || {
            for _ in 0..200 {
                assert!(talk.goes(false) && talk.goes(true));
            }
        });
        let datagram = [0; 1400];
        let mut buffer = vec![0; 1 << 18];
        let one_way = time(&mut || {
            for _ in 0..16 {
                (0..64).for_each(|_| assert_eq!(talk.client.send(&datagram).unwrap(), 1400));
                (0..64).for_each(|_| assert_eq!(talk.server.recv(&mut buffer).unwrap(), 1400));
            }
        });
        tcp.client.set_nonblocking(true).unwrap();
        tcp.server.set_nonblocking(true).unwrap();
        let chunk = vec![0; 1 << 17];
        let mut bulk = |times: usize| {
            let (mut sent, mut received) = (0, 0);
            while received < times * BULK {
                let left = chunk.len().min(times * BULK - sent);
                sent += some(tcp.client.write(&chunk[..left]));
                received += some(tcp.server.read(&mut buffer));
            }
        };
        // Until the windows are as large as they get.
        bulk(2);
        [answered, one_way, time(&mut || bulk(8))]
    }
}

fn some(result: std::io::Result<usize>) -> usize {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result.unwrap(),
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn figures_of_established_connections() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        let rules: &[RuleSpec<'_>] = &[(Action::Allow, &|_| {})];
        let updates = vec![
            open_profile(),
            ingress_policy("web", rules),
            Update::Endpoint(endpoint(&server, &["web"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        let bench = Bench { server, client, dataplane };
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut times = [[Duration::ZERO; 3]; 4];
            for way in (0..WAYS.len()).map(|way| (way + round) % WAYS.len()) {
                bench.prepare(way).await;
                times[way] = bench.times();
            }
            rounds.push(times);
        }
        let figures = ["a datagram and its answer", "datagrams of 1,400 bytes", "TCP in bulk"];
        println!(
            "time, of that without a ruleset (median of {ROUNDS} rounds, the ways take turns)"
        );
        for (figure, name) in figures.iter().enumerate() {
            println!("  {name}");
            for (way, name) in WAYS.iter().enumerate() {
                let of = |round: &[[Duration; 3]; 4]| {
                    round[way][figure].as_secs_f64() / round[0][figure].as_secs_f64()
                };
                println!("    {name:22} {:.3}", median(rounds.iter().map(of).collect()));
            }
        }
    });
}
