//! Automatic assignment: own blocks, then new blocks, then blocks of others.

use std::collections::{BTreeMap, HashMap, HashSet};

use calico_core::datastore::{Revision, StoreError, Write, WriteFailed};
use calico_core::key::{Family, Key, Scope};
use calico_core::resource::{AllocationAttribute, IpamHandle};
use futures_util::future::try_join_all;
use ipnet::IpNet;
use tracing::warn;

use super::Session;
use super::claim::is_race;
use super::view::{self, View};
use crate::error::{IpamError, Limit, PoolFill, Shortfall};
use crate::plan::block::{Block, json};
use crate::plan::geometry::{host_seed, shuffle, size};
use crate::plan::pool::{Purpose, choose};
use crate::request::{Address, AssignRequest, Assigned, Release, attribute, sane_handle};

/// Number of addresses by block.
pub(crate) type Counts = BTreeMap<IpNet, u32>;

/// One request under way.
struct Job<'a> {
    request: &'a AssignRequest,
    attribute: AllocationAttribute,
    parts: Vec<Part>,
    handle: Option<HandleState<'a>>,
    failed: Option<IpamError>,
}

/// One family of a request.
struct Part {
    family: Family,
    wanted: usize,
    /// Places in the view's list of pools.
    pools: Vec<usize>,
    got: Vec<Address>,
    /// How many of them the handle had before.
    kept: usize,
    /// Set once nothing more can be found.
    limit: Option<Limit>,
}

impl Part {
    const fn missing(&self) -> usize {
        if self.limit.is_some() { 0 } else { self.wanted.saturating_sub(self.got.len()) }
    }
}

/// What is known of a request's handle.
struct HandleState<'a> {
    id: &'a str,
    /// As stored; `None`: believed absent.
    stored: Option<(IpamHandle, Revision)>,
    /// Our part of what is stored.
    written: Counts,
    /// What of it is in blocks for sure.
    committed: Counts,
    looked: bool,
}

impl HandleState<'_> {
    /// The handle with `ours` in place of what we wrote into it before.
    fn with(&self, ours: &Counts) -> IpamHandle {
        let mut handle = self.stored.as_ref().map(|(h, _)| h.clone()).unwrap_or_default();
        subtract(&mut handle.block, &self.written);
        for (cidr, count) in ours {
            *handle.block.entry(cidr.to_string()).or_default() += count;
        }
        handle
    }

    fn write(&self, handle: &IpamHandle) -> Write {
        let key = Key::Handle(self.id.to_owned());
        match &self.stored {
            Some((_, revision)) if handle.block.is_empty() => Write::delete(key, Some(*revision)),
            Some((_, revision)) => Write::update(key, json(handle), *revision),
            None => Write::create(key, json(handle)),
        }
    }
}

/// Takes `counts` out of a handle's map; entries that reach zero go.
pub(crate) fn subtract(map: &mut BTreeMap<String, u32>, counts: &Counts) {
    for (cidr, count) in counts {
        let key = cidr.to_string();
        if let Some(stored) = map.get_mut(&key) {
            *stored = stored.saturating_sub(*count);
            if *stored == 0 {
                map.remove(&key);
            }
        }
    }
}

/// Addresses taken out of a block for one part of one job, not yet written.
struct Take {
    job: usize,
    part: usize,
    block: IpNet,
    addresses: Vec<Address>,
}

enum Op {
    Handle { job: usize, value: IpamHandle, ours: Counts },
    Block(IpNet),
}

/// Blocks of others, listed when own ones do not suffice.
#[derive(Default)]
struct Foreign {
    listed: bool,
    blocks: Vec<IpNet>,
    used: HashMap<usize, u128>,
}

impl Session<'_> {
    /// Serves `requests`, all by this session's owner, together.
    pub(crate) async fn assign(
        &mut self,
        requests: &[AssignRequest],
    ) -> Vec<Result<Assigned, IpamError>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        // Two requests under one handle would overtake each other for ever: they go one by one.
        while !rest.is_empty() {
            let mut seen = HashSet::new();
            let repeated = |r: &AssignRequest| r.handle.clone().is_some_and(|h| !seen.insert(h));
            let (now, later) = rest.split_at(rest.iter().position(repeated).unwrap_or(rest.len()));
            answers.extend(self.assign_distinct(now).await);
            rest = later;
        }
        answers
    }

    async fn assign_distinct(
        &mut self,
        requests: &[AssignRequest],
    ) -> Vec<Result<Assigned, IpamError>> {
        let mut jobs: Vec<Job<'_>> = requests.iter().map(|r| self.job(r)).collect();
        let mut foreign = Foreign::default();
        if let Err(error) = self.serve(&mut jobs, &mut foreign).await {
            for job in jobs.iter_mut().filter(|job| job.parts.iter().any(|p| p.missing() > 0)) {
                job.failed.get_or_insert_with(|| error.clone());
            }
        }
        self.correct_handles(&mut jobs).await;
        self.view.forget_foreign();
        for job in jobs.iter().filter(|job| job.failed.is_some()) {
            self.roll_back(job).await;
        }
        let view = &*self.view;
        jobs.into_iter().map(|job| job.answer(view, &foreign)).collect()
    }

    /// Releases what a failed request got. If the store is gone, the handle still covers it.
    async fn roll_back(&self, job: &Job<'_>) {
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

    fn job<'r>(&self, request: &'r AssignRequest) -> Job<'r> {
        let mut job = Job {
            request,
            attribute: AllocationAttribute::default(),
            parts: Vec::new(),
            handle: None,
            failed: None,
        };
        match self.prepare(request, &mut job) {
            Ok(()) => {}
            Err(error) => job.failed = Some(error),
        }
        job
    }

    fn prepare<'r>(&self, request: &'r AssignRequest, job: &mut Job<'r>) -> Result<(), IpamError> {
        let id = request.handle.as_deref().map(sane_handle).transpose()?;
        job.attribute = attribute(id, &request.attributes);
        job.handle = id.map(|id| HandleState {
            id,
            stored: self.view.handles.get(id).cloned(),
            written: Counts::new(),
            committed: Counts::new(),
            looked: false,
        });
        for family in Family::BOTH {
            let wanted = request.wanted(family) as usize;
            if wanted == 0 {
                continue;
            }
            let purpose = Purpose {
                family,
                intended_use: request.intended_use,
                node: &self.view.cluster.node,
                namespace: request.namespace.as_ref(),
            };
            let pools = choose(&self.view.cluster.pools, request.pools(family), &purpose)
                .map_err(|why| IpamError::NoPool { family, why })?;
            job.parts.push(Part { family, wanted, pools, got: Vec::new(), kept: 0, limit: None });
        }
        Ok(())
    }

    async fn serve(
        &mut self,
        jobs: &mut [Job<'_>],
        foreign: &mut Foreign,
    ) -> Result<(), IpamError> {
        for job in jobs.iter_mut() {
            let known = job.handle.as_ref().is_some_and(|handle| handle.stored.is_some());
            if known && job.failed.is_none() {
                self.reuse(job).await?;
            }
        }
        for _ in 0..self.ipam.options.retries {
            self.load_own(jobs).await?;
            let mut scratch = HashMap::new();
            let own: Vec<IpNet> = self.view.confirmed().collect();
            let mut takes = self.take(jobs, &own, &mut scratch);
            if self.grow(jobs, &takes, foreign).await? {
                continue;
            }
            takes.extend(self.take_more(jobs, &takes, foreign, &mut scratch));
            if takes.is_empty() {
                return Ok(());
            }
            self.commit(jobs, takes, scratch).await?;
        }
        Err(self.contention("assigning addresses"))
    }

    /// Reads own blocks that the requests may use and nobody read yet.
    async fn load_own(&mut self, jobs: &[Job<'_>]) -> Result<(), IpamError> {
        let pools = &self.view.cluster.pools;
        let wanted = |cidr: &IpNet| {
            open_parts(jobs).flat_map(|part| &part.pools).any(|p| pools[*p].cidr.contains(cidr))
        };
        let missing: Vec<IpNet> = self
            .view
            .confirmed()
            .filter(|cidr| !self.view.blocks.contains_key(cidr) && wanted(cidr))
            .collect();
        let store = &self.ipam.store;
        let read = try_join_all(missing.iter().map(|cidr| async move {
            match view::block(store, *cidr).await {
                // Looked at again, and reported, below.
                Err(StoreError::BadObject { .. }) => Ok(None),
                other => other,
            }
        }))
        .await?;
        for (cidr, block) in missing.into_iter().zip(read) {
            match block.filter(|(block, _)| block.is_owned_by(&self.owner)) {
                Some(found) => {
                    self.view.blocks.insert(cidr, found);
                }
                // A claim without its block: make it good or drop it.
                None => {
                    self.recover(cidr).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes free addresses of `blocks` for every part that misses some.
    fn take(
        &self,
        jobs: &[Job<'_>],
        blocks: &[IpNet],
        scratch: &mut HashMap<IpNet, Block>,
    ) -> Vec<Take> {
        self.take_beyond(jobs, &[], blocks, scratch)
    }

    fn take_beyond(
        &self,
        jobs: &[Job<'_>],
        already: &[Take],
        blocks: &[IpNet],
        scratch: &mut HashMap<IpNet, Block>,
    ) -> Vec<Take> {
        let now = self.ipam.now();
        let cluster = &self.view.cluster;
        let mut takes = Vec::new();
        for (job_nth, part_nth, job, part) in parts(jobs) {
            let mut missing = part.missing().saturating_sub(planned(already, job_nth, part_nth));
            let in_pools = part.pools.iter().flat_map(|pool| {
                let pool = &cluster.pools[*pool];
                blocks.iter().filter(move |block| pool.cidr.contains(*block))
            });
            for cidr in in_pools {
                if missing == 0 {
                    break;
                }
                let block = match scratch.entry(*cidr) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let Some((block, _)) = self.view.blocks.get(cidr) else { continue };
                        let mut block = block.clone();
                        block.thaw(cluster.cooldown(), now);
                        entry.insert(block)
                    }
                };
                let taken = block.assign(missing, &job.attribute, &cluster.reserved);
                missing -= taken.len();
                if !taken.is_empty() {
                    let address = |a: crate::plan::block::Allocation| Address {
                        ip: a.address,
                        block: *cidr,
                        sequence: a.sequence,
                    };
                    let addresses = taken.into_iter().map(address).collect();
                    takes.push(Take { job: job_nth, part: part_nth, block: *cidr, addresses });
                }
            }
        }
        takes
    }

    /// Claims a block for the first part that misses addresses and may; says whether it did. Parts
    /// that must borrow are prepared for it.
    async fn grow(
        &mut self,
        jobs: &mut [Job<'_>],
        takes: &[Take],
        foreign: &mut Foreign,
    ) -> Result<bool, IpamError> {
        let short: Vec<(usize, usize)> = parts(jobs)
            .filter(|(job, part, _, p)| p.missing() > planned(takes, *job, *part))
            .map(|(job, part, _, _)| (job, part))
            .collect();
        for (job, part) in short {
            let max_blocks = jobs[job].request.max_blocks;
            let limit = self.block_limit(max_blocks);
            let part = &mut jobs[job].parts[part];
            let owned = self.view.own.keys().filter(|c| Family::of_net(c) == part.family).count();
            let config = &self.view.cluster.config;
            let strict = config.strict_affinity;
            let mut why = if strict { Limit::StrictAffinity } else { Limit::Full };
            if !config.auto_allocate_blocks() {
                why = Limit::NoAutoAllocation;
            } else if owned >= limit as usize {
                why = Limit::BlocksPerHost(limit);
            } else {
                for pool in part.pools.clone() {
                    if self.claim(pool).await?.is_some() {
                        return Ok(true);
                    }
                }
            }
            if strict {
                part.limit = Some(why);
            } else if !foreign.listed {
                self.list_foreign(foreign).await?;
            }
        }
        Ok(false)
    }

    /// Borrows from blocks of others. Parts for which nothing is left are closed.
    fn take_more(
        &self,
        jobs: &mut [Job<'_>],
        takes: &[Take],
        foreign: &Foreign,
        scratch: &mut HashMap<IpNet, Block>,
    ) -> Vec<Take> {
        let more = if foreign.listed {
            self.take_beyond(jobs, takes, &foreign.blocks, scratch)
        } else {
            Vec::new()
        };
        for (job_nth, job) in jobs.iter_mut().enumerate() {
            for (part_nth, part) in job.parts.iter_mut().enumerate() {
                let found = planned(takes, job_nth, part_nth) + planned(&more, job_nth, part_nth);
                if found == 0 && part.missing() > 0 && foreign.listed {
                    part.limit = Some(Limit::Full);
                }
            }
        }
        more
    }

    /// Reads every block of the pools, in an order that differs from host to host.
    async fn list_foreign(&mut self, foreign: &mut Foreign) -> Result<(), IpamError> {
        let listing = self.ipam.store.list(&Scope::Blocks).await?;
        for entry in &listing.entries {
            let Key::Block(cidr) = entry.key else { continue };
            let pools = &self.view.cluster.pools;
            let Some(pool) = pools.iter().position(|pool| pool.cidr.contains(&cidr)) else {
                continue;
            };
            let block = match Block::read(entry) {
                Ok(block) => block,
                Err(error) => {
                    warn!(%error, "leaving a block alone that cannot be read");
                    continue;
                }
            };
            *foreign.used.entry(pool).or_default() += (block.len() - block.free()) as u128;
            if !self.view.own.contains_key(&cidr) {
                foreign.blocks.push(cidr);
                self.view.blocks.insert(cidr, (block, entry.revision));
            }
        }
        shuffle(&mut foreign.blocks, host_seed(&self.owner.name) ^ self.ipam.nanos());
        foreign.listed = true;
        Ok(())
    }

    /// Writes handles and blocks together. Addresses count as assigned once their block is
    /// written; the handle, written before, then covers them whatever happens.
    async fn commit(
        &mut self,
        jobs: &mut [Job<'_>],
        mut takes: Vec<Take>,
        mut scratch: HashMap<IpNet, Block>,
    ) -> Result<(), IpamError> {
        let (ops, writes) = self.plan_writes(jobs, &takes, &mut scratch);
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
            }
        }
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
            }
        }
        let Some(error) = error else { return Ok(()) };
        if !is_race(&error) {
            return Err(error.into());
        }
        if let Some(Op::Handle { job, .. }) = ops.next() {
            self.reread_handle(&mut jobs[job]).await?;
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
        self.reuse(job).await
    }

    /// Counts what the handle had before this request, once, if the request wants that.
    async fn reuse(&mut self, job: &mut Job<'_>) -> Result<(), IpamError> {
        let Some(handle) = &mut job.handle else { return Ok(()) };
        if handle.looked || !job.request.reuse {
            return Ok(());
        }
        handle.looked = true;
        let mut before = handle.stored.as_ref().map(|(h, _)| h.clone()).unwrap_or_default();
        subtract(&mut before.block, &handle.written);
        for cidr in before.block.keys().filter_map(|cidr| cidr.parse::<IpNet>().ok()) {
            let Some((block, _)) = view::block(&self.ipam.store, cidr).await? else { continue };
            let Some(part) = job.parts.iter_mut().find(|part| part.family == Family::of_net(&cidr))
            else {
                continue;
            };
            for ip in block.of_handle(handle.id) {
                if part.got.len() < part.wanted {
                    let sequence = block.allocation(ip).and_then(|a| a.sequence);
                    part.got.push(Address { ip, block: cidr, sequence });
                    part.kept += 1;
                }
            }
        }
        Ok(())
    }

    /// Makes handles that count more than was assigned right again. A handle that counts too
    /// much does no harm, so errors only cost tidiness.
    async fn correct_handles(&mut self, jobs: &mut [Job<'_>]) {
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
}

impl Job<'_> {
    fn got(&mut self, take: Take) {
        if let Some(handle) = &mut self.handle {
            *handle.committed.entry(take.block).or_default() += count(take.addresses.len());
        }
        self.parts[take.part].got.extend(take.addresses);
    }

    fn answer(self, view: &View, foreign: &Foreign) -> Result<Assigned, IpamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut assigned = Assigned::default();
        for part in self.parts {
            if let Some(limit) = part.limit {
                let fill = |pool: &usize| {
                    let of = &view.cluster.pools[*pool];
                    let used =
                        foreign.listed.then(|| foreign.used.get(pool).copied().unwrap_or_default());
                    PoolFill { name: of.name.clone(), cidr: of.cidr, used, size: size(&of.cidr) }
                };
                assigned.short.push(Shortfall {
                    family: part.family,
                    wanted: count(part.wanted),
                    got: count(part.got.len()),
                    pools: part.pools.iter().map(fill).collect(),
                    limit,
                });
            }
            match part.family {
                Family::V4 => assigned.v4 = part.got,
                Family::V6 => assigned.v6 = part.got,
            }
        }
        Ok(assigned)
    }
}

fn parts<'j, 'r>(
    jobs: &'j [Job<'r>],
) -> impl Iterator<Item = (usize, usize, &'j Job<'r>, &'j Part)> {
    jobs.iter().enumerate().filter(|(_, job)| job.failed.is_none()).flat_map(|(nth, job)| {
        job.parts.iter().enumerate().map(move |(part_nth, part)| (nth, part_nth, job, part))
    })
}

fn open_parts<'j>(jobs: &'j [Job<'_>]) -> impl Iterator<Item = &'j Part> {
    parts(jobs).map(|(_, _, _, part)| part).filter(|part| part.missing() > 0)
}

/// Number of addresses that `takes` hold for a part.
fn planned(takes: &[Take], job: usize, part: usize) -> usize {
    takes
        .iter()
        .filter(|take| take.job == job && take.part == part)
        .map(|take| take.addresses.len())
        .sum()
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
