//! What the tests share: scenarios in a small language, a graph with a dataplane that checks it,
//! and other orders to tell the same facts in.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a scenario that does not parse must fail its test")]

mod language;
pub(crate) mod naive;
mod orders;
mod render;
pub(crate) mod states;

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_core::dataplane::{Direction, EndpointId, Update};
use calico_core::datastore::{Entry, Revision};
use calico_policy::desired::Desired;
use calico_policy::eval::{Explanation, Packet};
use calico_policy::{Graph, Input, Object};

pub(crate) use language::{NODE, inputs};
pub(crate) use orders::{Random, check_orders, name, squash};
pub(crate) use render::render;

/// A graph and the dataplane that it feeds, which checks the order of the updates.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) graph: Graph,
    pub(crate) desired: Desired,
}

impl Default for Rig {
    fn default() -> Self {
        Self { graph: Graph::for_node(NODE), desired: Desired::default() }
    }
}

/// As a node reads it from a datastore: of endpoints elsewhere, an outline.
fn stored(input: &Input) -> Input {
    let Input::Put(Object::WorkloadEndpoint(endpoint)) = input else { return input.clone() };
    let (key, value) = (endpoint.key(), endpoint.to_json());
    let entry = Entry { key, value, revision: Revision(1) };
    let read = Object::decode_for(NODE, &entry).unwrap_or_else(|error| panic!("{error}"));
    let read = read.expect("endpoints have a say");
    let is_outline = matches!(read, Object::EndpointElsewhere(_));
    assert_eq!(is_outline, endpoint.spec.node != NODE, "{endpoint:?}");
    Input::Put(read)
}

impl Rig {
    pub(crate) fn handle(&mut self, input: &Input) {
        self.graph.handle(stored(input)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Flushes, checks, and returns what came.
    pub(crate) fn flush(&mut self) -> Vec<Update> {
        let updates = self.graph.flush();
        for update in &updates {
            self.desired.apply(update).unwrap_or_else(|misfit| panic!("{misfit}\nin {updates:#?}"));
        }
        updates
    }

    /// Everything in order, and one flush at the end.
    pub(crate) fn of(inputs: &[Input]) -> Self {
        let mut rig = Self::default();
        inputs.iter().for_each(|input| rig.handle(input));
        rig.flush();
        rig
    }
}

/// Runs a scenario and compares flows with what is expected of them, one a line:
/// `prod/web -> prod/db tcp/80 = allowed by NetworkPolicy prod/db ingress rule 0`.
/// Then feeds the same scenario in other orders, and demands the same final state.
pub(crate) fn check(scenario: &str, flows: &str) {
    let inputs = inputs(scenario);
    let rig = Rig::of(&inputs);
    let lines = flows.lines().map(str::trim).filter(|line| !line.is_empty());
    let (mut expected, mut found) = (String::new(), String::new());
    let mut traces = String::new();
    for line in lines {
        let (flow, _) = line.split_once(" = ").expect("flow = verdict");
        let explanation = explain(&rig.desired, flow);
        writeln!(expected, "{line}").unwrap();
        writeln!(found, "{flow} = {}", outcome(&explanation)).unwrap();
        writeln!(traces, "{explanation}").unwrap();
    }
    assert!(expected == found, "expected\n{expected}\nfound\n{found}\nbecause\n{traces}");
    check_orders(&inputs, &rig.desired);
}

/// The explanation of a flow such as `prod/web -> 10.0.0.1 tcp/80` or `a/b -> c/d ping`.
pub(crate) fn explain(desired: &Desired, flow: &str) -> Explanation {
    let words: Vec<&str> = flow.split_whitespace().collect();
    let [from, "->", to, how] = words[..] else { panic!("{flow:?} is no flow") };
    // `10.0.0.9@prod/web` is a packet of that pod from another address.
    let wants_v6 = to.contains(':') || from.contains(':') || how.ends_with('6');
    let (from, source) = end(desired, from, wants_v6);
    let (to, destination) = end(desired, to, wants_v6);
    let how = how.trim_end_matches('6');
    let packet = if how == "ping" {
        Packet::ping(source, destination)
    } else {
        let (protocol, port) = how.split_once('/').expect("proto/port");
        let (source_port, port) = match port.split_once('<') {
            Some((port, source)) => (source.parse().unwrap(), port.parse().unwrap()),
            None => (40_000, port.parse().unwrap()),
        };
        let protocol: calico_core::resource::Protocol = protocol.parse().unwrap();
        let packet = Packet::to_port(source, destination, protocol.number(), port);
        Packet { ports: Some((source_port, port)), ..packet }
    };
    desired.explain(from.as_ref(), to.as_ref(), &packet)
}

fn end(desired: &Desired, text: &str, wants_v6: bool) -> (Option<EndpointId>, IpAddr) {
    if let Ok(address) = text.parse() {
        return (None, address);
    }
    let (spoofed, name) = match text.split_once('@') {
        Some((address, name)) => (Some(address.parse::<IpAddr>().unwrap()), name),
        None => (None, text),
    };
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let id = EndpointId { namespace: namespace.into(), name: name.into() };
    let endpoint = &desired.endpoints[&id];
    let own = endpoint.addresses.iter().map(ipnet::IpNet::addr).find(|a| a.is_ipv6() == wants_v6);
    (Some(id), spoofed.or(own).expect("an address of the family"))
}

/// `allowed by ...`, naming the side that decided if it was not the last one.
pub(crate) fn outcome(explanation: &Explanation) -> String {
    let (direction, decision) = explanation.deciding().expect("one end is a pod");
    let text = decision.to_string();
    let last = text.lines().last().unwrap_or_default();
    let cause = last.trim().trim_start_matches("=> ").to_owned();
    let by_default = !cause.contains("gress rule");
    if by_default {
        let side = if direction == Direction::Ingress { "in" } else { "out" };
        format!("{cause} ({side})")
    } else {
        cause
    }
}
