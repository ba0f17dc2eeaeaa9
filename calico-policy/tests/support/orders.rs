//! The same facts, told in other ways.

use calico_core::key::Key;
use calico_policy::desired::Desired;
use calico_policy::{Graph, Input};

use super::{NODE, Rig};

/// A generator of numbers for shuffles; the seed is part of a failure's message.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// What is there in the end, whatever happened before.
pub(crate) fn squash(inputs: &[Input]) -> Vec<Input> {
    let mut last: Vec<(Key, &Input)> = Vec::new();
    for input in inputs {
        let key = name(input);
        last.retain(|(known, _)| *known != key);
        last.push((key, input));
    }
    let puts = last.into_iter().filter(|(_, input)| matches!(input, Input::Put(_)));
    puts.map(|(_, input)| input.clone()).collect()
}

pub(crate) fn name(input: &Input) -> Key {
    match input {
        Input::Put(object) => object.key(),
        Input::Remove(key) => key.clone(),
        _ => unreachable!("no other inputs"),
    }
}

/// Feeds the same facts in other ways and demands the same final state.
pub(crate) fn check_orders(inputs: &[Input], expected: &Desired) {
    let squashed = squash(inputs);
    let mut ways: Vec<(String, Vec<Input>)> = vec![
        ("as written".into(), inputs.to_vec()),
        ("squashed".into(), squashed.clone()),
        ("reversed".into(), squashed.iter().rev().cloned().collect()),
        ("duplicated".into(), squashed.iter().flat_map(|i| [i.clone(), i.clone()]).collect()),
    ];
    for seed in 1..=12u64 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut list = squashed.clone();
        random.shuffle(&mut list);
        ways.push((format!("shuffled with seed {seed}"), list.clone()));
        // Each object comes, goes, and comes again, mixed with all others.
        let mut churn: Vec<Input> = Vec::new();
        for input in &squashed {
            churn.push(input.clone());
            churn.push(Input::Remove(name(input)));
        }
        random.shuffle(&mut churn);
        churn.extend(list);
        ways.push((format!("removed and added again with seed {seed}"), churn));
    }
    for (way, list) in ways {
        for every in [1, 2, 5, usize::MAX] {
            let mut rig = Rig::default();
            let mut random = Random(every as u64 | 1);
            for input in &list {
                rig.handle(input);
                let due = every != usize::MAX && random.below(every) == 0;
                if due {
                    rig.flush();
                }
            }
            rig.flush();
            assert!(
                rig.desired == *expected,
                "{way}, a flush after every {every}:\n{:#?}\nexpected\n{expected:#?}",
                rig.desired
            );
            assert_eq!(rig.flush(), [], "{way}: nothing is left to say");
            let whole = Desired { descriptions: Default::default(), ..rig.graph.desired() };
            assert_eq!(whole, rig.desired, "{way}: the sum is what was said");
        }
    }
    check_teardown(&squashed);
}

/// Whatever comes goes again.
fn check_teardown(inputs: &[Input]) {
    let mut rig = Rig::of(inputs);
    for input in inputs {
        rig.handle(&Input::Remove(name(input)));
    }
    rig.flush();
    let Desired { sets, rules, endpoints, host_endpoints, pools, .. } = &rig.desired;
    assert!(sets.is_empty() && rules.is_empty() && endpoints.is_empty() && pools.is_empty());
    assert!(host_endpoints.is_empty());
    assert_eq!(rig.graph.stats(), Graph::for_node(NODE).stats());
}
