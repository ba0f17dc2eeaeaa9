use std::fmt;
use std::net::IpAddr;

use calico_core::datastore::StoreError;
use calico_core::key::Family;
use ipnet::IpNet;

use crate::plan::pool::{Mismatch, NoPool};

/// Why IPAM refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpamError {
    /// The request makes no sense.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// No pool serves the request.
    #[error("{}", describe_no_pool(*.family, .why))]
    NoPool {
        /// Address family.
        family: Family,
        /// What is wrong with each pool.
        why: NoPool,
    },
    /// The pools have fewer addresses left than asked for.
    #[error("{0}")]
    Exhausted(Shortfall),
    /// The address lies in no pool.
    #[error("{address} is in no IP pool: create one that holds it, or choose another address")]
    NotInPool {
        /// The address.
        address: IpAddr,
    },
    /// Another owner has the address.
    #[error("{address} is in use by {owner}")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Handle and recorded attributes of the owner.
        owner: String,
    },
    /// Strict affinity forbids addresses from blocks of others.
    #[error("{address} lies in block {block} of {owner}, and strict affinity forbids to borrow it")]
    StrictAffinity {
        /// The address.
        address: IpAddr,
        /// Its block.
        block: IpNet,
        /// Whose the block is.
        owner: String,
    },
    /// A release named another owner than the address has.
    #[error("{address} was not released: it belongs to {found}, not to {expected}")]
    OtherOwner {
        /// The address.
        address: IpAddr,
        /// The owner that was named.
        expected: String,
        /// The owner it has.
        found: String,
    },
    /// Other writers were faster, again and again.
    #[error("{what}: gave up after {attempts} attempts, others kept writing; try again")]
    Contention {
        /// What was tried.
        what: String,
        /// How often.
        attempts: u32,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IpamError {
    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Contention { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

/// Fewer addresses than asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Address family.
    pub family: Family,
    /// Number asked for.
    pub wanted: u32,
    /// Number found.
    pub got: u32,
    /// The pools that serve the request.
    pub pools: Vec<PoolFill>,
    /// What stopped it.
    pub limit: Limit,
}

/// A pool, and how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFill {
    /// Name of the pool.
    pub name: String,
    /// Its addresses.
    pub cidr: IpNet,
    /// Addresses that can be assigned no more; `None` if nobody counted.
    pub used: Option<u128>,
    /// All its addresses.
    pub size: u128,
}

/// What stopped an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Every address is taken or reserved.
    Full,
    /// Every block is claimed, and strict affinity forbids to borrow.
    StrictAffinity,
    /// The node owns as many blocks as it may.
    BlocksPerHost(u32),
    /// Nodes may not claim blocks by themselves.
    NoAutoAllocation,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, wanted, got, pools, limit } = self;
        write!(f, "only {got} of {wanted} {family} addresses are left in ")?;
        for (nth, pool) in pools.iter().enumerate() {
            let comma = if nth > 0 { ", " } else { "" };
            write!(f, "{comma}IP pool {} ({}", pool.name, pool.cidr)?;
            match pool.used {
                Some(used) => write!(f, ", {used} of {} used)", pool.size)?,
                None => write!(f, ")")?,
            }
        }
        f.write_str(match limit {
            Limit::Full => ": add an IP pool or release addresses (`calicoctl ipam check`)",
            Limit::StrictAffinity => {
                ": every block belongs to a node and strict affinity forbids to borrow; add an IP \
                 pool, or release blocks of nodes that are gone"
            }
            Limit::BlocksPerHost(_) => {
                ": the node owns as many blocks as it may; raise maxBlocksPerHost"
            }
            Limit::NoAutoAllocation => {
                ": autoAllocateBlocks is off; give the node a block, or turn it on"
            }
        })
    }
}

fn describe_no_pool(family: Family, why: &NoPool) -> String {
    match why {
        NoPool::Unknown(name) => format!("there is no {family} pool {name}: create it first"),
        NoPool::Refused(name, mismatch) => format!("IP pool {name} {mismatch}"),
        NoPool::NoneFits(pools) if pools.is_empty() => {
            format!("there is no {family} pool: create an IPPool")
        }
        NoPool::NoneFits(pools) => {
            let each: Vec<String> = pools
                .iter()
                .map(|(name, why): &(String, Mismatch)| format!("{name} {why}"))
                .collect();
            format!("no {family} pool serves this request: {}", each.join(", "))
        }
    }
}
