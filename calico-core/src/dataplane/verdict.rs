use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use super::rule::{Direction, RuleId};

/// Events of [`Dataplane::verdicts`](super::Dataplane::verdicts).
pub type VerdictStream = Pin<Box<dyn Stream<Item = VerdictEvent> + Send>>;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Let through.
    Allowed,
    /// Dropped.
    Denied,
    /// Recorded by a rule of action Log.
    Logged,
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum VerdictCause {
    /// This rule matched.
    Rule(RuleId),
    /// Policies of this tier selected the endpoint, and no rule of theirs matched.
    EndOfTier(Arc<str>),
    /// No policy selected the endpoint, and no rule of its profiles matched.
    NoProfileMatch,
    /// The source address is not one of the endpoint's.
    Spoofed,
    /// It carries another packet (VXLAN, IP-in-IP), which would pass policy unseen.
    Encapsulated,
    /// It came in a tunnel (VXLAN, IP-in-IP), and not from a node.
    ForeignTunnel,
    /// The port is one that stays open on host endpoints whatever policy says.
    Failsafe,
    /// No policy for packets that the host forwards decided, so it was let through.
    NoForwardPolicy,
    /// The interface belongs to no endpoint that is known.
    UnknownEndpoint,
}

impl fmt::Display for VerdictCause {
    /// As what decided: `denied by the end of tier default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(id) => return id.fmt(f),
            Self::EndOfTier(tier) => return write!(f, "the end of tier {tier}"),
            Self::NoProfileMatch => "default: no profile allowed it",
            Self::Spoofed => "the check of source addresses",
            Self::Encapsulated => "the check for tunnels",
            Self::ForeignTunnel => "the check of tunnels: it is not from a node",
            Self::Failsafe => "the list of failsafe ports",
            Self::NoForwardPolicy => "default: no policy for forwarded packets",
            Self::UnknownEndpoint => "default: the endpoint is unknown",
        })
    }
}

/// The packet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port, of protocols that have them.
    pub source_port: Option<u16>,
    /// Destination port, of protocols that have them.
    pub destination_port: Option<u16>,
}

/// A packet met a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictEvent {
    /// What became of it.
    pub verdict: Verdict,
    /// What decided.
    pub cause: VerdictCause,
    /// As seen from the endpoint that policy protects.
    pub direction: Direction,
    /// The endpoint's interface on this host.
    pub interface: Arc<str>,
    /// The packet.
    pub flow: Flow,
}
