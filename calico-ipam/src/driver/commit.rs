//! The write that assigns: handles, then blocks, then whatever the caller wants along; and what
//! follows if somebody else was faster.

use std::collections::HashMap;

use calico_core::datastore::{Write, WriteFailed};
use calico_core::key::{Family, Key};
use ipnet::IpNet;
use tracing::warn;

use super::Session;
use super::claim::is_race;
use super::job::{Job, Op, Take, count, subtract};
use super::view;
use crate::error::IpamError;
use crate::plan::block::Block;
use crate::request::{Address, Also, Release};

impl Session<'_> {
    /// Writes handles and blocks together. Addresses count as assigned once their block is
    /// written; the handle, written before, then covers them whatever happens.
    pub(super) async fn commit(
        &mut self,
        jobs: &mut [Job<'_>],
        mut takes: Vec<Take>,
        mut scratch: HashMap<IpNet, Block>,
        also: Also<'_>,
    ) -> Result<(), IpamError> {
        let (mut ops, mut writes) = self.plan_writes(jobs, &takes, &mut scratch);
        plan_also(jobs, &takes, also, &mut ops, &mut writes);
        let wanted = ops.iter().filter(|op| matches!(op, Op::Also { .. })).fold(
            HashMap::<usize, usize>::new(),
            |mut wanted, op| {
                if let Op::Also { job } = op {
                    *wanted.entry(*job).or_default() += 1;
                }
                wanted
            },
        );
        // Until the store answers, what is being written is unknown: should this future be
        // dropped now, nobody may build on the old state.
        for op in &ops {
            match op {
                Op::Handle { job, .. } => {
                    if let Some(handle) = &jobs[*job].handle {
                        self.view.handles.remove(handle.id);
                    }
                }
                Op::Block(cidr) => {
                    self.view.blocks.remove(cidr);
                }
                Op::Also { .. } => {}
            }
        }
        let mut along: HashMap<usize, Vec<_>> = HashMap::new();
        let (done, error) = match self.ipam.store.write(writes).await {
            Ok(revisions) => (revisions, None),
            Err(WriteFailed { done, error }) => (done, Some(error)),
        };
        let mut ops = ops.into_iter();
        for (op, revision) in ops.by_ref().take(done.len()).zip(done) {
            match op {
                Op::Handle { job, value, ours } => {
                    if let Some(handle) = &mut jobs[job].handle {
                        self.view.remember_handle(handle.id, value.clone(), revision);
                        handle.stored = Some((value, revision));
                        handle.written = ours;
                    }
                }
                Op::Block(cidr) => {
                    if let Some(block) = scratch.remove(&cidr) {
                        self.view.blocks.insert(cidr, (block, revision));
                    }
                    for take in takes.extract_if(.., |take| take.block == cidr) {
                        jobs[take.job].got(take);
                    }
                }
                Op::Also { job } => along.entry(job).or_default().push(revision),
            }
        }
        for (job, revisions) in along {
            if wanted.get(&job) == Some(&revisions.len()) {
                jobs[job].also = Some(revisions);
            }
        }
        let Some(error) = error else { return Ok(()) };
        if !is_race(&error) {
            return Err(error.into());
        }
        match ops.next() {
            Some(Op::Handle { job, .. }) => self.reread_handle(&mut jobs[job]).await?,
            // Everything is assigned; the caller sees that its own write is not done.
            Some(Op::Also { .. }) => return Ok(()),
            _ => {}
        }
        // What was found is lost again, so look everywhere once more.
        for take in &takes {
            jobs[take.job].parts[take.part].limit = None;
        }
        // Blocks that were not written were dropped from the view and are read again.
        let lost: Vec<IpNet> =
            takes.iter().map(|t| t.block).filter(|c| !self.view.own.contains_key(c)).collect();
        self.reload(lost).await
    }

    fn plan_writes(
        &self,
        jobs: &[Job<'_>],
        takes: &[Take],
        scratch: &mut HashMap<IpNet, Block>,
    ) -> (Vec<Op>, Vec<Write>) {
        let (mut ops, mut writes) = (Vec::new(), Vec::new());
        for (nth, job) in jobs.iter().enumerate() {
            let Some(handle) = &job.handle else { continue };
            let mut ours = handle.committed.clone();
            let mut any = false;
            for take in takes.iter().filter(|take| take.job == nth) {
                any = true;
                *ours.entry(take.block).or_default() += count(take.addresses.len());
            }
            if any {
                let value = handle.with(&ours);
                writes.push(handle.write(&value));
                ops.push(Op::Handle { job: nth, value, ours });
            }
        }
        let mut touched: Vec<IpNet> = takes.iter().map(|take| take.block).collect();
        touched.sort_unstable();
        touched.dedup();
        for cidr in touched {
            let Some((_, revision)) = self.view.blocks.get(&cidr) else { continue };
            let Some(block) = scratch.get_mut(&cidr) else { continue };
            writes.push(Write::update(Key::Block(cidr), block.next_write(), *revision));
            ops.push(Op::Block(cidr));
        }
        (ops, writes)
    }

    async fn reload(&mut self, blocks: Vec<IpNet>) -> Result<(), IpamError> {
        for cidr in blocks {
            if let Some(found) = view::block(&self.ipam.store, cidr).await? {
                self.view.blocks.insert(cidr, found);
            }
        }
        Ok(())
    }

    async fn reread_handle(&mut self, job: &mut Job<'_>) -> Result<(), IpamError> {
        let Some(handle) = &mut job.handle else { return Ok(()) };
        handle.stored = view::handle(&self.ipam.store, handle.id).await?;
        // Somebody else wrote it, so nobody knows how much of ours it still counts. Better it counts
        // too much, which is harmless, than too little: all of it is taken for theirs.
        handle.written.clear();
        handle.committed.clear();
        // They may have given it addresses since it was looked at, as a second host does for a
        // machine that moves.
        handle.looked = false;
        self.reuse(job).await
    }

    /// Counts what the handle had before this request, once, if the request wants that.
    pub(super) async fn reuse(&mut self, job: &mut Job<'_>) -> Result<(), IpamError> {
        let Some(handle) = &mut job.handle else { return Ok(()) };
        if handle.looked || !job.request.reuse {
            return Ok(());
        }
        handle.looked = true;
        let mut before = handle.stored.as_ref().map(|(h, _)| h.clone()).unwrap_or_default();
        subtract(&mut before.block, &handle.written);
        for (cidr, counted) in before.block {
            let Ok(cidr) = cidr.parse::<IpNet>() else { continue };
            let Some(block) = self.settled(cidr, handle.id, counted).await? else { continue };
            let Some(part) = job.parts.iter_mut().find(|part| part.family == Family::of_net(&cidr))
            else {
                continue;
            };
            for ip in block.of_handle(handle.id) {
                let known = part.got.iter().any(|address| address.ip == ip);
                if part.got.len() < part.wanted && !known {
                    let sequence = block.allocation(ip).and_then(|a| a.sequence);
                    // Those come first that are not given back if the request fails.
                    part.got.insert(part.kept, Address { ip, block: cidr, sequence });
                    part.kept += 1;
                }
            }
        }
        Ok(())
    }

    /// A block whose addresses of `handle` are what they stay. If it has fewer than the handle
    /// counts, another host may be about to assign them: the block is written, though nothing
    /// changes in it, so that the other fails and looks again.
    async fn settled(
        &mut self,
        cidr: IpNet,
        handle: &str,
        counted: u32,
    ) -> Result<Option<Block>, IpamError> {
        for _ in 0..self.ipam.options.retries {
            let Some((mut block, revision)) = view::block(&self.ipam.store, cidr).await? else {
                return Ok(None);
            };
            if count(block.of_handle(handle).len()) >= counted {
                return Ok(Some(block));
            }
            let known = self.view.blocks.remove(&cidr).is_some();
            let write = Write::update(Key::Block(cidr), block.next_write(), revision);
            match self.ipam.store.write(vec![write]).await {
                Ok(done) => {
                    if let (true, Some(revision)) = (known, done.first()) {
                        self.view.blocks.insert(cidr, (block.clone(), *revision));
                    }
                    return Ok(Some(block));
                }
                Err(failed) if is_race(&failed.error) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        Err(self.contention(format!("looking at block {cidr}")))
    }

    /// Makes handles that count more than was assigned right again. A handle that counts too
    /// much does no harm, so errors only cost tidiness.
    pub(super) async fn correct_handles(&mut self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            let Some(handle) = &mut job.handle else { continue };
            // After a failure of the store it is not known what was assigned.
            let unsure = matches!(job.failed, Some(IpamError::Store(_)));
            if handle.written == handle.committed || unsure || handle.stored.is_none() {
                continue;
            }
            let value = handle.with(&handle.committed);
            self.view.handles.remove(handle.id);
            match self.ipam.store.write(vec![handle.write(&value)]).await {
                Ok(revisions) => {
                    if let (Some(revision), false) = (revisions.first(), value.block.is_empty()) {
                        self.view.remember_handle(handle.id, value, *revision);
                    }
                }
                Err(failed) => {
                    warn!(error = %failed.error, handle = handle.id, "a handle counts too much");
                }
            }
        }
    }

    /// Releases what a failed request got. If the store is gone, the handle still covers it.
    /// What a virtual machine got stays: another host may have taken it for the machine's already.
    pub(super) async fn roll_back(&self, job: &Job<'_>) {
        if job.handle.as_ref().is_some_and(|handle| handle.id.contains(".vmi.")) {
            return;
        }
        let handle = job.handle.as_ref().map(|handle| handle.id.to_owned());
        let fresh = job.parts.iter().flat_map(|part| part.got.iter().skip(part.kept));
        let releases: Vec<Release> = fresh
            .map(|a| Release { address: a.ip, handle: handle.clone(), sequence: a.sequence })
            .collect();
        if !releases.is_empty()
            && let Err(error) = self.ipam.release_ips(&releases).await
        {
            warn!(%error, ?handle, "addresses of a failed request stay assigned to its handle");
        }
    }
}

/// Adds what the caller wants written along with each request that is complete then.
fn plan_also(
    jobs: &[Job<'_>],
    takes: &[Take],
    also: Also<'_>,
    ops: &mut Vec<Op>,
    writes: &mut Vec<Write>,
) {
    for (nth, job) in jobs.iter().enumerate() {
        let Some(assigned) = job.complete_with(nth, takes) else { continue };
        for write in also(job.nth, &assigned) {
            writes.push(write);
            ops.push(Op::Also { job: nth });
        }
    }
}
