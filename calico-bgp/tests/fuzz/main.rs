//! The bodies of the fuzz targets in `fuzz/`, run here over their seeds, mutations of the seeds
//! and random bytes: a smoke test that needs no fuzzer.

mod messages;
mod seeds;
mod speaker;
mod stream;
mod text;

use proptest::collection::vec;
use proptest::prelude::*;

/// A seed with a few octets changed, cut out or put in.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..8);
    (prop::sample::select(seeds), edits).prop_map(|(mut bytes, edits)| {
        for (at, octet, how) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 | 1 => bytes[at] = octet,
                2 => bytes.insert(at, octet),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => mutated(seeds), 1 => vec(any::<u8>(), 0..400)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_smoke(data in inputs(seeds::messages())) {
        messages::run(&data);
    }

    #[test]
    fn stream_smoke(data in inputs(seeds::streams())) {
        stream::run(&data);
    }

    #[test]
    fn text_smoke(data in inputs(seeds::texts())) {
        text::run(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn speaker_smoke(data in inputs(seeds::speakers())) {
        speaker::run(&data);
    }

    #[test]
    fn paths_smoke(data in inputs(seeds::speakers_with_paths())) {
        speaker::run(&data);
    }
}

#[test]
fn every_seed_runs() {
    seeds::messages().iter().for_each(|s| messages::run(s));
    seeds::streams().iter().for_each(|s| stream::run(s));
    seeds::texts().iter().for_each(|s| text::run(s));
    let learned = seeds::speakers().iter().map(|s| speaker::run(s)).max();
    assert!(learned > Some(0), "a seed that brings a session up and a route in");
    for seed in seeds::speakers_with_paths() {
        // Three identifiers are taken of the first prefix and of the second, one of them is 0.
        assert!(speaker::run(&seed) >= 6, "several paths come in");
    }
}

/// Writes the seeds for the fuzzer to `SEEDS`: `cargo xtask seeds` runs it.
#[test]
#[ignore = "writes files; `cargo xtask seeds` runs it"]
fn write_seeds() {
    let root =
        std::path::PathBuf::from(std::env::var_os("SEEDS").expect("SEEDS names a directory"));
    let all = [
        ("bgp_messages", seeds::messages()),
        ("bgp_stream", seeds::streams()),
        ("bgp_text", seeds::texts()),
        ("bgp_speaker", [seeds::speakers(), seeds::speakers_with_paths()].concat()),
    ];
    for (target, seeds) in all {
        let directory = root.join(target);
        std::fs::create_dir_all(&directory).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{n:02}")), seed).unwrap();
        }
    }
}
