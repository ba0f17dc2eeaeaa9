//! The bodies of the fuzz targets `policy_*` in `fuzz/`, run here over their seeds, mutations of the
//! seeds and random bytes.

mod rules;
mod seeds;
mod selector;

use proptest::collection::vec;
use proptest::prelude::*;

/// A seed with a few octets changed, cut out or put in.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // Mostly octets that mean something there.
    let octet = prop_oneof![
        3 => prop::sample::select(b"(){}[]'\"|&!=,: \tain019-./".to_vec()),
        1 => any::<u8>(),
    ];
    let edits = vec((any::<prop::sample::Index>(), octet, 0u8..4), 0..6);
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
    prop_oneof![8 => mutated(seeds), 1 => vec(any::<u8>(), 0..400)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selector_smoke(data in inputs(seeds::selectors())) {
        selector::run(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_smoke(data in inputs(seeds::rules())) {
        rules::run(&data);
    }
}

#[test]
fn every_seed_is_taken() {
    for seed in seeds::selectors() {
        assert!(selector::run(&seed), "{}", String::from_utf8_lossy(&seed));
    }
    for seed in seeds::rules() {
        assert!(rules::run(&seed), "{}", String::from_utf8_lossy(&seed));
    }
}

/// Writes the seeds for the fuzzer to `SEEDS`: `cargo xtask seeds` runs it.
#[test]
#[ignore = "writes files; `cargo xtask seeds` runs it"]
fn write_seeds() {
    let root =
        std::path::PathBuf::from(std::env::var_os("SEEDS").expect("SEEDS names a directory"));
    for (target, seeds) in
        [("policy_selector", seeds::selectors()), ("policy_rules", seeds::rules())]
    {
        let directory = root.join(target);
        std::fs::create_dir_all(&directory).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{n:02}")), seed).unwrap();
        }
    }
}
