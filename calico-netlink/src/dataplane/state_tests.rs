//! Whatever the order and the cutting of updates, the desired table is the one that a single
//! description of the end would make: nothing leaks, nothing lacks.

use std::collections::BTreeMap;

use calico_core::Kind;
use calico_core::dataplane::{
    Action, DefaultAction, Direction, EndpointId, Limits, PacketRate, PolicyId, Pool, PortRange,
    Rule, RuleId, RuleOwner, RuleSet, SetId, SetKind, SetMember, TierPolicies, Transaction, Update,
    WorkloadEndpoint,
};
use ipnet::IpNet;
use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;

use super::causes::Causes;
use super::families::Families;
use super::state::State;
use crate::nft::wire::Family;
use crate::nft::{Refusal, RuleDef, Ruleset, Subject, Tracker};

/// What was last said about everything: enough to say it again in one go.
#[derive(Debug, Default, Clone)]
struct World {
    sets: BTreeMap<u8, Vec<SetMember>>,
    rules: BTreeMap<u8, Vec<(u8, u8)>>,
    endpoints: BTreeMap<u8, (u8, Vec<u8>, Vec<u8>)>,
    pools: Vec<Pool>,
    /// Some pool was masqueraded once.
    translated: bool,
    /// Families of which some set had members once.
    families: Families,
}

#[derive(Debug, Clone)]
enum Op {
    Set(u8, Vec<u8>),
    Member(u8, u8, bool),
    NoSet(u8),
    Rules(u8, Vec<(u8, u8)>),
    NoRules(u8),
    Endpoint(u8, u8, Vec<u8>, Vec<u8>),
    NoEndpoint(u8),
    Pools(Vec<u8>),
    /// The transaction ends here.
    Cut,
}

fn op() -> impl Strategy<Value = Op> {
    let few = || vec(0..6u8, 0..4);
    prop_oneof![
        (0..3u8, few()).prop_map(|(set, members)| Op::Set(set, members)),
        (0..3u8, 0..6u8, any::<bool>()).prop_map(|(set, m, gain)| Op::Member(set, m, gain)),
        (0..3u8).prop_map(Op::NoSet),
        (0..4u8, vec((0..3u8, 0..6u8), 0..4)).prop_map(|(owner, rules)| Op::Rules(owner, rules)),
        (0..4u8).prop_map(Op::NoRules),
        (0..3u8, 0..2u8, vec(0..3u8, 0..3), vec(0..3u8, 0..3))
            .prop_map(|(e, i, inn, out)| { Op::Endpoint(e, i, inn, out) }),
        (0..3u8).prop_map(Op::NoEndpoint),
        few().prop_map(Op::Pools),
        Just(Op::Cut),
    ]
}

fn set_id(set: u8) -> SetId {
    SetId(format!("s:{set}").into())
}

/// Set 0 holds addresses, set 1 prefixes that overlap, set 2 ports.
fn member(set: u8, m: u8) -> SetMember {
    match set {
        0 if m < 3 => SetMember::Net(format!("10.0.0.{m}/32").parse().unwrap()),
        0 => SetMember::Net(format!("fd00::{m}/128").parse().unwrap()),
        1 => {
            let net: IpNet = format!("10.{}.0.0/{}", m / 2, 14 + m % 3).parse().unwrap();
            SetMember::Net(net.trunc())
        }
        _ => SetMember::Port { address: [10, 0, 0, m].into(), protocol: 6, port: 80 },
    }
}

fn kind(set: u8) -> SetKind {
    [SetKind::Address, SetKind::Net, SetKind::AddressPort][usize::from(set)]
}

/// Owner 3 is a profile, the others are policies.
fn owner(n: u8) -> RuleOwner {
    match n {
        3 => RuleOwner::Profile("p".into()),
        _ => RuleOwner::Policy(policy(n)),
    }
}

fn policy(n: u8) -> PolicyId {
    PolicyId { kind: Kind::GlobalNetworkPolicy, namespace: None, name: format!("{n}").into() }
}

fn rules(n: u8, specs: &[(u8, u8)]) -> RuleSet {
    let direction = |direction| {
        let rule = |(index, (set, shape)): (usize, &(u8, u8))| {
            let index = u16::try_from(index).unwrap();
            let id = RuleId { owner: owner(n), direction, index };
            let action =
                [Action::Allow, Action::Deny, Action::Pass, Action::Log][usize::from(shape % 4)];
            let mut rule = Rule::any(id, action);
            match (shape, set) {
                (0 | 1, 2) => rule.destination.port_sets = vec![set_id(2)],
                (0 | 1, set) => rule.source.sets = vec![set_id(*set)],
                // Constant sets, shared by rules of equal content.
                (2 | 3, _) => {
                    rule.protocol = Some(6);
                    rule.destination.ports =
                        [80, 443].map(|port| PortRange { first: port, last: port }).into();
                }
                _ => {}
            }
            rule
        };
        specs.iter().enumerate().map(rule).collect()
    };
    RuleSet { ingress: direction(Direction::Ingress), egress: direction(Direction::Egress) }
}

fn used_sets(specs: &[(u8, u8)]) -> impl Iterator<Item = u8> {
    specs.iter().filter(|(_, shape)| *shape < 2).map(|(set, _)| *set)
}

fn endpoint_id(n: u8) -> EndpointId {
    EndpointId { namespace: "ns".into(), name: format!("{n}").into() }
}

/// None, of connections, or of packets, too.
fn limits(n: usize) -> Limits {
    let mut limits = Limits::default();
    limits.egress.connections = (n > 0).then_some(7);
    limits.ingress.packets = (n > 1).then_some(PacketRate { per_second: 9, burst: 5 });
    limits
}

fn endpoint(n: u8, (interface, ingress, egress): &(u8, Vec<u8>, Vec<u8>)) -> Update {
    let policies = |of: &[u8]| of.iter().map(|n| policy(*n)).collect();
    let tier = TierPolicies {
        tier: "t".into(),
        default_action: DefaultAction::Deny,
        ingress: policies(ingress),
        egress: policies(egress),
    };
    let addresses = [format!("10.0.0.{n}/32"), format!("10.0.1.{interface}/32")];
    Update::Endpoint(WorkloadEndpoint {
        id: endpoint_id(n),
        interface: format!("cali{n}-{interface}").into(),
        addresses: addresses.map(|net| net.parse().unwrap()).into(),
        allowed_sources: if *interface == 1 {
            vec!["10.9.0.0/16".parse().unwrap()]
        } else {
            vec![]
        },
        limits: if *interface == 0 { limits(ingress.len()) } else { Limits::default() },
        tiers: vec![tier],
        profiles: vec!["p".into()],
    })
}

impl World {
    /// The update for an operation, unless it would make no sense now.
    fn update(&mut self, op: &Op) -> Option<Update> {
        Some(match op {
            Op::Set(set, members) => {
                let members: Vec<_> = members.iter().map(|m| member(*set, *m)).collect();
                self.families.meet(&members);
                self.sets.insert(*set, members.clone());
                Update::Set { id: set_id(*set), kind: kind(*set), members }
            }
            Op::Member(set, m, gain) => {
                let member = member(*set, *m);
                let members = self.sets.get_mut(set)?;
                members.retain(|old| *old != member);
                let (mut added, mut removed) = (vec![], vec![]);
                if *gain {
                    self.families.meet([&member]);
                    members.push(member);
                    added.push(member);
                } else {
                    removed.push(member);
                }
                Update::SetDelta { id: set_id(*set), added, removed }
            }
            Op::NoSet(set) => {
                if self.rules.values().any(|specs| used_sets(specs).any(|used| used == *set)) {
                    return None;
                }
                self.sets.remove(set)?;
                Update::SetRemoved(set_id(*set))
            }
            Op::Rules(n, specs) => {
                if used_sets(specs).any(|set| !self.sets.contains_key(&set)) {
                    return None;
                }
                self.rules.insert(*n, specs.clone());
                Update::Rules { owner: owner(*n), rules: rules(*n, specs) }
            }
            Op::NoRules(n) => {
                self.rules.remove(n)?;
                Update::RulesRemoved(owner(*n))
            }
            Op::Endpoint(n, interface, ingress, egress) => {
                let value = (*interface, ingress.clone(), egress.clone());
                let update = endpoint(*n, &value);
                self.endpoints.insert(*n, value);
                update
            }
            Op::NoEndpoint(n) => {
                self.endpoints.remove(n)?;
                Update::EndpointRemoved(endpoint_id(*n))
            }
            Op::Pools(pools) => {
                let pool = |m: &u8| Pool {
                    cidr: format!("10.{m}.0.0/{}", 14 + m % 3).parse().unwrap(),
                    nat_outgoing: *m < 3,
                };
                self.pools = pools.iter().map(pool).collect();
                self.translated |= self.pools.iter().any(|pool| pool.nat_outgoing);
                Update::Pools(self.pools.clone())
            }
            Op::Cut => return None,
        })
    }

    fn at_once(&self) -> Vec<Update> {
        let mut updates = vec![Update::Pools(self.pools.clone())];
        for (set, members) in &self.sets {
            let (id, kind) = (set_id(*set), kind(*set));
            updates.push(Update::Set { id, kind, members: members.clone() });
        }
        for (n, specs) in &self.rules {
            updates.push(Update::Rules { owner: owner(*n), rules: rules(*n, specs) });
        }
        updates.extend(self.endpoints.iter().map(|(n, value)| endpoint(*n, value)));
        updates
    }
}

fn state() -> State {
    State::new(Tracker::new(Family::Inet, "calico"), Causes::default())
}

fn desired(mut state: State, updates: Vec<Update>) -> (Ruleset, usize) {
    state.apply(Transaction { revision: 1, updates });
    (state.table().desired().clone(), state.failed().len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_way_does_not_matter(ops in vec(op(), 1..40)) {
        let mut world = World::default();
        let mut stepwise = state();
        let mut pending = Vec::new();
        for op in &ops {
            if matches!(op, Op::Cut) {
                let updates = std::mem::take(&mut pending);
                stepwise.apply(Transaction { revision: 0, updates });
            }
            pending.extend(world.update(op));
        }
        let stepwise = desired(stepwise, pending);
        let mut fresh = state();
        fresh.families = world.families;
        if world.translated {
            fresh.keep_translating();
        }
        let at_once = desired(fresh, world.at_once());
        let differences = stepwise.0.differences(&at_once.0);
        prop_assert!(differences.is_empty(), "{differences:?}");
        prop_assert_eq!(stepwise.1, at_once.1);
    }
}

#[test]
fn a_refused_set_takes_its_rules_with_it_and_nothing_else() {
    let refusal = |name: &str| Refusal {
        subject: Some(Subject { verb: "add", kind: "elements of set", name: name.to_owned() }),
        errno: Errno::ENOMEM,
        message: None,
    };
    let mut world = World::default();
    let ops = [
        Op::Set(0, vec![1]),
        Op::Rules(0, vec![(0, 0)]),
        Op::Rules(1, vec![(0, 2)]),
        Op::Rules(3, vec![]),
        Op::Endpoint(0, 0, vec![0], vec![]),
        Op::Endpoint(1, 0, vec![1], vec![]),
    ];
    let updates = ops.iter().filter_map(|op| world.update(op)).collect();
    let mut state = state();
    state.apply(Transaction { revision: 1, updates });
    let whole = state.table().desired().clone();
    assert!(whole.sets.contains_key("cali40s-0"));
    let failed = |state: &State| -> Vec<(EndpointId, bool)> {
        let of = |(id, reason): (_, String)| (id, reason.contains("cali40s-0"));
        state.failed().into_iter().map(of).collect()
    };

    assert!(state.isolate(&[refusal("cali40s-0")]));
    assert_eq!(failed(&state), [(endpoint_id(0), true)], "{:?}", state.failed());
    let left = state.table().desired();
    assert!(!left.sets.contains_key("cali40s-0"));
    let rules = || left.chains.values().flat_map(|chain| &chain.rules);
    assert!(rules().flat_map(RuleDef::sets).all(|set| left.sets.contains_key(set)));
    assert!(!state.isolate(&[refusal("cali40s-0")]), "it is left out already");

    // Another content may pass, and so may the same one later.
    for gain in [true, false] {
        let updates = world.update(&Op::Member(0, 2, gain)).into_iter().collect();
        state.apply(Transaction { revision: 2, updates });
    }
    assert_eq!(state.failed(), []);
    assert_eq!(state.table().desired().differences(&whole), [""; 0]);
    assert!(state.isolate(&[refusal("cali40s-0")]));
    state.retry_refused();
    assert_eq!(state.failed(), []);
    assert_eq!(state.table().desired().differences(&whole), [""; 0]);
    // Nothing works without the sets of the base chains.
    assert!(!state.isolate(&[refusal("cali40workload-sources")]));
}
