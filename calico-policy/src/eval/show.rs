//! Traces for people.

use std::fmt;

use calico_core::dataplane::Verdict;

use super::{Decision, Explanation, Packet, Stage, Step, protocol_name};

impl fmt::Display for Explanation {
    /// The whole trace, one line a step, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_allowed() { "allowed" } else { "denied" };
        writeln!(f, "{}: {verdict}", self.packet)?;
        let both = [("egress", &self.egress), ("ingress", &self.ingress)];
        for (name, decision) in both {
            if let Some(decision) = decision {
                writeln!(f, "{name}:\n{decision}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Decision {
    /// One line a step, indented.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        let verdict = if self.verdict == Verdict::Allowed { "allowed" } else { "denied" };
        write!(f, "  => {verdict} by {}", self.cause)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(tier) => write!(f, "tier {tier}"),
            Self::Rule { id, action, mismatch: None } => write!(f, "  {id}: {action:?}, matches"),
            Self::Rule { id, action, mismatch: Some(why) } => {
                write!(f, "  {id}: {action:?}, no match: {why}")
            }
            Self::NoRules { policy, direction } => write!(f, "  {policy}: no {direction} rules"),
            Self::TierEnd { tier, action } => write!(f, "  end of tier {tier}: {action:?}"),
            Self::Profiles => f.write_str("profiles"),
            Self::End => f.write_str("  nothing matched: Deny"),
            Self::Stage(Stage::Untracked) => f.write_str("before connection tracking"),
            Self::Stage(Stage::PreDnat) => f.write_str("before destination NAT"),
            Self::Stage(Stage::Local) => f.write_str("from or to the host"),
            Self::Stage(Stage::Forward) => f.write_str("forwarded by the host"),
            Self::Failsafe => f.write_str("  failsafe port: no policy is asked"),
            Self::Encapsulated => {
                f.write_str("the packet carries another one, unseen by policy: Deny")
            }
            Self::Spoofed => f.write_str("the source is not an address of the endpoint: Deny"),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.destination)?;
        match (self.ports, self.icmp) {
            (Some((_, port)), _) => write!(f, " {}/{port}", protocol_name(self.protocol)),
            (None, Some((kind, code))) => {
                write!(f, " {} type {kind} code {code}", protocol_name(self.protocol))
            }
            (None, None) => write!(f, " {}", protocol_name(self.protocol)),
        }
    }
}
