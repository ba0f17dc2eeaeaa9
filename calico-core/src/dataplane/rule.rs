use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::Family;
use crate::kind::Kind;

/// Identity of a set of addresses, such as `s:` and a hash of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub Arc<str>);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for SetId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// What the members of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SetKind {
    /// Single addresses of both families (prefixes of full length).
    Address,
    /// Prefixes of any length, of both families.
    Net,
    /// Address, protocol and port together.
    AddressPort,
}

/// A member of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetMember {
    /// A prefix; of full length in a set of kind [`SetKind::Address`].
    Net(IpNet),
    /// A port of an address.
    Port {
        /// The address.
        address: IpAddr,
        /// IANA protocol number: 6 TCP, 17 UDP, 132 SCTP.
        protocol: u8,
        /// The port.
        port: u16,
    },
}

/// Identity of a policy, across kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, if the kind has one.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    /// `NetworkPolicy prod/web` or `GlobalNetworkPolicy web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Whose a rule is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RuleOwner {
    /// A policy's.
    Policy(PolicyId),
    /// A profile's.
    Profile(Arc<str>),
}

impl fmt::Display for RuleOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Profile(profile) => write!(f, "Profile {profile}"),
        }
    }
}

/// The way of a packet, as seen from the endpoint that policy protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Identity of a rule as its author wrote it: every compiled form carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleId {
    /// Policy or profile.
    pub owner: RuleOwner,
    /// List in which it stands.
    pub direction: Direction,
    /// Position in that list, from 0.
    pub index: u16,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} rule {}", self.owner, self.direction, self.index)
    }
}

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Let it through; evaluation ends.
    Allow,
    /// Drop it; evaluation ends.
    Deny,
    /// Go on with the next tier, or with the profiles after the last one.
    Pass,
    /// Record it and go on with the next rule.
    Log,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// What a rule asks of the source, or of the destination. Every clause that is not empty must
/// hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Side {
    /// The address is in one of these.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address is in every one of these sets.
    pub sets: Vec<SetId>,
    /// The address is in none of these sets.
    pub not_sets: Vec<SetId>,
    /// The port is in one of these ranges, or address, protocol and port are in one of
    /// [`port_sets`](Self::port_sets).
    pub ports: Vec<PortRange>,
    /// Sets of kind [`SetKind::AddressPort`]; see [`ports`](Self::ports).
    pub port_sets: Vec<SetId>,
    /// The port is in none of these ranges.
    pub not_ports: Vec<PortRange>,
    /// Address, protocol and port are in none of these sets.
    pub not_port_sets: Vec<SetId>,
}

/// An ICMP or ICMPv6 type, and maybe a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; any if absent.
    pub code: Option<u8>,
}

/// One rule: every clause must hold for `action` to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What its author calls it.
    pub id: RuleId,
    /// What it does.
    pub action: Action,
    /// Only packets of this family.
    pub family: Option<Family>,
    /// Only this protocol (IANA number).
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// Only this ICMP type; the protocol clause says of which ICMP.
    pub icmp: Option<IcmpMatch>,
    /// Any ICMP type but this.
    pub not_icmp: Option<IcmpMatch>,
    /// Clauses about the source.
    pub source: Side,
    /// Clauses about the destination.
    pub destination: Side,
}

impl Rule {
    /// A rule that matches every packet.
    #[must_use]
    pub fn any(id: RuleId, action: Action) -> Self {
        Self {
            id,
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination: Side::default(),
        }
    }
}

/// The rules of one policy or profile, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RuleSet {
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
}
