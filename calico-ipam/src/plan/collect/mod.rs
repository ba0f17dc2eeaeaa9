//! Which addresses and claims of nodes that are gone nobody needs any more. Decisions only: what a
//! [`Look`] at the cluster shows goes in, with the time; [`Decision`]s with their evidence come out.
//!
//! Nothing is freed on one word. An address of a workload goes only if its node's resource is gone
//! *and* no endpoint has the address, the container or (on that node) the pod; that of a tunnel,
//! and a claim on a block, only if besides nothing else of the node is left. All of it must have
//! been so in several looks over a [grace](Settings::grace) time without a break, for the very same
//! assignment. Whatever is not known for sure counts as in use: addresses without a node, of
//! virtual machines, of load balancers, or with a second owner that is there.

mod collector;
mod look;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

pub(crate) use self::collector::WINDOWS;
pub use self::collector::{Collector, SpareBlocks};
pub use self::look::{Endpoints, Look};

use super::block::Allocation;
use super::owner::Owner;

/// How sure a [`Collector`] wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long something must have been suspect. Upstream's `leakGracePeriod`: 15 minutes.
    pub grace: Duration,
    /// In how many looks, the last included.
    pub looks: u32,
    /// Time between two looks after which nothing of the first counts: the collector may have been
    /// paused, and what it did not see may have happened.
    pub gap: Duration,
    /// Owners and claims that are freed in one look at most.
    pub most: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self { grace: minutes(15), looks: 3, gap: minutes(15), most: 100 }
    }
}

/// Why no decision can rest on a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It shows no node at all.
    NoNodes,
    /// It does not show the node that looks: the store is another one, or an old copy of itself,
    /// or nobody here keeps Node resources.
    WithoutMe,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNodes => "the datastore has no Node resource at all",
            Self::WithoutMe => "the datastore has no Node resource of the node that looks",
        })
    }
}

/// Something that belongs to a node that is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// Addresses of one owner.
    Addresses {
        /// The node that is gone.
        node: String,
        /// The handle that they have in common.
        handle: Option<String>,
        /// The assignments, in order of address.
        allocations: Vec<Allocation>,
    },
    /// A claim on a block; the block may lack, or name the node without a claim.
    Claim {
        /// The node that is gone, as the owner of blocks.
        owner: Owner,
        /// The block.
        block: IpNet,
    },
}

impl Subject {
    /// Its node.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Addresses { node, .. } => node,
            Self::Claim { owner, .. } => &owner.name,
        }
    }

    /// Its addresses; none of a claim.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let allocations = match self {
            Self::Addresses { allocations, .. } => allocations.as_slice(),
            Self::Claim { .. } => &[],
        };
        allocations.iter().map(|allocation| allocation.address)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { handle, .. } => {
                let ips: Vec<String> = self.addresses().map(|ip| ip.to_string()).collect();
                let handle = handle.as_deref().unwrap_or("an owner without handle");
                write!(f, "{} of {handle}", ips.join(", "))
            }
            Self::Claim { owner, block } => write!(f, "claim of {owner} on {block}"),
        }
    }
}

/// Why something of a node that is gone stays.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// An endpoint has the address, or is of the same container or pod.
    Endpoint,
    /// The address has a second owner, on this node, which is there.
    SecondOwner(String),
    /// It is a virtual machine's, which keeps it when its pods go; only an orchestrator knows
    /// whether the machine is gone.
    Machine,
    /// It is neither a workload's nor a tunnel's.
    UnknownOwner,
    /// The node has endpoints, or addresses that stay.
    NodeInUse,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint => f.write_str("an endpoint has it"),
            Self::SecondOwner(node) => write!(f, "a second owner on {node} has it"),
            Self::Machine => f.write_str("a virtual machine may come back for it"),
            Self::UnknownOwner => f.write_str("it is neither a workload's nor a tunnel's"),
            Self::NodeInUse => f.write_str("the node has endpoints or addresses that stay"),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Proven: free it.
    Free,
    /// Proven, but enough is freed with this look.
    Later,
    /// To be looked at again, for so long at least.
    Watch(Duration),
    /// It stays.
    Keep(Reason),
}

/// What was decided, and on what evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// About what.
    pub subject: Subject,
    /// What is to be done.
    pub verdict: Verdict,
    /// How long it has been suspect without a break.
    pub suspect_for: Duration,
    /// In how many looks.
    pub looks: u32,
}

impl Decision {
    /// What speaks for it, in words.
    #[must_use]
    pub fn evidence(&self) -> String {
        let node = self.subject.node();
        let and = match (&self.verdict, &self.subject) {
            (Verdict::Keep(reason), _) => return format!("node {node} is gone, but {reason}"),
            (_, Subject::Addresses { .. }) => "no endpoint has the address, container or pod",
            (_, Subject::Claim { .. }) => "it has no endpoints, and no address of it is in use",
        };
        let (seconds, looks) = (self.suspect_for.as_secs(), self.looks);
        let looks = if looks == 1 { "1 look".to_owned() } else { format!("{looks} looks") };
        format!("node {node} is gone, {and}; so for {seconds} s, in {looks}")
    }
}
