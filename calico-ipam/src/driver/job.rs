//! Requests under way: what each has, what it misses, and what its handle says.

use std::collections::{BTreeMap, HashMap};

use calico_core::datastore::{Revision, Write};
use calico_core::key::{Family, Key};
use calico_core::resource::{AllocationAttribute, IpamHandle};
use ipnet::IpNet;

use super::view::View;
use crate::error::{IpamError, Limit, PoolFill, Shortfall};
use crate::plan::block::json;
use crate::plan::geometry::size;
use crate::request::{Address, AssignRequest, Assigned, Outcome};

/// Number of addresses by block.
pub(crate) type Counts = BTreeMap<IpNet, u32>;

/// One request under way.
pub(super) struct Job<'a> {
    /// Its place among all requests of the call.
    pub(super) nth: usize,
    pub(super) request: &'a AssignRequest,
    pub(super) attribute: AllocationAttribute,
    pub(super) parts: Vec<Part>,
    pub(super) handle: Option<HandleState<'a>>,
    pub(super) failed: Option<IpamError>,
    /// Revisions of what the caller wanted written along, once all of it is.
    pub(super) also: Option<Vec<Revision>>,
}

/// One family of a request.
pub(super) struct Part {
    pub(super) family: Family,
    pub(super) wanted: usize,
    /// Places in the view's list of pools.
    pub(super) pools: Vec<usize>,
    pub(super) got: Vec<Address>,
    /// How many of them the handle had before.
    pub(super) kept: usize,
    /// Set once nothing more can be found.
    pub(super) limit: Option<Limit>,
}

impl Part {
    pub(super) const fn missing(&self) -> usize {
        if self.limit.is_some() { 0 } else { self.wanted.saturating_sub(self.got.len()) }
    }
}

/// What is known of a request's handle.
pub(super) struct HandleState<'a> {
    pub(super) id: &'a str,
    /// As stored; `None`: believed absent.
    pub(super) stored: Option<(IpamHandle, Revision)>,
    /// Our part of what is stored.
    pub(super) written: Counts,
    /// What of it is in blocks for sure.
    pub(super) committed: Counts,
    pub(super) looked: bool,
}

impl HandleState<'_> {
    /// The handle with `ours` in place of what we wrote into it before.
    pub(super) fn with(&self, ours: &Counts) -> IpamHandle {
        let mut handle = self.stored.as_ref().map(|(h, _)| h.clone()).unwrap_or_default();
        subtract(&mut handle.block, &self.written);
        for (cidr, count) in ours {
            *handle.block.entry(cidr.to_string()).or_default() += count;
        }
        handle
    }

    pub(super) fn write(&self, handle: &IpamHandle) -> Write {
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
pub(super) struct Take {
    pub(super) job: usize,
    pub(super) part: usize,
    pub(super) block: IpNet,
    pub(super) addresses: Vec<Address>,
}

pub(super) enum Op {
    Handle {
        job: usize,
        value: IpamHandle,
        ours: Counts,
    },
    Block(IpNet),
    /// One of the writes that the caller wanted along.
    Also {
        job: usize,
    },
}

/// Blocks of others, listed when own ones do not suffice.
#[derive(Default)]
pub(super) struct Foreign {
    pub(super) listed: bool,
    pub(super) blocks: Vec<IpNet>,
    pub(super) used: HashMap<usize, u128>,
}

impl Job<'_> {
    pub(super) fn got(&mut self, take: Take) {
        if let Some(handle) = &mut self.handle {
            *handle.committed.entry(take.block).or_default() += count(take.addresses.len());
        }
        self.parts[take.part].got.extend(take.addresses);
    }

    /// What the request has once `takes` are written; `None` if it still misses something then.
    pub(super) fn complete_with(&self, nth: usize, takes: &[Take]) -> Option<Assigned> {
        let mut assigned = Assigned::default();
        let mut news = false;
        for (part_nth, part) in self.parts.iter().enumerate() {
            let found = takes.iter().filter(|take| take.job == nth && take.part == part_nth);
            let found: Vec<&Address> = found.flat_map(|take| &take.addresses).collect();
            news |= !found.is_empty();
            let all: Vec<Address> = part.got.iter().chain(found).cloned().collect();
            if all.len() < part.wanted {
                return None;
            }
            match part.family {
                Family::V4 => assigned.v4 = all,
                Family::V6 => assigned.v6 = all,
            }
        }
        (news && self.failed.is_none()).then_some(assigned)
    }

    pub(super) fn answer(self, view: &View, foreign: &Foreign) -> Outcome {
        let also = self.also.clone();
        Outcome { assigned: self.assigned(view, foreign), also }
    }

    fn assigned(self, view: &View, foreign: &Foreign) -> Result<Assigned, IpamError> {
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

pub(super) fn parts<'j, 'r>(
    jobs: &'j [Job<'r>],
) -> impl Iterator<Item = (usize, usize, &'j Job<'r>, &'j Part)> {
    jobs.iter().enumerate().filter(|(_, job)| job.failed.is_none()).flat_map(|(nth, job)| {
        job.parts.iter().enumerate().map(move |(part_nth, part)| (nth, part_nth, job, part))
    })
}

pub(super) fn open_parts<'j>(jobs: &'j [Job<'_>]) -> impl Iterator<Item = &'j Part> {
    parts(jobs).map(|(_, _, _, part)| part).filter(|part| part.missing() > 0)
}

/// Number of addresses that `takes` hold for a part.
pub(super) fn planned(takes: &[Take], job: usize, part: usize) -> usize {
    takes
        .iter()
        .filter(|take| take.job == job && take.part == part)
        .map(|take| take.addresses.len())
        .sum()
}

pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
