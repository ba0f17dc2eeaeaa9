//! Looks at a cluster for what nodes that are gone have left, and frees what is proven.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use calico_core::datastore::{Revision, Write};
use calico_core::key::{Key, OwnerType, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AffinityState, WorkloadEndpoint};
use ipnet::IpNet;
use tracing::warn;

use super::Ipam;
use super::claim::{affinity, is_race};
use super::job::Counts;
use super::release::write_or_delete;
use super::view;
use crate::error::IpamError;
use crate::plan::block::{Allocation, Block, Cooldown, ReleaseCheck};
use crate::plan::collect::{Collector, Decision, Doubt, Endpoints, Look, Subject, Verdict};
use crate::plan::owner::Owner;

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deed {
    /// Nothing was to be done yet, or ever.
    None,
    /// It would be free now; nothing was changed, as asked.
    Would,
    /// It is free.
    Freed,
    /// Somebody has changed it since the look: it is looked at again.
    Changed,
    /// The store failed; it is tried again with the next look.
    Failed(IpamError),
}

/// What one call of [`Ipam::collect`] came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Collected {
    /// Nothing can be concluded from what the store shows.
    Doubtful(Doubt),
    /// About each thing of nodes that are gone: what was decided, and what became of it.
    Decided(Vec<(Decision, Deed)>),
}

/// A look, and what it takes to change what was seen.
struct Seen {
    look: Look,
    /// Place in the look, and revision, of blocks whose state is known.
    blocks: HashMap<IpNet, (usize, Revision)>,
    /// Blocks that were changed since.
    changed: HashMap<IpNet, Block>,
    claims: HashMap<(Owner, IpNet), Revision>,
    cooldown: Cooldown,
}

impl Seen {
    /// Takes a block out: should the write fail, nobody knows its state any more.
    fn take(&mut self, cidr: IpNet) -> Option<(Block, Revision)> {
        let (place, revision) = self.blocks.remove(&cidr)?;
        let block = self.changed.remove(&cidr);
        Some((block.or_else(|| self.look.blocks.get(place).cloned())?, revision))
    }

    fn put_back(&mut self, block: Block, revision: Revision) {
        let cidr = block.cidr();
        self.changed.insert(cidr, block);
        self.blocks.insert(cidr, (usize::MAX, revision));
    }
}

impl Ipam {
    /// Looks once for what nodes that are gone have left, lets `collector` decide, and frees what
    /// is proven; with `dry_run` it changes nothing. `now` is the collector's time.
    ///
    /// Any number of programs may do this at the same time, and be stopped at any moment: blocks
    /// and claims are changed only as they were when the look began.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`] if the store cannot be read; nothing was decided then.
    pub async fn collect(
        &self,
        collector: &mut Collector,
        now: Duration,
        dry_run: bool,
    ) -> Result<Collected, IpamError> {
        let mut seen = self.see().await?;
        let decisions = match collector.look(&seen.look, now) {
            Ok(decisions) => decisions,
            Err(doubt) => return Ok(Collected::Doubtful(doubt)),
        };
        let mut decided = Vec::with_capacity(decisions.len());
        for decision in decisions {
            let deed = match (&decision.verdict, &decision.subject) {
                (Verdict::Free, _) if dry_run => Deed::Would,
                (Verdict::Free, Subject::Addresses { handle, allocations, .. }) => {
                    self.free(&mut seen, handle.as_deref(), allocations).await
                }
                (Verdict::Free, Subject::Claim { owner, block }) => {
                    self.unclaim(&mut seen, owner, *block).await
                }
                _ => Deed::None,
            };
            decided.push((decision, deed));
        }
        if !dry_run {
            self.forget_hosts(&decided).await;
            self.sweep(&mut seen).await?;
        }
        Ok(Collected::Decided(decided))
    }

    /// Reads blocks before everything else; see [`Look`].
    async fn see(&self) -> Result<Seen, IpamError> {
        let mut seen = Seen {
            look: Look::default(),
            blocks: HashMap::new(),
            changed: HashMap::new(),
            claims: HashMap::new(),
            cooldown: view::cooldown(&self.config().await?),
        };
        for entry in self.store.list(&Scope::Blocks).await?.entries {
            match Block::read(&entry) {
                Ok(block) => {
                    let place = seen.look.blocks.len();
                    seen.blocks.insert(block.cidr(), (place, entry.revision));
                    seen.look.blocks.push(block);
                }
                Err(error) => warn!(%error, "leaving a block alone that cannot be read"),
            }
        }
        for entry in self.store.list(&Scope::Affinities).await?.entries {
            let Key::Affinity { owner_type, owner, block } = entry.key else { continue };
            let claim = (Owner { kind: owner_type, name: owner }, block);
            seen.claims.insert(claim.clone(), entry.revision);
            seen.look.claims.push(claim);
        }
        let nodes = self.store.list(&Scope::Kind(Kind::Node)).await?;
        seen.look.nodes = nodes.entries.iter().map(|entry| entry.key.name()).collect();
        if seen.look.leaves_anything() {
            seen.look.endpoints = self.endpoints().await?;
        }
        Ok(seen)
    }

    async fn endpoints(&self) -> Result<Endpoints, IpamError> {
        let mut endpoints = Endpoints::default();
        for entry in self.store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await?.entries {
            match entry.decode::<WorkloadEndpoint>() {
                Ok(endpoint) => endpoints.add(endpoint.namespace(), &endpoint.spec),
                Err(error) => {
                    warn!(%error, "freeing nothing: an endpoint cannot be read");
                    endpoints.add_unreadable();
                }
            }
        }
        Ok(endpoints)
    }

    /// Releases the addresses of one owner, block by block.
    async fn free(&self, seen: &mut Seen, handle: Option<&str>, owned: &[Allocation]) -> Deed {
        let mut by_block: HashMap<IpNet, Vec<IpAddr>> = HashMap::new();
        for allocation in owned {
            let holds = |cidr: &&IpNet| cidr.contains(&allocation.address);
            let Some(cidr) = seen.blocks.keys().find(holds) else { return Deed::Changed };
            by_block.entry(*cidr).or_default().push(allocation.address);
        }
        let mut counts = Counts::new();
        let mut deed = Deed::Freed;
        for (cidr, addresses) in by_block {
            match self.free_in(seen, cidr, owned, &addresses).await {
                Deed::Freed => drop(counts.insert(cidr, super::job::count(addresses.len()))),
                other => deed = other,
            }
        }
        if let Some(handle) = handle
            && let Err(error) = self.decrement(handle, &counts).await
        {
            warn!(%error, handle, "a handle counts addresses that are free");
        }
        deed
    }

    async fn free_in(
        &self,
        seen: &mut Seen,
        cidr: IpNet,
        owned: &[Allocation],
        addresses: &[IpAddr],
    ) -> Deed {
        let Some((mut block, revision)) = seen.take(cidr) else { return Deed::Changed };
        let now = self.now();
        block.thaw(seen.cooldown, now);
        for allocation in owned.iter().filter(|a| addresses.contains(&a.address)) {
            let exactly = ReleaseCheck {
                handle: allocation.attributes.handle_id.clone(),
                sequence: allocation.sequence,
            };
            if block.release(allocation.address, &exactly, seen.cooldown, now).is_err() {
                return Deed::Changed;
            }
        }
        let (write, kept) = write_or_delete(&mut block, revision);
        match self.store.write(vec![write]).await {
            Ok(done) => {
                if let (true, Some(revision)) = (kept, done.first()) {
                    seen.put_back(block, *revision);
                }
                Deed::Freed
            }
            Err(failed) if is_race(&failed.error) => Deed::Changed,
            Err(failed) => Deed::Failed(failed.error.into()),
        }
    }

    /// Takes a block from its owner; an empty one goes.
    async fn unclaim(&self, seen: &mut Seen, owner: &Owner, cidr: IpNet) -> Deed {
        let key = owner.affinity_key(cidr);
        let claim = seen.claims.get(&(owner.clone(), cidr)).copied();
        let mut writes = Vec::new();
        if let Some(revision) = claim {
            // Marked first, as by every release: a crash in between is then seen.
            let mark = affinity(AffinityState::PendingDeletion);
            writes.push(Write::update(key.clone(), mark, revision));
        }
        let named = seen.look.blocks.iter().any(|b| b.cidr() == cidr && b.is_owned_by(owner));
        match seen.take(cidr) {
            Some((mut block, revision)) if block.is_owned_by(owner) => {
                block.disown();
                block.release_handle(
                    crate::plan::collect::WINDOWS,
                    Cooldown::default(),
                    self.now(),
                );
                writes.push(write_or_delete(&mut block, revision).0);
            }
            // Somebody else's by now, or changed meanwhile.
            None if named => return Deed::Changed,
            _ => {}
        }
        let marked = match self.store.write(writes).await {
            Ok(done) => claim.and_then(|_| done.first().copied()),
            Err(failed) if is_race(&failed.error) => return Deed::Changed,
            Err(failed) => return Deed::Failed(failed.error.into()),
        };
        let Some(marked) = marked else { return Deed::Freed };
        match self.store.delete(key, Some(marked)).await {
            Ok(_) => Deed::Freed,
            Err(error) if is_race(&error) => Deed::Changed,
            Err(error) => Deed::Failed(error.into()),
        }
    }

    /// Frees addresses that have rested long enough in blocks of nobody, which nobody else writes;
    /// what is empty then goes.
    async fn sweep(&self, seen: &mut Seen) -> Result<(), IpamError> {
        let rests = |block: &&Block| {
            block.owner().is_none()
                && block.data().attributes.iter().any(|a| a.released_at.is_some())
        };
        let resting = seen.look.blocks.iter().filter(rests).map(Block::cidr).collect::<Vec<_>>();
        for cidr in resting {
            let Some((mut block, revision)) = seen.take(cidr) else { continue };
            if block.thaw(seen.cooldown, self.now()) == 0 {
                continue;
            }
            let (write, _) = write_or_delete(&mut block, revision);
            match self.store.write(vec![write]).await {
                Err(failed) if !is_race(&failed.error) => return Err(failed.error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes the marks of hosts of which nothing is left.
    async fn forget_hosts(&self, decided: &[(Decision, Deed)]) {
        let names = |wanted: bool| {
            decided
                .iter()
                .filter(move |(_, deed)| (*deed == Deed::Freed) == wanted)
                .map(|(decision, _)| decision.subject.node())
                .collect::<BTreeSet<_>>()
        };
        for node in names(true).difference(&names(false)) {
            match self.store.delete(Key::IpamHost((*node).to_owned()), None).await {
                Err(error) if !is_race(&error) => warn!(%error, node, "a host's mark stays"),
                _ => {}
            }
        }
    }

    /// Gives up those of `blocks` that are still empty, such as
    /// [`SpareBlocks`](crate::plan::collect::SpareBlocks) names. Returns what it gave up.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`]; the call can be repeated.
    pub async fn give_back(&self, node: &str, blocks: &[IpNet]) -> Result<Vec<IpNet>, IpamError> {
        let owner = Owner::host(node);
        let mut gone = Vec::new();
        for cidr in blocks {
            if self.release_affinity(&owner, *cidr, true).await? {
                gone.push(*cidr);
            }
        }
        Ok(gone)
    }

    /// The blocks that `node` has claimed for good, each with whether it is empty. Addresses that
    /// have rested long enough are free again afterwards, even in a block that nobody writes.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn tidy_blocks(&self, node: &str) -> Result<Vec<(IpNet, bool)>, IpamError> {
        let owner = Owner { kind: OwnerType::Host, name: node.to_owned() };
        let cooldown = view::cooldown(&self.config().await?);
        let mut found = Vec::new();
        for (cidr, (state, _)) in view::claims(&*self.store, &owner).await? {
            let Some((mut block, revision)) = view::block(&self.store, cidr).await? else {
                continue;
            };
            if state != AffinityState::Confirmed || !block.is_owned_by(&owner) {
                continue;
            }
            if block.thaw(cooldown, self.now()) > 0 {
                let write = Write::update(Key::Block(cidr), block.next_write(), revision);
                match self.store.write(vec![write]).await {
                    Err(failed) if !is_race(&failed.error) => return Err(failed.error.into()),
                    // A writer has freed them by itself, or does so with its next write.
                    _ => {}
                }
            }
            found.push((cidr, block.is_empty()));
        }
        Ok(found)
    }
}
