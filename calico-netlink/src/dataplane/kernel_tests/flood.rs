//! What others do while the guard hears nothing: because the kernel could not keep all that it had
//! to tell, or because we commit much ourselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::dataplane::{Dataplane, Transaction};

use super::lab::Pod;
use super::*;
use crate::dataplane::Settings;

/// Longer than any test: the guard must not come back just because it looks now and then.
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn what_is_flushed_in_a_flood_of_changes_comes_back() {
    in_new_netns(async || {
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = guarded().await;
        apply(&dataplane, everything(&server, &client)).await;
        let ours = table().await.expect("a table");
        for _ in 0..2 {
            // Nothing is awaited until the table is gone, so the guard cannot read meanwhile.
            flood();
            nft("flush ruleset");
            assert!(overrun(), "the guard's queue held everything: this test shows nothing");
            comes_back(&ours).await;
        }
    });
}

#[test]
fn what_is_flushed_right_after_a_large_batch_of_ours_comes_back() {
    in_new_netns(async || {
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = guarded().await;
        let mut updates = everything(&server, &client);
        // Far beyond what the guard listens to.
        updates.extend((0..500).map(|n| address_set(&format!("s:{n}"), &[&client])));
        dataplane.apply(Transaction { revision: 7, updates }).await.unwrap();
        let ours = table().await.expect("a table");
        nft("flush ruleset");
        comes_back(&ours).await;
    });
}

async fn guarded() -> LinuxDataplane {
    let settings = Settings { guard_interval: Some(NEVER) };
    LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap()
}

/// Other programs' rulesets, one after the other, each of which alone is too much to tell.
fn flood() {
    let elements: Vec<String> =
        (0..20_000).map(|i| format!("10.0.{}.{}", i >> 8, i & 255)).collect();
    let elements = elements.join(",");
    for n in 0..3 {
        nft(&format!(
            "table ip flood{n} {{ set s {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}"
        ));
    }
}

/// Whether the kernel dropped something of what a follower of nf_tables (group 7 of protocol 12) in
/// this namespace was to be told.
fn overrun() -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let mut followers = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    followers.any(|fields| {
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
        let follows = fields[1] == "12" && u32::from_str_radix(fields[3], 16) == Ok(1 << 6);
        follows && fields[8].parse::<u32>().unwrap() > 0
    })
}

async fn comes_back(ours: &crate::nft::Ruleset) {
    let until = Instant::now() + Duration::from_secs(60);
    while table().await.as_ref() != Some(ours) {
        assert!(Instant::now() < until, "the table is not back within a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn nft(ruleset: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let nft = nft.as_mut().expect("nft: install the Debian package nftables");
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}
