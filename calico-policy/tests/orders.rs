//! The way to a state does not matter: every state of a table is reached from every other, all at
//! once, step by step, backwards and with repetitions, and is the same as if nothing had been before.

mod support;

use calico_policy::desired::Desired;
use calico_policy::{Graph, Input};
use support::states::STATES;
use support::{NODE, Random, Rig, check_orders, inputs, name, squash};

/// What must happen to come from one state to another.
fn way(from: &[Input], to: &[Input]) -> Vec<Input> {
    let gone = from.iter().map(name).filter(|key| !to.iter().any(|input| name(input) == *key));
    gone.map(Input::Remove).chain(to.iter().cloned()).collect()
}

fn states() -> Vec<(&'static str, Vec<Input>, Desired)> {
    let state = |(title, text): &(&'static str, &str)| {
        let inputs = squash(&inputs(text));
        let desired = Rig::of(&inputs).desired;
        (*title, inputs, desired)
    };
    STATES.iter().map(state).collect()
}

/// What a graph is told that starts now, as after a restart.
fn restarted(inputs: &[Input]) -> Desired {
    let mut graph = Graph::for_node(NODE);
    for input in inputs.iter().rev() {
        graph.handle(input.clone()).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut desired = Desired::default();
    for update in graph.flush() {
        desired.apply(&update).unwrap_or_else(|misfit| panic!("{misfit}"));
    }
    desired
}

#[test]
fn each_state_alone_told_in_every_way() {
    for (title, inputs, desired) in states() {
        println!("{title}");
        check_orders(&inputs, &desired);
        assert_eq!(restarted(&inputs), desired, "{title}, after a restart");
    }
}

#[test]
fn from_every_state_to_every_other() {
    let states = states();
    for (number, (from_title, from, _)) in states.iter().enumerate() {
        for (to_title, to, desired) in &states {
            let straight = way(from, to);
            let mut shuffled = straight.clone();
            Random(number as u64 * 7919 + 1).shuffle(&mut shuffled);
            let twice = straight.iter().flat_map(|input| [input.clone(), input.clone()]);
            let ways = [
                ("at once", straight.clone(), false),
                ("backwards, step by step", straight.iter().rev().cloned().collect(), true),
                ("in any order, step by step", shuffled, true),
                ("twice, step by step", twice.collect(), true),
            ];
            for (how, inputs, split) in ways {
                let mut rig = Rig::of(from);
                for input in &inputs {
                    rig.handle(input);
                    if split {
                        rig.flush();
                    }
                }
                rig.flush();
                assert!(
                    rig.desired == *desired,
                    "from {from_title:?} to {to_title:?} {how}:\n{:#?}\nexpected\n{desired:#?}",
                    rig.desired
                );
            }
        }
    }
}

#[test]
fn through_all_states_and_back_without_remains() {
    let states = states();
    let mut rig = Rig::default();
    let empty = rig.graph.stats();
    let mut before: &[Input] = &[];
    for (title, inputs, desired) in states.iter().chain(states.iter().rev()) {
        for input in way(before, inputs) {
            rig.handle(&input);
        }
        rig.flush();
        assert_eq!(rig.desired, *desired, "{title}");
        before = inputs;
    }
    // The first state is also the last: nothing is there, and nothing is kept for what was.
    assert_eq!(rig.graph.stats(), empty);
}
