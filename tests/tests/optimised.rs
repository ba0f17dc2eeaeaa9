//! What the engine saves changes nothing: random resources, compiled by it change by change and
//! compiled with nothing shared or left out (`calico_tests::plain`), give every packet the same
//! verdict, by the same rule, after the same rules before it.
//!
//! `CALICO_DIFF_VERDICTS` and `CALICO_DIFF_SEED` are as in the differential test, which sends the
//! same scenarios through the kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use calico_core::dataplane::{RuleId, VerdictCause};
use calico_core::key::Key;
use calico_policy::desired::Desired;
use calico_policy::eval::{Decision, Step};
use calico_policy::{Graph, Input, Object};
use calico_tests::coverage::{Configured, Coverage};
use calico_tests::plain;
use calico_tests::predict::{Met, Outcome, Place};
use calico_tests::replay::{self, Scenarios, minimise, scenario};
use calico_tests::rig::{NODE, enforced};
use calico_tests::scenario::Scenario;

/// Packets of a random scenario.
const PACKETS: usize = 120;

/// A run that takes longer than this has hung.
const DEADLINE: Duration = Duration::from_secs(600);

/// An engine that goes from one scenario to the next.
struct Engine {
    graph: Graph,
    desired: Desired,
    objects: BTreeMap<Key, Object>,
    coverage: Coverage,
}

impl Engine {
    fn new() -> Self {
        Self {
            graph: Graph::for_node(NODE),
            desired: Desired::default(),
            objects: BTreeMap::new(),
            coverage: Coverage::default(),
        }
    }

    /// Takes in what is another than before.
    fn configure(&mut self, objects: &[Object]) {
        let wanted: BTreeMap<Key, Object> =
            objects.iter().map(|object| (object.key(), object.clone())).collect();
        for key in self.objects.keys().filter(|key| !wanted.contains_key(key)) {
            self.graph.handle(Input::Remove(key.clone())).unwrap();
        }
        for (key, object) in &wanted {
            if self.objects.get(key) != Some(object) {
                self.graph.handle(Input::Put(object.clone())).unwrap();
            }
        }
        self.objects = wanted;
        for update in self.graph.flush() {
            self.desired.apply(&update).unwrap();
        }
    }

    /// How many verdicts were compared.
    fn play(&mut self, scenario: &Scenario) -> Result<u64, String> {
        self.configure(&scenario.objects);
        let plain = plain::compile(&self.objects, NODE, &self.desired);
        let staged = match &scenario.staged[..] {
            [] => None,
            staged => Some(enforced(&scenario.objects, staged)?),
        };
        let mut verdicts = 0;
        for probe in &scenario.probes {
            let outcome = |desired: &Desired| {
                let mut outcome = Outcome::default();
                outcome.add(desired, probe, 1, 100);
                outcome
            };
            let (ours, all) = (outcome(&self.desired), outcome(&plain));
            if gist(&ours) != gist(&all) {
                return Err(format!("{probe:?}:\n{:#?}\nbut in full\n{:#?}", ours.met, all.met));
            }
            verdicts += u64::from(ours.verdicts());
            let (objects, desired) = (&self.objects, &self.desired);
            let configured = Configured { objects, desired, staged: staged.as_ref() };
            ours.met.iter().for_each(|met| self.coverage.add(configured, met));
        }
        Ok(verdicts)
    }
}

/// What must be the same: where the packet arrives, what is counted and reported, and at each
/// endpoint what decided, after which rules.
type Gist = (Outcome, Vec<(String, Vec<(RuleId, bool)>)>);

fn gist(outcome: &Outcome) -> Gist {
    let decisions = outcome.met.iter().map(|Met { place, direction, .. }| match place {
        Place::Workload(id, decision) => said(format!("{direction} of {id}"), decision),
        Place::Host(name, forwarded, decision) => {
            said(format!("{direction} of {name}, forwarded {forwarded}"), decision)
        }
        other => (format!("{other:?}"), Vec::new()),
    });
    let decisions = decisions.collect();
    (Outcome { met: Vec::new(), ..outcome.clone() }, decisions)
}

fn said(place: String, decision: &Decision) -> (String, Vec<(RuleId, bool)>) {
    let rules = decision.steps.iter().filter_map(|step| match step {
        Step::Rule { id, mismatch, .. } => Some((id.clone(), mismatch.is_none())),
        _ => None,
    });
    let cause: &VerdictCause = &decision.cause;
    (format!("{place}: {:?} by {cause:?}", decision.verdict), rules.collect())
}

#[test]
fn the_engine_and_a_plain_compilation_agree() {
    let wanted = replay::number("CALICO_DIFF_VERDICTS").unwrap_or(40_000);
    let seed = replay::seed();
    println!("seed: CALICO_DIFF_SEED={seed}");
    let started = Instant::now();
    let (mut engine, mut verdicts) = (Engine::new(), 0);
    for (number, lines) in Scenarios::of(seed, PACKETS).enumerate() {
        // A feature that chance left out gets another one.
        let missing = engine.coverage.missing();
        if verdicts >= wanted && (missing.is_empty() || verdicts >= 5 * wanted) {
            println!("verdicts that each feature had a part in:\n{}", engine.coverage);
            assert!(missing.is_empty(), "CALICO_DIFF_SEED={seed} never reached {missing:#?}");
            println!("{verdicts} verdicts of {number} scenarios agree, in {:?}", started.elapsed());
            return;
        }
        assert!(started.elapsed() < DEADLINE, "only {verdicts} verdicts in {DEADLINE:?}");
        match engine.play(&scenario(&lines)) {
            Ok(count) => verdicts += count,
            Err(difference) => {
                let small = minimise(lines, |lines| Engine::new().play(&scenario(lines)).is_err());
                let again = Engine::new().play(&scenario(&small));
                panic!(
                    "scenario {number} of CALICO_DIFF_SEED={seed} fails:\n{}\n\
                     the smallest one that does so from the start:\n{}\nat first:\n{difference}",
                    again.err().as_deref().unwrap_or("not from the start"),
                    scenario(&small)
                );
            }
        }
    }
}
