//! The bodies of the fuzz targets `cni_*` in `fuzz/`, run here over their seeds, mutations of the
//! seeds and random bytes; and whole calls with such input, which leave nothing behind.

mod annotations;
#[path = "../common/mod.rs"]
mod common;
mod seeds;
mod stdin;

use calico_cni::protocol::{PROTOCOL, Plugin, Request};
use calico_cni::spec::Verb;
use proptest::collection::vec;
use proptest::prelude::*;

/// A seed with a few octets changed, cut out or put in.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..8);
    (prop::sample::select(seeds), edits).prop_map(|(mut bytes, edits)| {
        for (at, octet, how) in edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len());
            match how {
                0 | 1 if at < bytes.len() => bytes[at] = octet,
                2 => bytes.insert(at, octet),
                3 if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes
    })
}

fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => mutated(seeds), 1 => vec(any::<u8>(), 0..400)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stdin_smoke(data in inputs(seeds::stdins())) {
        stdin::run(&data);
    }

    #[test]
    fn annotations_smoke(data in inputs(seeds::annotations())) {
        annotations::run(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// An ADD with such a configuration is served or refused; nothing of one that was refused, or
    /// of one that was deleted again, is left.
    #[test]
    fn whole_calls_leave_nothing(data in inputs(seeds::stdins())) {
        let text = String::from_utf8_lossy(&data);
        let config = text.splitn(5, '\n').nth(4).unwrap_or_default().to_owned();
        // Others' plugins, and who must be ready before, are not what this is about.
        if config.contains("readiness_gates") {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = common::Node::new().await;
            let ask = async |verb| {
                let call = node.sandbox("sandbox");
                let config = config.clone();
                let request = Request { protocol: PROTOCOL, plugin: Plugin::Main, verb, call, config };
                node.engine.handle(&request).await
            };
            let added = ask(Verb::Add).await;
            let value: serde_json::Value = serde_json::from_str(&added.output).unwrap();
            if added.failed {
                assert!(value["code"].is_u64() && value["msg"].is_string(), "{value}");
            } else {
                let deleted = ask(Verb::Del).await;
                assert!(!deleted.failed, "{}", deleted.output);
            }
            node.assert_clean().await;
        });
    }
}

#[test]
fn every_seed_is_taken() {
    for seed in seeds::stdins() {
        assert!(stdin::run(&seed), "{}", String::from_utf8_lossy(&seed));
    }
    for seed in seeds::annotations() {
        assert!(annotations::run(&seed), "{}", String::from_utf8_lossy(&seed));
    }
}

/// Writes the seeds for the fuzzer to `SEEDS`: `cargo xtask seeds` runs it.
#[test]
#[ignore = "writes files; `cargo xtask seeds` runs it"]
fn write_seeds() {
    let root =
        std::path::PathBuf::from(std::env::var_os("SEEDS").expect("SEEDS names a directory"));
    for (target, seeds) in
        [("cni_stdin", seeds::stdins()), ("cni_annotations", seeds::annotations())]
    {
        let directory = root.join(target);
        std::fs::create_dir_all(&directory).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{n:02}")), seed).unwrap();
        }
    }
}
