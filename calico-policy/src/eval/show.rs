//! Traces for people.

use std::fmt;

use calico_core::dataplane::{Verdict, VerdictCause};

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
        write!(f, "  => {verdict} by {}", cause_text(&self.cause))
    }
}

/// What decided, as people call it.
pub(crate) fn cause_text(cause: &VerdictCause) -> String {
    match cause {
        VerdictCause::Rule(id) => id.to_string(),
        VerdictCause::EndOfTier(tier) => format!("the end of tier {tier}"),
        VerdictCause::NoProfileMatch => "default: no profile allowed it".to_owned(),
        VerdictCause::Spoofed => "the check of source addresses".to_owned(),
        VerdictCause::Encapsulated => "the check for tunnels".to_owned(),
        VerdictCause::Failsafe => "the list of failsafe ports".to_owned(),
        VerdictCause::NoForwardPolicy => "default: no policy for forwarded packets".to_owned(),
        VerdictCause::UnknownEndpoint => "default: the endpoint is unknown".to_owned(),
        _ => "another cause".to_owned(),
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
