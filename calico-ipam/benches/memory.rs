//! What assignments and a check cost without a network: `cargo bench -p calico-ipam --bench memory`.
//!
//! Prints ratios against a floor measured in the same run: a copy of the same bytes.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench stops where it fails")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use calico_core::key::Key;
use calico_core::memory::MemoryStore;
use calico_core::resource::AllocationAttribute;
use calico_core::{Datastore, Kind};
use calico_ipam::plan::block::{Block, Cooldown, ReleaseCheck};
use calico_ipam::plan::reserved::Reserved;
use calico_ipam::{Allocator, AssignRequest, Ending, Ipam, Options, Owner};

/// Goals of the project.
const ASSIGN: f64 = 1_000_000.0;
const CHECK: Duration = Duration::from_secs(2);
const CHECK_MEMORY: u64 = 200 << 20;

const BLOCKS: u32 = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    plan();
    allocator().await;
    check().await;
}

/// Assignments and releases in blocks, one address at a time, each with an owner of its own.
fn plan() {
    const ROUNDS: u32 = 20_000;
    let owner = Owner::host("node-1");
    let reserved = Reserved::new([]);
    let attributes: Vec<AllocationAttribute> = (0..64).map(attribute).collect();
    let mut block = Block::new("10.0.0.0/26".parse().unwrap(), Some(&owner), UNIX_EPOCH).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1);
    let (mut assigning, mut releasing) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut got = Vec::with_capacity(64);
        for attribute in &attributes {
            got.extend(block.assign(1, attribute, &reserved));
        }
        assigning += start.elapsed();
        assert_eq!(got.len(), 64);
        let start = Instant::now();
        for allocation in &got {
            let check = ReleaseCheck { sequence: allocation.sequence, ..ReleaseCheck::default() };
            black_box(block.release(allocation.address, &check, Cooldown::default(), now)).unwrap();
        }
        releasing += start.elapsed();
    }
    let count = f64::from(ROUNDS) * 64.0;
    let rate = count / assigning.as_secs_f64();
    line("assigned in a block, each to another owner", &format!("{rate:.0} /s"));
    line("released", &format!("{:.0} /s", count / releasing.as_secs_f64()));
    goal(
        "assign in memory, one core",
        &format!("{:.2} x", rate / ASSIGN),
        "1,000,000 /s",
        rate >= ASSIGN,
    );
}

/// The resident allocator on a store in memory, in batches as a burst of pods makes them: JSON of
/// blocks and handles included.
async fn allocator() {
    const BATCH: usize = 250;
    const ROUNDS: usize = 200;
    let store = Arc::new(MemoryStore::new());
    let pool = r#"{"metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/12","blockSize":24}}"#;
    store.create(Key::resource(Kind::IpPool, None, "p"), pool.into()).await.unwrap();
    let allocator = Allocator::new(Ipam::new(store, Options::default()), "n");
    let (mut assigning, mut releasing) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let handle = |nth: usize| format!("k8s-pod-network.{round:032x}{nth:032x}");
        let requests: Vec<AssignRequest> = (0..BATCH)
            .map(|nth| AssignRequest::new("n").handle(handle(nth)).attribute("node", "n").v4(1))
            .collect();
        let start = Instant::now();
        let answers = allocator.assign_many(&requests).await;
        assigning += start.elapsed();
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().v4.len() == 1));
        let endings: Vec<Ending> =
            (0..BATCH).map(|nth| Ending { handle: handle(nth), first: Vec::new() }).collect();
        let start = Instant::now();
        allocator.release_along(&endings).await.unwrap();
        releasing += start.elapsed();
    }
    let count = (BATCH * ROUNDS) as f64;
    line(
        "assigned and stored, in batches of 250",
        &format!("{:.0} /s", count / assigning.as_secs_f64()),
    );
    line(
        "released and stored, in batches of 250",
        &format!("{:.0} /s", count / releasing.as_secs_f64()),
    );
}

/// A check of 100,000 blocks with an address each: 100,000 pods on 5,000 nodes.
async fn check() {
    let store = Arc::new(MemoryStore::new());
    let pool = r#"{"metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/8","blockSize":26}}"#;
    store.create(Key::resource(Kind::IpPool, None, "p"), pool.into()).await.unwrap();
    let reserved = Reserved::new([]);
    let mut bytes = 0_usize;
    for nth in 0..BLOCKS {
        let base = u32::from_be_bytes([10, 0, 0, 0]) + nth * 64;
        let cidr = ipnet::IpNet::new(std::net::IpAddr::from(base.to_be_bytes()), 26).unwrap();
        let owner = Owner::host(format!("node-{}", nth / 20));
        let mut block = Block::new(cidr, Some(&owner), UNIX_EPOCH).unwrap();
        for address in 0..1 {
            let handle = format!("k8s-pod-network.{nth:032x}{address:032x}");
            let mut attribute = attribute(address);
            attribute.handle_id = Some(handle.clone());
            block.assign(1, &attribute, &reserved);
            let handle_json = format!(r#"{{"block":{{"{cidr}":1}},"deleted":false}}"#);
            store.put(Key::Handle(handle), handle_json.into()).await.unwrap();
        }
        let json = block.next_write();
        bytes += json.len();
        store.put(Key::Block(cidr), json.into()).await.unwrap();
        let claim = r#"{"state":"confirmed","deleted":false}"#;
        store.put(owner.affinity_key(cidr), claim.into()).await.unwrap();
    }
    let ipam = Ipam::new(store, Options::default());
    let before = resident();
    reset_peak();
    let start = Instant::now();
    let findings = ipam.check().await.unwrap();
    let took = start.elapsed();
    let more = peak().saturating_sub(before);
    assert!(findings.is_empty(), "{:?}", findings.first());
    let start = Instant::now();
    let copy = black_box(vec![7_u8; bytes]).clone();
    let floor = start.elapsed();
    drop(black_box(copy));
    println!();
    line("blocks, in JSON", &format!("{} MiB", bytes >> 20));
    line("copy of as many bytes", &format!("{:.3} s", floor.as_secs_f64()));
    goal("check of 100,000 blocks", &format!("{:.2} s", took.as_secs_f64()), "2 s", took <= CHECK);
    goal(
        "memory for it, besides the store's",
        &format!("{} MiB", more >> 20),
        "200 MiB",
        more <= CHECK_MEMORY,
    );
}

fn attribute(nth: u32) -> AllocationAttribute {
    let secondary: BTreeMap<String, String> = [
        ("namespace", "default".to_owned()),
        ("node", "node-1".to_owned()),
        ("pod", format!("deployment-6f7c9d8b5-{nth:05}")),
        ("timestamp", "2026-01-01 00:00:00 +0000 UTC".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    AllocationAttribute {
        handle_id: Some(format!("k8s-pod-network.{nth:064x}")),
        secondary,
        ..AllocationAttribute::default()
    }
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
}

fn resident() -> u64 {
    status("VmRSS:")
}

fn peak() -> u64 {
    status("VmHWM:")
}

fn reset_peak() {
    // Linux: sets the peak to what is resident now.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn line(what: &str, found: &str) {
    println!("{what:<46} {found:>16}");
}

fn goal(what: &str, found: &str, wanted: &str, met: bool) {
    println!("{what:<46} {found:>16}   goal: {wanted}: {}", if met { "met" } else { "MISSED" });
}
