//! The way to a state of the kernel does not matter: every state of a table is brought about in a
//! fresh network namespace, and again in one that went through all the others, in one transaction
//! and in many, backwards, with repetitions, and by programs that were started anew in between. What
//! `nft` lists then must be the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../calico-policy/tests/support/language.rs"]
#[allow(dead_code, reason = "shared with the tests of calico-policy")]
mod language;
#[path = "../../calico-policy/tests/support/states.rs"]
mod states;

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::dataplane::{Dataplane as _, Transaction, Update};
use calico_core::key::Key;
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes, Settings};
use calico_netlink::testing::TestNet;
use calico_policy::{Graph, Input};
use calico_tests::dump::{Dump, difference, table};
use language::{NODE, inputs};
use states::STATES;

/// What our table is called.
const TABLE: &str = "calico";

/// In every state: what the dataplane keeps once it was needed, because to leave it would tear up
/// what works. Hooks of address translation, whose end would forget translated connections, and
/// rules for a family of addresses, which each come and go of its last member would make anew.
const BASE: &str = "
    pool base4 {cidr: 172.30.0.0/24, natOutgoing: true}
    pool base6 {cidr: 'fd30::/64', natOutgoing: true}
    gnetset base 172.31.0.0/24 fd31::/64 base=yes
    gnp base {selector: \"! all()\", performanceHints: [AssumeNeededOnEveryNode],
        ingress: [{action: Allow, source: {selector: \"base == 'yes'\"}}]}
";

/// The agent's part of a node: what it knows, and the kernel's tables.
struct Agent {
    graph: Graph,
    dataplane: LinuxDataplane,
    revision: u64,
}

impl Agent {
    async fn start() -> Self {
        let settings = Settings { guard_interval: None };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        Self { graph: Graph::for_node(NODE), dataplane, revision: 0 }
    }

    /// Takes inputs in, in one transaction or in one each.
    async fn take(&mut self, inputs: &[Input], split: bool) {
        for part in inputs.chunks(if split { 1 } else { inputs.len().max(1) }) {
            for input in part {
                self.graph.handle(input.clone()).unwrap_or_else(|error| panic!("{error}"));
            }
            self.apply().await;
        }
        self.apply().await;
    }

    async fn apply(&mut self) {
        let mut updates = self.graph.flush();
        updates.push(Update::InSync);
        self.revision += 1;
        let transaction = Transaction { revision: self.revision, updates };
        let applied = self.dataplane.apply(transaction).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    }
}

/// Runs `test` in a fresh network namespace; `None` if privileged tests are to be skipped.
fn in_fresh_net<T: Send>(label: &str, test: impl AsyncFnOnce() -> T + Send) -> Option<T> {
    let net = TestNet::new(label)?;
    let outcome = net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test())
    });
    Some(outcome)
}

fn name(input: &Input) -> Key {
    match input {
        Input::Put(object) => object.key(),
        Input::Remove(key) => key.clone(),
        _ => unreachable!("no other inputs"),
    }
}

/// Each object once, in order.
fn state(text: &str) -> Vec<Input> {
    let all: BTreeMap<Key, Input> =
        inputs(&format!("{BASE}{text}")).into_iter().map(|input| (name(&input), input)).collect();
    all.into_values().collect()
}

/// What must happen to come from one state to another.
fn way(from: &[Input], to: &[Input]) -> Vec<Input> {
    let gone = from.iter().map(name).filter(|key| !to.iter().any(|input| name(input) == *key));
    gone.map(Input::Remove).chain(to.iter().cloned()).collect()
}

#[test]
fn the_kernel_has_the_same_whatever_the_way_to_it() {
    let mut fresh: Vec<Dump> = Vec::new();
    for (_, text) in STATES {
        let inputs = state(text);
        let dump = in_fresh_net("order", async || {
            let mut agent = Agent::start().await;
            agent.take(&inputs, false).await;
            table(TABLE)
        });
        let Some(dump) = dump else { return };
        fresh.push(dump);
    }
    let mut failures = String::new();
    in_fresh_net("order", async || {
        let mut agent = Agent::start().await;
        let mut before: Vec<Input> = Vec::new();
        // Two walks: in the table's order, and in one that mixes it (7 has no divisor in common
        // with the number of states, so that each comes once).
        let walks = (0..STATES.len()).chain((0..STATES.len()).map(|n| n * 7 % STATES.len()));
        assert!(!STATES.len().is_multiple_of(7));
        for (step, number) in walks.enumerate() {
            let (title, text) = STATES[number];
            let inputs = state(text);
            let mut changes = way(&before, &inputs);
            let how = match step % 4 {
                0 => "in one transaction",
                1 => {
                    changes.reverse();
                    "backwards, a transaction each"
                }
                2 => {
                    changes = changes.into_iter().flat_map(|c| [c.clone(), c]).collect();
                    "everything twice"
                }
                _ => "after a restart",
            };
            if step % 4 == 3 {
                // What went meanwhile nobody tells to the new one.
                drop(agent);
                agent = Agent::start().await;
                changes.clone_from(&inputs);
            }
            agent.take(&changes, step % 2 == 1 && step % 4 != 3).await;
            let difference = difference(&fresh[number], &table(TABLE));
            if !difference.is_empty() {
                failures += &format!("{title}, {how}:\n{difference}\n");
            }
            before = inputs;
        }
    });
    assert!(failures.is_empty(), "{failures}");
}
