//! Automatic assignment: own blocks, then new blocks, then blocks of others.

use std::collections::{HashMap, HashSet};

use calico_core::datastore::StoreError;
use calico_core::key::{Family, Key, Scope};
use calico_core::resource::AllocationAttribute;
use futures_util::future::try_join_all;
use ipnet::IpNet;
use tracing::warn;

use super::Session;
use super::job::{Counts, Foreign, HandleState, Job, Part, Take, open_parts, parts, planned};
use super::view;
use crate::error::{IpamError, Limit};
use crate::plan::block::Block;
use crate::plan::geometry::{host_seed, shuffle};
use crate::plan::pool::{Purpose, choose};
use crate::request::{Address, Also, AssignRequest, Outcome, attribute, sane_handle};

impl Session<'_> {
    /// Serves `requests`, all by this session's owner, together.
    pub(crate) async fn assign(
        &mut self,
        requests: &[AssignRequest],
        also: Also<'_>,
    ) -> Vec<Outcome> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        // Two requests under one handle would overtake each other for ever: they go one by one.
        while !rest.is_empty() {
            let mut seen = HashSet::new();
            let repeated = |r: &AssignRequest| r.handle.clone().is_some_and(|h| !seen.insert(h));
            let (now, later) = rest.split_at(rest.iter().position(repeated).unwrap_or(rest.len()));
            let outcomes = self.assign_distinct(answers.len(), now, also).await;
            answers.extend(outcomes);
            rest = later;
        }
        answers
    }

    async fn assign_distinct(
        &mut self,
        first: usize,
        requests: &[AssignRequest],
        also: Also<'_>,
    ) -> Vec<Outcome> {
        let mut jobs: Vec<Job<'_>> =
            requests.iter().zip(first..).map(|(request, nth)| self.job(nth, request)).collect();
        let mut foreign = Foreign::default();
        if let Err(error) = self.serve(&mut jobs, &mut foreign, also).await {
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

    fn job<'r>(&self, nth: usize, request: &'r AssignRequest) -> Job<'r> {
        let mut job = Job {
            nth,
            request,
            attribute: AllocationAttribute::default(),
            parts: Vec::new(),
            handle: None,
            failed: None,
            also: None,
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
        also: Also<'_>,
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
            self.commit(jobs, takes, scratch, also).await?;
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
            let (nth, part) = (part, &jobs[job].parts[part]);
            let owned = self.view.own.keys().filter(|c| Family::of_net(c) == part.family).count();
            let config = &self.view.cluster.config;
            let strict = config.strict_affinity;
            let mut why = if strict { Limit::StrictAffinity } else { Limit::Full };
            if !config.auto_allocate_blocks() {
                why = Limit::NoAutoAllocation;
            } else if owned >= limit as usize {
                why = Limit::BlocksPerHost(limit);
            } else {
                let pools = part.pools.clone();
                for pool in pools {
                    let wanted = self.blocks_for(jobs, takes, pool, limit as usize - owned);
                    if self.claim(pool, wanted).await? {
                        return Ok(true);
                    }
                }
            }
            if strict {
                jobs[job].parts[nth].limit = Some(why);
            } else if !foreign.listed {
                self.list_foreign(foreign).await?;
            }
        }
        Ok(false)
    }

    /// Number of blocks of a pool that everybody who misses addresses and prefers it needs.
    fn blocks_for(&self, jobs: &[Job<'_>], takes: &[Take], pool: usize, most: usize) -> usize {
        let missing = parts(jobs)
            .filter(|(_, _, _, part)| part.pools.first() == Some(&pool))
            .map(|(job, nth, _, part)| part.missing().saturating_sub(planned(takes, job, nth)));
        let block = self.view.cluster.pools[pool].geometry.block_size();
        missing.sum::<usize>().div_ceil(block).clamp(1, most.max(1))
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
}
