//! Holds blocks, claims, handles and pools against one another, in clusters of any size: of a block
//! only what matters is read, and an address takes eight bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use calico_core::datastore::Entry;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::future::try_join4;
use ipnet::IpNet;
use serde::Deserialize;

use super::Ipam;
use super::report::Finding;
use super::view::read_pools;
use crate::error::IpamError;
use crate::plan::block::Block;
use crate::plan::geometry::{block_len, nth_address};
use crate::plan::owner::Owner;

impl Ipam {
    /// Compares blocks, claims, handles and pools with one another.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn check(&self) -> Result<Vec<Finding>, IpamError> {
        let pools = Scope::Kind(Kind::IpPool);
        let (pools, blocks, claims, handles) = try_join4(
            self.store.list(&pools),
            self.store.list(&Scope::Blocks),
            self.store.list(&Scope::Affinities),
            self.store.list(&Scope::Handles),
        )
        .await?;
        let pools = read_pools(&pools.entries);
        let mut uses = Uses::new(&handles.entries);
        let mut findings = Vec::new();
        let mut owners: HashMap<IpNet, Owner> = HashMap::new();
        for (entry, place) in blocks.entries.iter().zip(0_u32..) {
            let Some(block) = Lean::read(entry) else {
                let error = Block::read(entry).err().map(|error| error.to_string());
                let reason = error.unwrap_or_else(|| format!("{} cannot be read", entry.key));
                findings.push(Finding::Unreadable { reason });
                continue;
            };
            owners.extend(block.owner().map(|owner| (block.cidr, owner)));
            if !pools.iter().any(|pool| pool.cidr.contains(&block.cidr)) {
                findings.push(Finding::OutsidePools { block: block.cidr });
            }
            for (n, handle) in block.handles() {
                if uses.note(handle, place) {
                    continue;
                }
                let Some(address) = nth_address(&block.cidr, n) else { continue };
                findings.push(Finding::NoHandle { address, handle: handle.to_owned() });
            }
        }
        uses.compare(&blocks.entries, &mut findings);
        let mut claimed: HashSet<IpNet> = HashSet::new();
        for entry in &claims.entries {
            let Key::Affinity { owner_type, owner, block } = &entry.key else { continue };
            let owner = Owner { kind: *owner_type, name: owner.clone() };
            if owners.get(block) == Some(&owner) {
                claimed.insert(*block);
            } else {
                let owner = owner.to_string();
                findings.push(Finding::ClaimWithoutBlock { owner, block: *block });
            }
        }
        for (block, owner) in owners.into_iter().filter(|(block, _)| !claimed.contains(block)) {
            findings.push(Finding::BlockWithoutClaim { block, owner: owner.to_string() });
        }
        Ok(findings)
    }
}

/// What a check needs of a block.
#[derive(Deserialize)]
struct Lean<'a> {
    cidr: IpNet,
    #[serde(borrow)]
    affinity: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "hostAffinity")]
    host_affinity: Option<Cow<'a, str>>,
    allocations: Vec<Option<u32>>,
    #[serde(borrow, default)]
    attributes: Vec<LeanAttribute<'a>>,
}

#[derive(Deserialize)]
struct LeanAttribute<'a> {
    #[serde(borrow)]
    handle_id: Option<Cow<'a, str>>,
}

impl<'a> Lean<'a> {
    /// `None` if [`Block::read`] would refuse it, too.
    fn read(entry: &'a Entry) -> Option<Self> {
        let block: Self = serde_json::from_str(&entry.value).ok()?;
        let sound = entry.key == Key::Block(block.cidr)
            && block_len(&block.cidr).is_some_and(|len| len as usize == block.allocations.len())
            && block.allocations.iter().flatten().all(|i| (*i as usize) < block.attributes.len());
        sound.then_some(block)
    }

    fn owner(&self) -> Option<Owner> {
        let older = || self.host_affinity.as_deref().map(Owner::host);
        self.affinity.as_deref().map_or_else(older, Owner::parse)
    }

    /// Ordinal and handle of each address that has one.
    fn handles(&self) -> impl Iterator<Item = (u32, &str)> {
        self.allocations.iter().zip(0..).filter_map(|(index, n)| {
            let attribute = self.attributes.get((*index)? as usize)?;
            Some((n, attribute.handle_id.as_deref()?))
        })
    }
}

/// Which handles have addresses in which blocks.
struct Uses<'a> {
    entries: &'a [Entry],
    places: HashMap<&'a str, u32>,
    /// Places of handle and block, once for each address.
    pairs: Vec<(u32, u32)>,
}

impl<'a> Uses<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        let name = |(entry, place): (&'a Entry, u32)| match &entry.key {
            Key::Handle(name) => Some((name.as_str(), place)),
            _ => None,
        };
        let places = entries.iter().zip(0..).filter_map(name).collect();
        Self { entries, places, pairs: Vec::new() }
    }

    /// Notes an address; false if its handle does not exist.
    fn note(&mut self, handle: &str, block: u32) -> bool {
        let place = self.places.get(handle);
        self.pairs.extend(place.map(|handle| (*handle, block)));
        place.is_some()
    }

    /// Finds handles that count more, or less, than they have.
    fn compare(mut self, blocks: &[Entry], findings: &mut Vec<Finding>) {
        self.pairs.sort_unstable();
        let mut pairs = self.pairs.as_slice();
        for (entry, place) in self.entries.iter().zip(0_u32..) {
            let (own, rest) = pairs.split_at(pairs.partition_point(|(handle, _)| *handle <= place));
            pairs = rest;
            let Ok(stored) = serde_json::from_str::<LeanHandle<'_>>(&entry.value) else {
                let reason = format!("{} cannot be read as a handle", entry.key);
                findings.push(Finding::Unreadable { reason });
                continue;
            };
            for (block, counted) in stored.block {
                let Ok(block) = block.parse::<IpNet>() else { continue };
                let is_there = |(_, nth): &&(u32, u32)| {
                    blocks.get(*nth as usize).is_some_and(|b| b.key == Key::Block(block))
                };
                let found = u32::try_from(own.iter().filter(is_there).count()).unwrap_or(u32::MAX);
                if found != counted {
                    let handle = entry.key.name();
                    findings.push(Finding::CountsTooMuch { handle, block, counted, found });
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct LeanHandle<'a> {
    #[serde(borrow, default)]
    block: BTreeMap<Cow<'a, str>, u32>,
}
