//! What the reference evaluator says a kernel must do with a packet, down to its counters.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::dataplane::{
    Action, DefaultAction, Direction, EndpointId, EndpointToHostAction, Flow, HostEndpoint,
    RuleOwner, Verdict, VerdictCause, WorkloadEndpoint,
};
use calico_policy::desired::Desired;
use calico_policy::eval::{Decision, Packet, Stage, Step};

use crate::lab::{Port, host_addresses};
use crate::scenario::Probe;

/// What becomes of some packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Where each packet arrives that does, by number.
    pub delivered: BTreeMap<u32, Port>,
    /// Packets and bytes that each source counts.
    pub counters: BTreeMap<String, (u64, u64)>,
    /// How often each report is made.
    pub reports: BTreeMap<String, u32>,
    /// Decisions that were made: one at each endpoint that a packet met.
    pub met: Vec<Met>,
}

/// A packet at an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// The packet.
    pub packet: Packet,
    /// Which way it went there.
    pub direction: Direction,
    /// Where, and what became of it.
    pub place: Place,
}

/// Where a packet met a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a workload.
    Workload(EndpointId, Decision),
    /// At a host endpoint; on its way through the host or not.
    Host(Arc<str>, bool, Decision),
    /// On its way from a workload to the host.
    ToHost(EndpointToHostAction),
    /// At an interface like a workload's that is none.
    Unknown,
}

/// What is told when a packet meets a verdict.
#[must_use]
pub fn report(
    verdict: Verdict,
    cause: &VerdictCause,
    direction: Direction,
    interface: &str,
    flow: &Flow,
) -> String {
    let cause = match cause {
        VerdictCause::Rule(id) => id.to_string(),
        other => format!("{other:?}"),
    };
    let port = |port: Option<u16>| port.map_or_else(|| "-".to_owned(), |port| port.to_string());
    format!(
        "{verdict:?} by {cause}, {direction} of {interface}: {} {} -> {} {}, protocol {}",
        flow.source,
        port(flow.source_port),
        flow.destination,
        port(flow.destination_port),
        flow.protocol,
    )
}

impl Outcome {
    /// How many verdicts were compared: one at each workload or host endpoint.
    #[must_use]
    pub fn verdicts(&self) -> u32 {
        let decided = self.met.iter().filter(|met| !matches!(met.place, Place::ToHost(_)));
        u32::try_from(decided.count()).expect("few packets")
    }

    /// Adds what becomes of a packet with this number and length.
    pub fn add(&mut self, desired: &Desired, probe: &Probe, number: u32, length: u16) {
        let (from, to) = (probe.from, Port::of(probe.packet.destination));
        let leaves = match from {
            Port::Pod(_) => self.leaves(desired, probe, to, length),
            Port::Outside(_) => {
                self.passes_host(desired, probe, from, Direction::Ingress, to != Port::Host, length)
            }
            Port::Host => true,
        };
        let arrives = leaves
            && match to {
                // The host always reaches its workloads.
                Port::Pod(_) if from == Port::Host => true,
                Port::Pod(_) => self.enters(desired, probe, to, length),
                Port::Outside(_) => {
                    let forwarded = from != Port::Host;
                    self.passes_host(desired, probe, to, Direction::Egress, forwarded, length)
                }
                Port::Host => true,
            };
        if arrives {
            self.delivered.insert(number, to);
        }
    }

    /// At the host endpoint that the host's interface to `at` is, if it is one.
    fn passes_host(
        &mut self,
        desired: &Desired,
        probe: &Probe,
        at: Port,
        direction: Direction,
        forwarded: bool,
        length: u16,
    ) -> bool {
        let Some(endpoint) = host_endpoint(desired, at) else { return true };
        let decision = desired.evaluate_host(endpoint, direction, forwarded, &probe.packet);
        let place = Place::Host(Arc::clone(&endpoint.name), forwarded, decision.clone());
        self.meets(probe, direction, place);
        let mut counted = false;
        for step in &decision.steps {
            match step {
                // Without policies of its own an early stage has no rules at all.
                Step::Stage(stage) => {
                    let of_stage = match stage {
                        Stage::Untracked => &endpoint.untracked,
                        Stage::PreDnat => &endpoint.pre_dnat,
                        _ => &endpoint.local,
                    };
                    counted = *stage == Stage::Local
                        || of_stage.iter().any(|tier| match direction {
                            Direction::Ingress => !tier.ingress.is_empty(),
                            Direction::Egress => !tier.egress.is_empty(),
                        });
                }
                Step::Failsafe if counted => self.count(&format!("failsafe {direction}"), length),
                _ => {}
            }
        }
        self.decided(probe, at, direction, &decision, length)
    }

    fn leaves(&mut self, desired: &Desired, probe: &Probe, to: Port, length: u16) -> bool {
        let Some(endpoint) = behind(desired, probe.from) else {
            self.meets(probe, Direction::Egress, Place::Unknown);
            self.count("unknown endpoint", length);
            self.report(probe, probe.from, Direction::Egress, &VerdictCause::UnknownEndpoint);
            return false;
        };
        let decision = desired.evaluate(endpoint, Direction::Egress, &probe.packet);
        let place = Place::Workload(endpoint.id.clone(), decision.clone());
        self.meets(probe, Direction::Egress, place);
        if decision.cause == VerdictCause::Spoofed {
            self.count("source is not the endpoint's", length);
        }
        if decision.cause == VerdictCause::Encapsulated {
            let vxlan = probe.packet.protocol == 17;
            self.count(
                if vxlan { "VXLAN from a workload" } else { "IPIP from a workload" },
                length,
            );
        }
        let leaves = self.decided(probe, probe.from, Direction::Egress, &decision, length);
        leaves && (to != Port::Host || self.enters_host(desired, probe, length))
    }

    fn meets(&mut self, probe: &Probe, direction: Direction, place: Place) {
        self.met.push(Met { packet: probe.packet, direction, place });
    }

    /// From a workload, whose own policy let it leave.
    fn enters_host(&mut self, desired: &Desired, probe: &Probe, length: u16) -> bool {
        let action = desired.host.as_ref().map(|host| host.endpoint_to_host).unwrap_or_default();
        self.meets(probe, Direction::Egress, Place::ToHost(action));
        if action != EndpointToHostAction::Return {
            self.count("defaultEndpointToHostAction", length);
        }
        action != EndpointToHostAction::Drop
    }

    fn enters(&mut self, desired: &Desired, probe: &Probe, to: Port, length: u16) -> bool {
        let Some(endpoint) = behind(desired, to) else {
            self.meets(probe, Direction::Ingress, Place::Unknown);
            self.count("unknown endpoint", length);
            self.report(probe, to, Direction::Ingress, &VerdictCause::UnknownEndpoint);
            return false;
        };
        let decision = desired.evaluate(endpoint, Direction::Ingress, &probe.packet);
        let place = Place::Workload(endpoint.id.clone(), decision.clone());
        self.meets(probe, Direction::Ingress, place);
        self.decided(probe, to, Direction::Ingress, &decision, length)
    }

    fn decided(
        &mut self,
        probe: &Probe,
        at: Port,
        direction: Direction,
        decision: &Decision,
        length: u16,
    ) -> bool {
        for step in &decision.steps {
            match step {
                Step::Rule { id, action, mismatch: None } => {
                    self.count(&id.to_string(), length);
                    if *action == Action::Log {
                        let cause = VerdictCause::Rule(id.clone());
                        let flow = probe.packet.flow();
                        let interface = at.interface();
                        let line = report(Verdict::Logged, &cause, direction, &interface, &flow);
                        *self.reports.entry(line).or_default() += 1;
                    }
                    let is_last = matches!(id.owner, RuleOwner::Profile(_));
                    let denies = *action == Action::Deny || is_last && *action == Action::Pass;
                    assert!(!denies || decision.verdict == Verdict::Denied, "{decision}");
                }
                Step::TierEnd { tier, action: DefaultAction::Deny } => {
                    self.count(&format!("end of tier {tier} {direction}"), length);
                }
                Step::End => self.count(&format!("no profile matched {direction}"), length),
                _ => {}
            }
        }
        if decision.verdict == Verdict::Denied {
            self.report(probe, at, direction, &decision.cause);
        }
        decision.verdict == Verdict::Allowed
    }

    fn count(&mut self, by: &str, length: u16) {
        let counter = self.counters.entry(by.to_owned()).or_default();
        counter.0 += 1;
        counter.1 += u64::from(length);
    }

    fn report(&mut self, probe: &Probe, at: Port, direction: Direction, cause: &VerdictCause) {
        let flow = probe.packet.flow();
        let line = report(Verdict::Denied, cause, direction, &at.interface(), &flow);
        *self.reports.entry(line).or_default() += 1;
    }
}

/// The endpoint that is configured behind a port.
#[must_use]
pub fn behind(desired: &Desired, port: Port) -> Option<&WorkloadEndpoint> {
    let interface = port.interface();
    desired.endpoints.values().find(|endpoint| *endpoint.interface == *interface)
}

/// The host endpoint that the host's interface to a port is.
#[must_use]
pub fn host_endpoint(desired: &Desired, port: Port) -> Option<&HostEndpoint> {
    let Port::Outside(n) = port else { return None };
    desired.host_endpoint_of(&port.interface(), &host_addresses(n))
}

/// As [`behind`], its identity.
#[must_use]
pub fn id_behind(desired: &Desired, port: Port) -> Option<EndpointId> {
    behind(desired, port).map(|endpoint| endpoint.id.clone())
}
