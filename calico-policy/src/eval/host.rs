//! What becomes of a packet at a host endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    Direction, Failsafe, HostEndpoint, HostInterface, HostSettings, Verdict, VerdictCause,
};
use serde::Serialize;

use super::{Decision, Packet, Step, TierEnd};
use crate::desired::Desired;

/// A stage of the way through a host, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Stage {
    /// Before connection tracking (`doNotTrack`).
    Untracked,
    /// Before destinations are translated (`preDNAT`).
    PreDnat,
    /// Packets from or to the host itself.
    Local,
    /// Packets that the host forwards (`applyOnForward`).
    Forward,
}

impl Desired {
    /// The host endpoint that an interface with these addresses is: by its name, else by an
    /// address, else the one for all interfaces; of several, the first by name.
    #[must_use]
    pub fn host_endpoint_of(&self, interface: &str, addresses: &[IpAddr]) -> Option<&HostEndpoint> {
        let rank = |endpoint: &HostEndpoint| match &endpoint.interface {
            HostInterface::Named(name) => (**name == *interface).then_some(0),
            HostInterface::Addressed(expected) => {
                expected.iter().any(|address| addresses.contains(address)).then_some(1)
            }
            HostInterface::All => Some(2),
            _ => None,
        };
        let ranked = self.host_endpoints.values().filter_map(|e| Some((rank(e)?, &e.name, e)));
        ranked
            .min_by_key(|(rank, name, _)| (*rank, Arc::clone(name)))
            .map(|(.., endpoint)| endpoint)
    }

    /// What becomes of a packet that comes in (`Ingress`) or goes out (`Egress`) over a host
    /// endpoint: the host's own, or `forwarded` by it.
    #[must_use]
    pub fn evaluate_host(
        &self,
        endpoint: &HostEndpoint,
        direction: Direction,
        forwarded: bool,
        packet: &Packet,
    ) -> Decision {
        let mut steps = Vec::new();
        let (verdict, cause) = stages(direction, forwarded)
            .iter()
            .find_map(|stage| self.stage(endpoint, *stage, direction, packet, &mut steps))
            .unwrap_or((Verdict::Allowed, VerdictCause::NoForwardPolicy));
        Decision { verdict, cause, steps }
    }

    fn stage(
        &self,
        endpoint: &HostEndpoint,
        stage: Stage,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Option<(Verdict, VerdictCause)> {
        steps.push(Step::Stage(stage));
        if self.is_failsafe(stage, direction, packet) {
            steps.push(Step::Failsafe);
            // In an early stage it only keeps policies of that stage away.
            return (stage == Stage::Local).then_some((Verdict::Allowed, VerdictCause::Failsafe));
        }
        match stage {
            Stage::Untracked => {
                self.tiers_decide(&endpoint.untracked, TierEnd::Idle, direction, packet, steps)
            }
            Stage::PreDnat => {
                self.tiers_decide(&endpoint.pre_dnat, TierEnd::Idle, direction, packet, steps)
            }
            Stage::Forward => {
                self.tiers_decide(&endpoint.forward, TierEnd::Acts, direction, packet, steps)
            }
            Stage::Local => Some(
                self.tiers_decide(&endpoint.local, TierEnd::Acts, direction, packet, steps)
                    .unwrap_or_else(|| {
                        self.profiles_decide(&endpoint.profiles, direction, packet, steps)
                    }),
            ),
        }
    }

    fn is_failsafe(&self, stage: Stage, direction: Direction, packet: &Packet) -> bool {
        let default = HostSettings::default();
        let host = self.host.as_ref().unwrap_or(&default);
        if stage != Stage::Forward && is_neighbour_discovery(packet) {
            return true;
        }
        let Some((source, destination)) = packet.ports else { return false };
        let (own, others, peer) = match direction {
            Direction::Ingress => (&host.failsafe_inbound, &host.failsafe_outbound, packet.source),
            Direction::Egress => {
                (&host.failsafe_outbound, &host.failsafe_inbound, packet.destination)
            }
        };
        let holds = |list: &[Failsafe], port: u16| {
            list.iter().any(|failsafe| {
                (failsafe.protocol, failsafe.port) == (packet.protocol, port)
                    && failsafe.net.is_none_or(|net| net.contains(&peer))
            })
        };
        match stage {
            Stage::Forward => false,
            // What answers a packet of the other direction is not tracked, so not known as such.
            Stage::Untracked => holds(own, destination) || holds(others, source),
            Stage::PreDnat | Stage::Local => holds(own, destination),
        }
    }
}

/// Router and neighbour solicitation and advertisement (RFC 4861). Without them no port of a host
/// is reached over IPv6, whatever stays open.
const fn is_neighbour_discovery(packet: &Packet) -> bool {
    packet.protocol == 58 && matches!(packet.icmp, Some((133..=136, _)))
}

const fn stages(direction: Direction, forwarded: bool) -> &'static [Stage] {
    match (direction, forwarded) {
        (Direction::Ingress, false) => &[Stage::Untracked, Stage::PreDnat, Stage::Local],
        (Direction::Ingress, true) => &[Stage::Untracked, Stage::PreDnat, Stage::Forward],
        (Direction::Egress, false) => &[Stage::Untracked, Stage::Local],
        (Direction::Egress, true) => &[Stage::Forward],
    }
}
