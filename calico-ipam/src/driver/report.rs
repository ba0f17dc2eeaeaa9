//! What is in use, and what does not add up.

use std::fmt;
use std::net::IpAddr;

use calico_core::datastore::Entry;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::future::try_join3;
use ipnet::IpNet;
use tracing::warn;

use super::Ipam;
use super::view::{self, read_pools, read_reserved};
use crate::error::IpamError;
use crate::plan::block::{Allocation, Block};
use crate::plan::geometry::size;
use crate::plan::owner::Owner;
use crate::plan::reserved::Reserved;

/// Name of the pool under which [`Ipam::utilization`] lists blocks that lie in no pool.
pub const UNPOOLED: &str = "orphaned allocation blocks";

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUse {
    /// Name of the pool, or [`UNPOOLED`].
    pub name: String,
    /// Its addresses; `0.0.0.0/0` for [`UNPOOLED`].
    pub cidr: IpNet,
    /// Number of addresses.
    pub capacity: u128,
    /// Addresses that somebody has.
    pub in_use: u128,
    /// Addresses held back by reservations and not in use.
    pub reserved: u128,
    /// Addresses that automatic assignment can still give out.
    pub available: u128,
    /// Its blocks that exist.
    pub blocks: Vec<BlockUse>,
}

/// How full a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockUse {
    /// Its addresses.
    pub cidr: IpNet,
    /// Number of addresses.
    pub capacity: u128,
    /// Addresses that somebody has.
    pub in_use: u128,
    /// Addresses held back by reservations and not in use.
    pub reserved: u128,
    /// Addresses that automatic assignment can still give out.
    pub available: u128,
}

/// A block, and who has which of its addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockReport {
    /// Its addresses.
    pub cidr: IpNet,
    /// Its owner.
    pub owner: Option<Owner>,
    /// Number of free addresses.
    pub free: usize,
    /// Addresses that somebody has, or that cool down.
    pub allocations: Vec<Allocation>,
}

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A handle of an address does not exist, so nothing releases the address.
    NoHandle {
        /// The address.
        address: IpAddr,
        /// The handle it names.
        handle: String,
    },
    /// A handle counts addresses that it does not have; harmless.
    CountsTooMuch {
        /// The handle.
        handle: String,
        /// The block.
        block: IpNet,
        /// Addresses by its count.
        counted: u32,
        /// Addresses it has.
        found: u32,
    },
    /// A claim without a block that names the owner; finished or dropped by the next assignment.
    ClaimWithoutBlock {
        /// The owner.
        owner: String,
        /// The block.
        block: IpNet,
    },
    /// A block names an owner that has no claim on it.
    BlockWithoutClaim {
        /// The block.
        block: IpNet,
        /// The owner it names.
        owner: String,
    },
    /// A block lies in no pool.
    OutsidePools {
        /// The block.
        block: IpNet,
    },
    /// An object cannot be read.
    Unreadable {
        /// What and why.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHandle { address, handle } => {
                write!(f, "{address} belongs to handle {handle}, which does not exist")
            }
            Self::CountsTooMuch { handle, block, counted, found } => {
                write!(f, "handle {handle} counts {counted} addresses in {block}, it has {found}")
            }
            Self::ClaimWithoutBlock { owner, block } => {
                write!(f, "{owner} claims {block}, but the block is missing or has another owner")
            }
            Self::BlockWithoutClaim { block, owner } => {
                write!(f, "block {block} names {owner}, which has no claim on it")
            }
            Self::OutsidePools { block } => write!(f, "block {block} lies in no pool"),
            Self::Unreadable { reason } => f.write_str(reason),
        }
    }
}

impl Ipam {
    /// How full each pool and block is. Blocks outside of every pool come last, as [`UNPOOLED`].
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn utilization(&self) -> Result<Vec<PoolUse>, IpamError> {
        let (pools, reservations) = (Scope::Kind(Kind::IpPool), Scope::Kind(Kind::IpReservation));
        let (pools, reservations, blocks) = try_join3(
            self.store.list(&pools),
            self.store.list(&reservations),
            self.store.list(&Scope::Blocks),
        )
        .await?;
        let reserved = read_reserved(&reservations.entries);
        let mut uses: Vec<PoolUse> = read_pools(&pools.entries)
            .into_iter()
            .map(|pool| PoolUse {
                name: pool.name,
                cidr: pool.cidr,
                capacity: size(&pool.cidr),
                in_use: 0,
                reserved: reserved.count_in(&pool.cidr),
                available: 0,
                blocks: Vec::new(),
            })
            .collect();
        let mut unpooled = PoolUse {
            name: UNPOOLED.to_owned(),
            cidr: IpNet::V4(ipnet::Ipv4Net::default()),
            capacity: 0,
            in_use: 0,
            reserved: 0,
            available: 0,
            blocks: Vec::new(),
        };
        for block in blocks.entries.iter().filter_map(|entry| Block::read(entry).ok()) {
            let block_use = block_use(&block, &reserved);
            let home = uses.iter_mut().find(|pool| pool.cidr.contains(&block_use.cidr));
            let pool = home.unwrap_or_else(|| {
                unpooled.capacity += block_use.capacity;
                unpooled.reserved += block_use.reserved;
                &mut unpooled
            });
            pool.in_use += block_use.in_use;
            pool.blocks.push(block_use);
        }
        if !unpooled.blocks.is_empty() {
            uses.push(unpooled);
        }
        for pool in &mut uses {
            pool.available =
                pool.capacity.saturating_sub(pool.in_use.saturating_add(pool.reserved));
        }
        Ok(uses)
    }

    /// Every block, and who has which address.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`], also for a block that cannot be read.
    pub async fn blocks(&self) -> Result<Vec<BlockReport>, IpamError> {
        let listing = self.store.list(&Scope::Blocks).await?;
        let report = |entry| {
            let block = Block::read(entry)?;
            Ok(BlockReport {
                cidr: block.cidr(),
                owner: block.owner(),
                free: block.free(),
                allocations: block.allocations().collect(),
            })
        };
        listing.entries.iter().map(report).collect()
    }

    /// Who has `ip`; `None` if nobody. Reads one block, not all.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn lookup(&self, ip: IpAddr) -> Result<Option<Allocation>, IpamError> {
        let pools = read_pools(&self.store.list(&Scope::Kind(Kind::IpPool)).await?.entries);
        let pool = pools.iter().find(|pool| pool.cidr.contains(&ip));
        if let Some(cidr) = pool.and_then(|pool| pool.geometry.block_of(ip))
            && let Some((block, _)) = view::block(&self.store, cidr).await?
        {
            return Ok(block.allocation(ip));
        }
        // Its pool is gone, or had blocks of another size once.
        let Some(cidr) = self.find_block(ip).await? else { return Ok(None) };
        let found = view::block(&self.store, cidr).await?;
        Ok(found.and_then(|(block, _)| block.allocation(ip)))
    }

    /// Addresses that are recorded as assigned for `node` (attribute `node`), in whichever block.
    /// Blocks that cannot be read are left out.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn addresses_of_host(&self, node: &str) -> Result<Vec<Allocation>, IpamError> {
        let listing = self.store.list(&Scope::Blocks).await?;
        Ok(of_node(&listing.entries, node))
    }

    /// As [`addresses_of_host`](Self::addresses_of_host), but only from blocks that the node has
    /// claimed: what that costs does not grow with the cluster.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn addresses_in_own_blocks(&self, node: &str) -> Result<Vec<Allocation>, IpamError> {
        let claims = view::claims(&*self.store, &Owner::host(node)).await?;
        let mut entries = Vec::with_capacity(claims.len());
        for cidr in claims.into_keys() {
            entries.extend(self.store.find(&Key::Block(cidr)).await?);
        }
        Ok(of_node(&entries, node))
    }
}

/// Addresses of blocks that are recorded as assigned for `node`.
fn of_node(blocks: &[Entry], node: &str) -> Vec<Allocation> {
    let wanted = |allocation: &Allocation| {
        let attributes = &allocation.attributes;
        attributes.released_at.is_none()
            && attributes.secondary.get("node").map(String::as_str) == Some(node)
    };
    let blocks = blocks.iter().filter_map(|entry| {
        Block::read(entry)
            .inspect_err(|error| warn!(%error, "leaving a block alone that cannot be read"))
            .ok()
    });
    blocks.flat_map(|block| block.allocations().filter(wanted).collect::<Vec<_>>()).collect()
}

fn block_use(block: &Block, reserved: &Reserved) -> BlockUse {
    let cidr = block.cidr();
    let in_use = block.allocations().filter(|a| a.attributes.released_at.is_none());
    let in_use: Vec<IpAddr> = in_use.map(|a| a.address).collect();
    let both = in_use.iter().filter(|ip| reserved.contains(**ip)).count();
    let capacity = size(&cidr);
    let reserved = reserved.count_in(&cidr).saturating_sub(both as u128);
    let in_use = in_use.len() as u128;
    BlockUse { cidr, capacity, in_use, reserved, available: capacity - in_use - reserved }
}
