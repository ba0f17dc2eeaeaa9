//! Evaluator and kernel agree about packets that are really sent: on the verdict, on the rule that
//! decided, on every rule that matched before it, and on what is reported.
//!
//! `CALICO_DIFF_VERDICTS` asks for more than the 40,000 verdicts of a usual run, and
//! `CALICO_DIFF_SEED` for another seed than the one of the day; a run prints what it used. A
//! scenario that fails is made as small as it goes and printed in the language of `cases/`, where
//! those are kept that found something once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use calico_tests::lab::Lab;
use calico_tests::replay::{self, Scenarios, minimise, scenario};
use calico_tests::rig::Rig;
use calico_tests::scenario::Scenario;

/// Packets of a random scenario.
const PACKETS: usize = 120;

/// A run that takes longer than this has hung.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long each try of that waits for what is missing.
const HURRY: Duration = Duration::from_millis(500);

/// Runs `test` with a fresh lab, in the namespace of its host.
fn with_rig(test: impl FnOnce(&tokio::runtime::Runtime, &mut Rig<'_>) + Send) {
    let Some(lab) = Lab::new() else { return };
    lab.on_host(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rig = runtime.block_on(Rig::new(&lab));
        test(&runtime, &mut rig);
        let _entered = runtime.enter();
        drop(rig);
    });
}

#[test]
fn random_policies_and_packets() {
    let wanted = replay::number("CALICO_DIFF_VERDICTS").unwrap_or(40_000);
    let seed = replay::seed();
    println!("seed: CALICO_DIFF_SEED={seed}");
    with_rig(|runtime, rig| {
        let started = Instant::now();
        let (mut verdicts, mut scenarios) = (0, 0u64);
        let missing =
            |rig: &Rig<'_>| [rig.coverage().missing(), rig.coverage().missing_in_kernel()].concat();
        for lines in Scenarios::of(seed, PACKETS) {
            // A feature that chance left out gets another one.
            let more = verdicts < 5 * wanted && !missing(rig).is_empty();
            if verdicts >= wanted && !more {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "only {verdicts} verdicts in {DEADLINE:?}");
            match runtime.block_on(rig.play(&scenario(&lines))) {
                Ok(count) => verdicts += u64::from(count),
                Err(difference) => {
                    rig.set_patience(HURRY);
                    let lines = minimise(lines, |lines| {
                        runtime.block_on(rig.play(&scenario(lines))).is_err()
                    });
                    let again = runtime.block_on(rig.play(&scenario(&lines)));
                    panic!(
                        "scenario {scenarios} of CALICO_DIFF_SEED={seed} fails:\n{}\n\
                         the smallest one that does so:\n{}\nat first:\n{difference}",
                        again.err().as_deref().unwrap_or("not when it is played again"),
                        scenario(&lines)
                    );
                }
            }
            scenarios += 1;
            if scenarios.is_multiple_of(10) {
                let same = runtime.block_on(rig.check_kernel());
                same.unwrap_or_else(|drift| panic!("CALICO_DIFF_SEED={seed}: {drift}"));
            }
        }
        println!("verdicts that each feature had a part in:\n{}", rig.coverage());
        let missing = missing(rig);
        assert!(missing.is_empty(), "CALICO_DIFF_SEED={seed} never reached {missing:#?}");
        println!(
            "{verdicts} verdicts of {scenarios} scenarios agree, in {:.1} s",
            started.elapsed().as_secs_f64()
        );
    });
}

#[test]
fn kept_cases() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    with_rig(|runtime, rig| {
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let scenario: Scenario =
                text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let played = runtime.block_on(rig.play(&scenario));
            let verdicts = played.unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
            assert!(verdicts > 0, "{} sends nothing", path.display());
        }
    });
}
