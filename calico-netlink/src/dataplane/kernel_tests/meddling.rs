//! How long what others do to our table lasts, where anybody may change it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::Settings;
use super::lab::forward;
use super::*;

/// How often each is done; the median is printed.
const ROUNDS: usize = 5;

/// Longer than any test: the guard must not come back just because it looks now and then.
const NEVER: Duration = Duration::from_secs(3600);

/// What other programs do, and what it is called. CHAIN is the chain of a workload, HANDLE a rule of it.
const MEDDLING: [(&str, &str); 9] = [
    ("flush ruleset", "flush ruleset"),
    ("delete table", "delete table inet calico"),
    ("delete a rule", "delete rule inet calico CHAIN handle HANDLE"),
    ("insert a rule", "insert rule inet calico CHAIN accept"),
    ("flush a chain", "flush chain inet calico CHAIN"),
    (
        "delete a chain",
        "delete element inet calico cali-to-wl-dispatch { \"cali1\" }\ndelete chain inet calico CHAIN",
    ),
    ("delete an element", "delete element inet calico cali40s-client { 10.65.0.2 }"),
    ("add an element", "add element inet calico cali40s-client { 192.0.2.1 }"),
    (
        "add a chain with a hook",
        "add chain inet calico theirs { type filter hook forward priority -10; policy drop; }",
    ),
];

#[test]
fn what_others_do_to_our_table_does_not_last() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let settings = Settings { guard_interval: Some(NEVER) };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        apply(&dataplane, everything(&server, &client)).await;
        let whole = table().await;
        let chain = chain_of(whole.as_ref().unwrap(), "cali1").unwrap();
        // What `nft` cannot read it cannot change.
        let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stderr), "", "nft reads all of our table");
        for (name, commands) in MEDDLING {
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let mut commands = commands.replace("CHAIN", &chain);
                if commands.contains("HANDLE") {
                    commands = commands.replace("HANDLE", &handle_in(&chain));
                }
                nft(&commands);
                let started = Instant::now();
                while table().await != whole {
                    let waited = started.elapsed();
                    assert!(waited < Duration::from_secs(20), "{name}: not repaired in time");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                times.push(started.elapsed());
            }
            times.sort();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (median, most) = (ms(times[ROUNDS / 2]), ms(times[ROUNDS - 1]));
            println!("{name:>24}: repaired after {median:.1} ms, at most {most:.1} ms");
        }
        let receiver = server.host.udp(server.v4, 7);
        client.host.udp(client.v4, 0).send_to(b"x", (server.v4, 7)).unwrap();
        assert!(receiver.recv_from(&mut [0; 8]).is_ok(), "the policy is in force");
    });
}

/// A rule of a chain.
fn handle_in(chain: &str) -> String {
    let listed = super::lab::nft(&["-a", "list", "chain", "inet", "calico", chain]);
    let rules = listed.lines().filter(|line| line.starts_with("\t\t"));
    let handles = rules.filter_map(|line| line.rsplit_once("# handle "));
    handles.map(|(_, handle)| handle.trim().to_owned()).next().expect("a rule")
}

fn nft(commands: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let nft = nft.as_mut().expect("nft: install the Debian package nftables");
    nft.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{commands}");
}
