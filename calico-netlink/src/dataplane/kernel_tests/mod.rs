//! The dataplane in the running kernel, judged by real packets. Each test has namespaces of its
//! own.

mod ahead;
mod clauses;
mod continuity;
mod costs;
mod dscp;
mod established;
mod flood;
mod flows;
mod guards;
mod host;
mod lab;
mod lifecycle;
mod limits;
mod meddling;
mod owner;
mod policy;
mod recheck;
mod refusals;
mod repair;
mod settings;
mod style;
mod translate;
mod tunnels;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use calico_core::Kind;
use calico_core::dataplane::{
    Action, Applied, Dataplane, DefaultAction, Direction, EndpointId, PolicyId, PortRange, Rule,
    RuleId, RuleOwner, RuleSet, SetId, SetKind, SetMember, TierPolicies, Transaction, Update,
    VerdictEvent, VerdictStream, WorkloadEndpoint,
};
use futures_util::StreamExt;

use self::lab::Pod;
use super::{LinuxDataplane, NoRoutes};
use crate::nft::Socket;
pub(super) use crate::nft::test_support::in_new_netns;
use crate::nft::wire::Family;

async fn open() -> LinuxDataplane {
    LinuxDataplane::open(Arc::new(NoRoutes)).await.unwrap()
}

async fn apply(dataplane: &LinuxDataplane, updates: Vec<Update>) -> Applied {
    dataplane.apply(Transaction { revision: 7, updates }).await.unwrap()
}

fn policy(name: &str) -> PolicyId {
    PolicyId { kind: Kind::NetworkPolicy, namespace: Some("prod".into()), name: name.into() }
}

fn endpoint_id(pod: &Pod) -> EndpointId {
    EndpointId { namespace: "prod".into(), name: pod.interface.as_str().into() }
}

/// An endpoint judged by one policy in each direction, in tier `default`, if it is named.
fn endpoint(pod: &Pod, ingress: &[&str], egress: &[&str]) -> WorkloadEndpoint {
    let tier = TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        ingress: ingress.iter().map(|name| policy(name)).collect(),
        egress: egress.iter().map(|name| policy(name)).collect(),
    };
    let addresses = [pod.v4, pod.v6].map(Into::into);
    WorkloadEndpoint {
        id: endpoint_id(pod),
        interface: pod.interface.as_str().into(),
        addresses: addresses.into(),
        allowed_sources: Vec::new(),
        limits: Default::default(),
        tiers: vec![tier],
        profiles: vec!["open".into()],
    }
}

fn rule(owner: &RuleOwner, direction: Direction, index: u16, action: Action) -> Rule {
    Rule::any(RuleId { owner: owner.clone(), direction, index }, action)
}

/// A profile that allows everything, for the direction that a test is not about.
fn open_profile() -> Update {
    let owner = RuleOwner::Profile("open".into());
    let rules = RuleSet {
        ingress: vec![rule(&owner, Direction::Ingress, 0, Action::Allow)],
        egress: vec![rule(&owner, Direction::Egress, 0, Action::Allow)],
    };
    Update::Rules { owner, rules }
}

type RuleSpec<'a> = (Action, &'a dyn Fn(&mut Rule));

/// A policy with these ingress rules, given as action and a change to a rule that matches all.
fn ingress_policy(name: &str, rules: &[RuleSpec<'_>]) -> Update {
    policy_update(name, Direction::Ingress, rules)
}

fn policy_update(name: &str, direction: Direction, rules: &[RuleSpec<'_>]) -> Update {
    let owner = RuleOwner::Policy(policy(name));
    let rules = rules.iter().enumerate().map(|(index, (action, change))| {
        let mut rule = rule(&owner, direction, u16::try_from(index).unwrap(), *action);
        change(&mut rule);
        rule
    });
    let mut set = RuleSet::default();
    match direction {
        Direction::Ingress => set.ingress = rules.collect(),
        Direction::Egress => set.egress = rules.collect(),
    }
    Update::Rules { owner, rules: set }
}

fn address_set(id: &str, pods: &[&Pod]) -> Update {
    let members = pods.iter().flat_map(|pod| [pod.v4, pod.v6]);
    Update::Set {
        id: id.into(),
        kind: SetKind::Address,
        members: members.map(|address| SetMember::Net(address.into())).collect(),
    }
}

fn ports(first: u16, last: u16) -> Vec<PortRange> {
    vec![PortRange { first, last }]
}

fn in_set(id: &str) -> Vec<SetId> {
    vec![id.into()]
}

async fn next(verdicts: &mut VerdictStream) -> VerdictEvent {
    let event = tokio::time::timeout(Duration::from_secs(20), verdicts.next()).await;
    event.expect("a verdict event within twenty seconds").expect("the stream goes on")
}

/// A server that two port ranges of UDP are allowed to, from one client.
fn everything(server: &Pod, client: &Pod) -> Vec<Update> {
    let rules = ingress_policy(
        "udp",
        &[(Action::Allow, &|rule| {
            rule.protocol = Some(17);
            rule.source.sets = in_set("s:client");
            rule.destination.ports = [ports(7, 9), ports(70, 70)].concat();
        })],
    );
    vec![
        address_set("s:client", &[client]),
        open_profile(),
        rules,
        Update::Endpoint(endpoint(server, &["udp"], &[])),
        Update::Endpoint(endpoint(client, &[], &[])),
        Update::InSync,
    ]
}

/// The chain that packets to a workload go to.
fn chain_of(table: &crate::nft::Ruleset, interface: &str) -> Option<String> {
    let map = &table.sets["cali-to-wl-dispatch"].elements;
    let named = |e: &&crate::nft::wire::Element| e.key.starts_with(interface.as_bytes());
    map.iter().find(named)?.verdict.as_ref()?.chain().map(str::to_owned)
}

async fn table() -> Option<crate::nft::Ruleset> {
    Socket::open().unwrap().read_table(Family::Inet, "calico").await.unwrap().0
}
