//! A small language for scenarios, and the ways in which one is fed to a graph.
//!
//! ```text
//! ns prod team=a                      the namespace's profile, with labels
//! sa prod/api role=x                  a service account's profile, with labels
//! pod prod/web 10.0.0.1 app=web @http=tcp:80 !kns.prod node=n2 sa=api
//! netset prod/ext 203.0.113.0/24 zone=ext
//! gnetset ext 203.0.113.0/24 zone=ext
//! tier sec {order: 10, defaultAction: Pass}
//! np prod/in {selector: "app == 'web'", ingress: [{action: Allow}]}
//! gnp all {...}    profile p {...}    pool main {...}    node n1 {...}    felix default {...}
//! drop np prod/in                     removes it again
//! ```
//!
//! A pod is at node `n1` and has the profile of its namespace, unless it names others with `!`
//! (`!` alone is none).

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a scenario that does not parse must fail its test")]

pub(crate) mod naive;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use calico_core::dataplane::{Direction, EndpointId, Update};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    GlobalNetworkSet, GlobalNetworkSetSpec, NetworkSet, NetworkSetSpec, ObjectMeta, Profile,
    Resource, Spec, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec,
};
use calico_policy::desired::Desired;
use calico_policy::eval::{Explanation, Packet};
use calico_policy::{Graph, Input, Object};

/// The node that graphs under test are for.
pub(crate) const NODE: &str = "n1";

/// Reads a scenario, one input a line; `#` begins a comment.
pub(crate) fn inputs(text: &str) -> Vec<Input> {
    let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim());
    // An indented continuation of braces: lines are joined until they balance.
    let mut statements: Vec<String> = Vec::new();
    let mut depth = 0i32;
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if depth > 0 {
            let last = statements.last_mut().expect("an open brace has a line");
            write!(last, " {line}").unwrap();
        } else {
            statements.push(line.to_owned());
        }
        depth += line.chars().fold(0, |sum, c| sum + i32::from(c == '{') - i32::from(c == '}'));
    }
    statements.iter().map(|statement| input(statement)).collect()
}

fn input(line: &str) -> Input {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word == "drop" {
        let (word, name) = rest.split_once(' ').expect("what to drop");
        return Input::Remove(key(word, name.trim()));
    }
    Input::Put(object(word, rest.trim()))
}

fn key(word: &str, name: &str) -> Key {
    let kind = match word {
        "ns" | "sa" | "profile" => Kind::Profile,
        "pod" => Kind::WorkloadEndpoint,
        "netset" => Kind::NetworkSet,
        "gnetset" => Kind::GlobalNetworkSet,
        "np" => Kind::NetworkPolicy,
        "gnp" => Kind::GlobalNetworkPolicy,
        "tier" => Kind::Tier,
        "pool" => Kind::IpPool,
        "node" => Kind::Node,
        "felix" => Kind::FelixConfiguration,
        other => panic!("unknown word {other:?}"),
    };
    match word {
        "ns" => Key::resource(kind, None, &format!("kns.{name}")),
        "sa" => Key::resource(kind, None, &format!("ksa.{}", name.replace('/', "."))),
        _ => match name.split_once('/') {
            Some((namespace, name)) => Key::resource(kind, Some(namespace), name),
            None => Key::resource(kind, None, name),
        },
    }
}

fn object(word: &str, rest: &str) -> Object {
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (namespace, local) = name.split_once('/').unwrap_or(("", name));
    match word {
        "ns" => Profile::for_namespace(name, &words(rest).labels).into(),
        "sa" => Profile::for_service_account(namespace, local, &words(rest).labels).into(),
        "pod" => pod(namespace, local, &words(rest)).into(),
        "netset" => {
            let (nets, labels) = nets(rest);
            let mut set = NetworkSet::namespaced(
                namespace,
                local,
                NetworkSetSpec { nets, ..Default::default() },
            );
            set.metadata.labels = labels;
            set.into()
        }
        "gnetset" => {
            let (nets, labels) = nets(rest);
            let mut set =
                GlobalNetworkSet::new(name, GlobalNetworkSetSpec { nets, ..Default::default() });
            set.metadata.labels = labels;
            set.into()
        }
        "np" => Object::NetworkPolicy(yaml(namespace, local, rest)),
        "gnp" => Object::GlobalNetworkPolicy(yaml("", name, rest)),
        "tier" => Object::Tier(yaml("", name, rest)),
        "profile" => Object::Profile(yaml("", name, rest)),
        "pool" => Object::IpPool(yaml("", name, rest)),
        "node" => Object::Node(yaml("", name, rest)),
        "felix" => Object::FelixConfiguration(yaml("", name, rest)),
        other => panic!("unknown word {other:?}"),
    }
}

fn yaml<S: Spec>(namespace: &str, name: &str, text: &str) -> Box<Resource<S>> {
    let spec = if text.is_empty() {
        S::default()
    } else {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    let metadata = ObjectMeta::namespaced(namespace, name);
    Box::new(Resource::with_metadata(metadata, spec))
}

#[derive(Default)]
struct Words {
    labels: BTreeMap<String, String>,
    addresses: Vec<String>,
    ports: Vec<WorkloadEndpointPort>,
    profiles: Option<Vec<String>>,
}

fn words(text: &str) -> Words {
    let mut out = Words::default();
    for word in text.split_whitespace() {
        if let Some(port) = word.strip_prefix('@') {
            let (name, port) = port.split_once('=').expect("@name=proto:port");
            let (protocol, port) = port.split_once(':').expect("@name=proto:port");
            out.ports.push(WorkloadEndpointPort {
                name: name.to_owned(),
                protocol: Some(protocol.parse().unwrap()),
                port: port.parse().unwrap(),
                ..Default::default()
            });
        } else if let Some(profile) = word.strip_prefix('!') {
            let profiles = out.profiles.get_or_insert_default();
            profiles.extend((!profile.is_empty()).then(|| profile.to_owned()));
        } else if let Some((key, value)) = word.split_once('=') {
            out.labels.insert(key.to_owned(), value.to_owned());
        } else {
            out.addresses.push(word.to_owned());
        }
    }
    out
}

fn pod(namespace: &str, name: &str, words: &Words) -> WorkloadEndpoint {
    let mut labels = words.labels.clone();
    let node = labels.remove("node").unwrap_or_else(|| NODE.to_owned());
    let account = labels.remove("sa").unwrap_or_default();
    let profiles = words.profiles.clone().unwrap_or_else(|| {
        let account = (!account.is_empty()).then(|| format!("ksa.{namespace}.{account}"));
        std::iter::once(format!("kns.{namespace}")).chain(account).collect()
    });
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node,
        service_account_name: account,
        ip_networks: words.addresses.iter().map(|text| text.parse().unwrap()).collect(),
        profiles,
        interface_name: format!("cali{name}"),
        ports: words.ports.clone(),
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced(namespace, name, spec);
    endpoint.metadata.labels = labels;
    endpoint
}

fn nets(text: &str) -> (Vec<calico_core::resource::Cidr>, BTreeMap<String, String>) {
    let words = words(text);
    (words.addresses.iter().map(|net| net.parse().unwrap()).collect(), words.labels)
}

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

impl Rig {
    pub(crate) fn handle(&mut self, input: &Input) {
        self.graph.handle(input.clone()).unwrap_or_else(|error| panic!("{error}"));
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
    let Desired { sets, rules, endpoints, pools, .. } = &rig.desired;
    assert!(sets.is_empty() && rules.is_empty() && endpoints.is_empty() && pools.is_empty());
    assert_eq!(rig.graph.stats(), Graph::for_node(NODE).stats());
}

/// Updates as text, one a line, without the hashes that name sets:
/// `set +10.0.0.1/32 -10.0.0.2/32`, `rules NetworkPolicy a/p`, `endpoint a/x default[a/p|]`.
pub(crate) fn render(updates: &[Update]) -> String {
    let mut out = String::new();
    for update in updates {
        let line = match update {
            Update::Set { members, .. } => format!("set = {}", members_text("", members)),
            Update::SetDelta { added, removed, .. } => {
                let text = [members_text("+", added), members_text("-", removed)];
                format!("set {}", text.join(" ").trim())
            }
            Update::SetRemoved(_) => "no set".to_owned(),
            Update::Rules { owner, rules } => {
                format!("rules {owner} {}+{}", rules.ingress.len(), rules.egress.len())
            }
            Update::RulesRemoved(owner) => format!("no rules {owner}"),
            Update::Endpoint(endpoint) => {
                let names = |list: &[calico_core::dataplane::PolicyId]| {
                    let names: Vec<&str> = list.iter().map(|id| &*id.name).collect();
                    names.join(",")
                };
                let tiers = endpoint.tiers.iter().map(|tier| {
                    format!(" {}[{}|{}]", tier.tier, names(&tier.ingress), names(&tier.egress))
                });
                format!("endpoint {}{}", endpoint.id, tiers.collect::<String>())
            }
            Update::EndpointRemoved(id) => format!("no endpoint {id}"),
            Update::Pools(pools) => format!("{} pools", pools.len()),
            Update::Host(_) => "host".to_owned(),
            other => format!("{other:?}"),
        };
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
    out
}

fn members_text(sign: &str, members: &[calico_core::dataplane::SetMember]) -> String {
    use calico_core::dataplane::SetMember;
    let texts = members.iter().map(|member| match member {
        SetMember::Net(net) => format!("{sign}{net}"),
        SetMember::Port { address, protocol, port } => format!("{sign}{address}/{protocol}/{port}"),
    });
    texts.collect::<Vec<_>>().join(" ")
}
