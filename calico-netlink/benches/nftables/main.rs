//! What programming the kernel costs beside `nft -f`, and what the rules cost packets.
//!
//! `cargo bench -p calico-netlink --bench nftables`, as root, with `nft` and `ip`. All figures of
//! a run are taken in turns, so that they share the machine's moods. `-- packets` or
//! `-- programming` after that asks for one half.

#![allow(missing_docs, reason = "a program, not a library")]
#![allow(clippy::unwrap_used, reason = "a bench that fails says where")]

mod packets;
mod pods;
mod programming;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Kind;
use calico_core::dataplane::{
    Action, Dataplane as _, DefaultAction, Direction, EndpointId, PolicyId, PortRange, Rule,
    RuleId, RuleOwner, RuleSet, SetKind, SetMember, TierPolicies, Transaction, Update,
    WorkloadEndpoint,
};
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes, Settings};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if asked("programming") {
        programming::run();
    }
    if asked("packets") {
        packets::run();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open() -> LinuxDataplane {
    let settings = Settings { guard_interval: None };
    LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap()
}

async fn apply(dataplane: &LinuxDataplane, updates: Vec<Update>) -> Duration {
    let started = Instant::now();
    let applied = dataplane.apply(Transaction { revision: 1, updates }).await.unwrap();
    assert_eq!(applied.failed, []);
    started.elapsed()
}

fn policy(n: usize) -> PolicyId {
    let name = format!("policy-{n}").into();
    PolicyId { kind: Kind::NetworkPolicy, namespace: Some("default".into()), name }
}

/// A policy of ten rules: a set of addresses and a port each; the last lets port 9 through.
fn rules(n: usize, sets: usize) -> Update {
    let owner = RuleOwner::Policy(policy(n));
    let rule = |index: u16| {
        let id = RuleId { owner: owner.clone(), direction: Direction::Ingress, index };
        let mut rule = Rule::any(id, Action::Allow);
        let port = if index == 9 { 9 } else { 10_000 + index };
        rule.protocol = Some(if index == 9 { 17 } else { 6 });
        rule.destination.ports = vec![PortRange { first: port, last: port }];
        if index != 9 {
            let set = (n * 10 + usize::from(index)) % sets;
            rule.source.sets = vec![format!("s:{set}").as_str().into()];
        }
        rule
    };
    Update::Rules {
        owner: owner.clone(),
        rules: RuleSet { ingress: (0..10).map(rule).collect(), egress: Vec::new() },
    }
}

/// Lets everything out.
fn profile() -> Update {
    let owner = RuleOwner::Profile("open".into());
    let rule = |direction| {
        let id = RuleId { owner: owner.clone(), direction, index: 0 };
        vec![Rule::any(id, Action::Allow)]
    };
    let (ingress, egress) = (rule(Direction::Ingress), rule(Direction::Egress));
    Update::Rules { owner: owner.clone(), rules: RuleSet { ingress, egress } }
}

fn set(n: usize, members: usize) -> Update {
    let member = |m: usize| {
        let address = Ipv4Addr::from(0x0a80_0000 + u32::try_from(n * members + m).unwrap());
        SetMember::Net(IpAddr::V4(address).into())
    };
    Update::Set {
        id: format!("s:{n}").as_str().into(),
        kind: SetKind::Address,
        members: (0..members).map(member).collect(),
    }
}

fn endpoint(n: usize, policies: impl IntoIterator<Item = usize>) -> Update {
    let tier = TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        ingress: policies.into_iter().map(policy).collect(),
        egress: Vec::new(),
    };
    let address = Ipv4Addr::from(0x0a41_0000 + u32::try_from(n).unwrap());
    Update::Endpoint(WorkloadEndpoint {
        id: id(n),
        interface: format!("cali{n}").into(),
        addresses: vec![IpAddr::V4(address).into()],
        allowed_sources: Vec::new(),
        limits: Default::default(),
        tiers: vec![tier],
        profiles: vec!["open".into()],
    })
}

fn id(n: usize) -> EndpointId {
    EndpointId { namespace: "default".into(), name: format!("{n}").into() }
}

fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn best(times: Vec<Duration>) -> Duration {
    times.into_iter().min().unwrap()
}

fn ratio(theirs: Duration, ours: Duration) -> f64 {
    theirs.as_secs_f64() / ours.as_secs_f64()
}
