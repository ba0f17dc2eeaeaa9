//! The way of a packet: everybody whose policy is asked about it, in order.

use calico_core::dataplane::{
    DefaultAction, Direction, EndpointToHostAction, HostEndpoint, HostInterface, Verdict,
    VerdictCause,
};
use calico_policy::eval::{Decision, Packet, Step};
use serde_json::{Value, json};

use super::ends::{Flow, Place};
use super::state::State;

/// Who was asked, until one denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) packet: Packet,
    pub(super) hops: Vec<Hop>,
    /// What becomes of packets from a workload to its own host, if this is one.
    pub(super) to_host: Option<EndpointToHostAction>,
    /// What could not be told.
    pub(super) doubts: Vec<String>,
}

/// One who was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) at: At,
    pub(super) direction: Direction,
    pub(super) decision: Decision,
}

/// Whose policy it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    /// That of the workload which sends or receives.
    Workload,
    /// That of a host endpoint, about the host's own packets or those that it forwards.
    Host { name: String, forwarded: bool },
}

/// What becomes of a packet.
pub(super) fn walk(state: &State, flow: &Flow) -> Way {
    let mut way = Way { packet: flow.packet, hops: Vec::new(), to_host: None, doubts: Vec::new() };
    let node = |place: &Place| match place {
        Place::Workload { node, .. } | Place::Host { node, .. } => Some(node.clone()),
        Place::Outside => None,
    };
    let (from, to) = (node(&flow.from), node(&flow.to));
    let leaves_node = from.is_none() || from != to;
    way.end(state, &flow.from, Direction::Egress);
    if leaves_node {
        if let (Place::Workload { node, .. }, true) = (&flow.from, way.goes_on()) {
            way.forwarded(state, node, Direction::Egress);
        }
        if let (Place::Workload { node, .. }, true) = (&flow.to, way.goes_on()) {
            way.forwarded(state, node, Direction::Ingress);
        }
    }
    if !way.goes_on() {
        return way;
    }
    match (&flow.from, &flow.to) {
        (Place::Workload { .. }, Place::Host { .. }) if !leaves_node => {
            let host = state.desired.host.as_ref();
            way.to_host = Some(host.map(|host| host.endpoint_to_host).unwrap_or_default());
        }
        // A host always reaches its own workloads.
        (Place::Host { .. }, Place::Workload { .. }) if !leaves_node => {}
        (_, to) => way.end(state, to, Direction::Ingress),
    }
    way
}

impl Way {
    pub(super) fn is_allowed(&self) -> bool {
        self.goes_on() && self.to_host != Some(EndpointToHostAction::Drop)
    }

    /// The verdict and what decided, in words.
    pub(super) fn verdict(&self) -> String {
        let word = if self.is_allowed() { "allowed" } else { "denied" };
        format!("{word} by {}", self.by())
    }

    /// What decided.
    pub(super) fn by(&self) -> String {
        if self.to_host == Some(EndpointToHostAction::Drop) {
            return "defaultEndpointToHostAction Drop".to_owned();
        }
        let Some(hop) = self.deciding() else { return "no policy applies".to_owned() };
        match (&hop.decision.cause, &hop.at) {
            // It says its direction itself.
            (VerdictCause::Rule(id), _) => id.to_string(),
            (other, At::Workload) => format!("{other} ({})", hop.direction),
            (other, At::Host { name, .. }) => {
                format!("{other} ({} at host endpoint {name})", hop.direction)
            }
        }
    }

    /// The denial, or else the last one who had something to say.
    pub(super) fn deciding(&self) -> Option<&Hop> {
        let says = |hop: &&Hop| hop.decision.cause != VerdictCause::NoForwardPolicy;
        self.hops.iter().rev().find(says).or_else(|| self.hops.last())
    }

    /// At the workload that sends, or receives.
    pub(super) fn at_workload(&self, direction: Direction) -> Option<&Decision> {
        let hop =
            self.hops.iter().find(|hop| (&hop.at, hop.direction) == (&At::Workload, direction));
        hop.map(|hop| &hop.decision)
    }

    /// What host endpoints said, as JSON.
    pub(super) fn hosts(&self) -> Vec<Value> {
        let hosts = self.hops.iter().filter_map(|hop| match &hop.at {
            At::Host { name, forwarded } => Some(json!({
                "hostEndpoint": name,
                "direction": hop.direction,
                "forwarded": forwarded,
                "decision": hop.decision,
            })),
            At::Workload => None,
        });
        hosts.collect()
    }

    fn goes_on(&self) -> bool {
        self.hops.iter().all(|hop| hop.decision.verdict == Verdict::Allowed)
    }

    /// Where the packet begins, or ends.
    fn end(&mut self, state: &State, place: &Place, direction: Direction) {
        match place {
            Place::Workload { id, .. } => {
                if let Some(endpoint) = state.desired.endpoints.get(id) {
                    let decision = state.desired.evaluate(endpoint, direction, &self.packet);
                    self.hops.push(Hop { at: At::Workload, direction, decision });
                }
            }
            Place::Host { name, .. } => {
                if let Some(endpoint) = state.desired.host_endpoints.get(&**name) {
                    self.host(state, endpoint, direction, false);
                }
            }
            Place::Outside => {}
        }
    }

    /// Where a node sends packets of its workloads out, or takes packets for them in.
    fn forwarded(&mut self, state: &State, node: &str, direction: Direction) {
        let says = |endpoint: &HostEndpoint| {
            let mut tiers = endpoint.forward.iter();
            let early = match direction {
                Direction::Ingress => {
                    let rules = endpoint.untracked.iter().chain(&endpoint.pre_dnat);
                    rules.into_iter().any(|tier| !tier.ingress.is_empty())
                }
                Direction::Egress => false,
            };
            early
                || tiers.any(|tier| match direction {
                    Direction::Ingress => !tier.ingress.is_empty(),
                    Direction::Egress => !tier.egress.is_empty(),
                })
        };
        let of_node = state.hosts.iter().filter(|host| host.spec.node == node);
        let found = of_node.filter_map(|host| state.desired.host_endpoints.get(host.name()));
        let mut found: Vec<&HostEndpoint> = found.filter(|endpoint| says(endpoint)).collect();
        // The one of all interfaces is the only one that is certainly on the way.
        found.sort_by_key(|endpoint| endpoint.interface != HostInterface::All);
        let Some(first) = found.first() else { return };
        let others: Vec<&str> = found[1..].iter().map(|endpoint| &*endpoint.name).collect();
        if first.interface != HostInterface::All || !others.is_empty() {
            let others = match others[..] {
                [] => String::new(),
                _ => format!(", and not over those of {}", others.join(", ")),
            };
            self.doubts.push(format!(
                "taken to pass node {node} over {} (host endpoint {}){others}",
                first.interface, first.name
            ));
        }
        self.host(state, first, direction, true);
    }

    fn host(
        &mut self,
        state: &State,
        endpoint: &HostEndpoint,
        direction: Direction,
        forwarded: bool,
    ) {
        let decision = state.desired.evaluate_host(endpoint, direction, forwarded, &self.packet);
        let at = At::Host { name: endpoint.name.to_string(), forwarded };
        self.hops.push(Hop { at, direction, decision });
    }
}

/// The tier that decided; none if profiles did, or no policy at all.
pub(super) fn tier_of(decision: &Decision) -> Option<&str> {
    match decision.cause {
        VerdictCause::Rule(_) | VerdictCause::EndOfTier(_) => {}
        _ => return None,
    }
    let step = decision.steps.iter().rev().find_map(|step| match step {
        Step::Tier(tier) => Some(Some(&**tier)),
        Step::Profiles => Some(None),
        Step::TierEnd { tier, action: DefaultAction::Deny } => Some(Some(&**tier)),
        _ => None,
    });
    step.flatten()
}
