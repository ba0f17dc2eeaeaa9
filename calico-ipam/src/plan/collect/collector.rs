//! The memory between looks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use calico_core::key::{Family, OwnerType};
use ipnet::IpNet;

use super::{Decision, Doubt, Look, Reason, Settings, Subject, Verdict};
use crate::plan::block::{Allocation, Block};
use crate::plan::owner::Owner;
use crate::plan::tunnel::Tunnel;

/// Handle of the addresses that Windows keeps for itself in each block; they go with the block.
pub(crate) const WINDOWS: &str = "windows-reserved-ipam-handle";

/// Decides by look after look; see the [module](super).
#[derive(Debug, Clone)]
pub struct Collector {
    settings: Settings,
    /// Who looks, if it is a node.
    me: Option<String>,
    suspicions: Suspicions<Suspect>,
}

/// What exactly is suspect: an assignment made anew is another one.
type Suspect = (String, Option<String>, Vec<(IpAddr, Option<u64>)>, Option<IpNet>);

impl Collector {
    /// Nothing is suspect yet. Node `me` looks, or a program that is no node.
    #[must_use]
    pub fn new(settings: Settings, me: Option<&str>) -> Self {
        let me = me.map(str::to_owned);
        Self { settings, me, suspicions: Suspicions::default() }
    }

    /// With other settings; what is suspect stays so.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Decides about everything that belongs to nodes that are gone. `now` is the time on a clock
    /// that goes on evenly, from whatever beginning: not one that people set.
    ///
    /// # Errors
    ///
    /// If nothing can be concluded from this look; nothing is suspect any more then.
    pub fn look(&mut self, look: &Look, now: Duration) -> Result<Vec<Decision>, Doubt> {
        let doubt = match &self.me {
            _ if look.nodes.is_empty() => Some(Doubt::NoNodes),
            Some(me) if !look.nodes.contains(me) => Some(Doubt::WithoutMe),
            _ => None,
        };
        if let Some(doubt) = doubt {
            self.suspicions = Suspicions::default();
            return Err(doubt);
        }
        let mut findings = addresses(look);
        let kept: BTreeSet<String> = findings
            .iter()
            .filter(|(_, reason)| reason.is_some())
            .map(|(subject, _)| subject.node().to_owned())
            .collect();
        findings.extend(claims(look));
        for (subject, reason) in &mut findings {
            let node = subject.node();
            let last = rank(subject) > 0;
            if reason.is_none() && last && (kept.contains(node) || look.endpoints.any_on(node)) {
                *reason = Some(Reason::NodeInUse);
            }
        }
        let suspects = findings.iter().filter(|(_, reason)| reason.is_none());
        let suspects = suspects.map(|(subject, _)| suspect(subject)).collect();
        self.suspicions.look(suspects, now, self.settings.gap);
        Ok(self.judge(findings, now))
    }

    fn judge(&self, mut findings: Vec<(Subject, Option<Reason>)>, now: Duration) -> Vec<Decision> {
        let mut left = self.settings.most;
        // Nodes of which something is not free with this look.
        let mut behind: BTreeSet<String> = BTreeSet::new();
        let mut decisions = Vec::with_capacity(findings.len());
        findings.sort_by_key(|(subject, _)| rank(subject));
        for (subject, reason) in findings {
            let (suspect_for, looks) = self.suspicions.of(&suspect(&subject), now);
            let waits = rank(&subject) > 0 && behind.contains(subject.node());
            let short = self.settings.grace.saturating_sub(suspect_for);
            let verdict = match reason {
                Some(reason) => Verdict::Keep(reason),
                None if !short.is_zero() || looks < self.settings.looks => Verdict::Watch(short),
                None if left == 0 || waits => Verdict::Later,
                None => {
                    left -= 1;
                    Verdict::Free
                }
            };
            if verdict != Verdict::Free && !matches!(subject, Subject::Claim { .. }) {
                behind.insert(subject.node().to_owned());
            }
            decisions.push(Decision { subject, verdict, suspect_for, looks });
        }
        decisions
    }
}

/// Owners of addresses on nodes that are gone, each with a reason to stay, if there is one.
fn addresses(look: &Look) -> Vec<(Subject, Option<Reason>)> {
    let mut owners: BTreeMap<(String, Option<String>), Vec<Allocation>> = BTreeMap::new();
    for allocation in look.blocks.iter().flat_map(Block::allocations) {
        let attributes = &allocation.attributes;
        let Some(node) = attributes.secondary.get("node") else { continue };
        let handle = attributes.handle_id.clone();
        let resting = attributes.released_at.is_some() || handle.as_deref() == Some(WINDOWS);
        if !resting && !look.nodes.contains(node) {
            // What has no handle stands for itself.
            let alone = handle.clone().or_else(|| Some(allocation.address.to_string()));
            owners.entry((node.clone(), alone)).or_default().push(allocation);
        }
    }
    let mut findings = Vec::with_capacity(owners.len());
    for ((node, _), allocations) in owners {
        let handle = allocations.first().and_then(|first| first.attributes.handle_id.clone());
        let reason = allocations.iter().find_map(|allocation| objection(look, &node, allocation));
        findings.push((Subject::Addresses { node, handle, allocations }, reason));
    }
    findings
}

/// Why an address of `node`, which is gone, stays; `None`: nothing speaks against freeing it.
fn objection(look: &Look, node: &str, allocation: &Allocation) -> Option<Reason> {
    let attributes = &allocation.attributes;
    let of = |name: &str| attributes.secondary.get(name).map(String::as_str);
    if look.endpoints.have_address(allocation.address) {
        return Some(Reason::Endpoint);
    }
    let second = &attributes.alternate_owner_attrs;
    if !second.is_empty() {
        let node = second.get("node").map_or("an unknown node", String::as_str);
        // Where a machine moves to, it may be about to arrive.
        return Some(Reason::SecondOwner(node.to_owned()));
    }
    let handle = attributes.handle_id.as_deref().unwrap_or_default();
    if allocation.is_of_machine() {
        return Some(Reason::Machine);
    }
    if of("type").is_some() {
        let tunnel = Tunnel::of(&allocation.attributes);
        return tunnel.is_none().then_some(Reason::UnknownOwner);
    }
    let container = of("sandbox").or_else(|| handle.rsplit_once('.').map(|(_, id)| id));
    let pod = of("namespace").zip(of("pod"));
    if of("sandbox").is_none() && pod.is_none() {
        return Some(Reason::UnknownOwner);
    }
    let there = container.is_some_and(|id| look.endpoints.have_container(id))
        || pod.is_some_and(|(namespace, pod)| look.endpoints.have_pod(node, namespace, pod));
    there.then_some(Reason::Endpoint)
}

/// Claims of nodes that are gone, and blocks that name one.
fn claims(look: &Look) -> Vec<(Subject, Option<Reason>)> {
    let mut claims: BTreeMap<(Owner, IpNet), Option<Reason>> = BTreeMap::new();
    let gone = |owner: &Owner| owner.kind == OwnerType::Host && !look.nodes.contains(&owner.name);
    for (owner, block) in look.claims.iter().filter(|(owner, _)| gone(owner)) {
        claims.insert((owner.clone(), *block), None);
    }
    for block in &look.blocks {
        let Some(owner) = block.owner().filter(&gone) else { continue };
        let unknown = block.allocations().any(|allocation| {
            let attributes = &allocation.attributes;
            let named = attributes.secondary.contains_key("node");
            let harmless = attributes.released_at.is_some()
                || attributes.handle_id.as_deref() == Some(WINDOWS);
            !named && !harmless
        });
        claims.insert((owner, block.cidr()), unknown.then_some(Reason::UnknownOwner));
    }
    let claims = claims.into_iter();
    claims.map(|((owner, block), reason)| (Subject::Claim { owner, block }, reason)).collect()
}

/// What of a node is freed first: workloads' addresses, then tunnels', then claims.
fn rank(subject: &Subject) -> u8 {
    let has_type = |a: &Allocation| a.attributes.secondary.contains_key("type");
    match subject {
        Subject::Claim { .. } => 2,
        Subject::Addresses { allocations, .. } => allocations.iter().any(has_type).into(),
    }
}

fn suspect(subject: &Subject) -> Suspect {
    match subject {
        Subject::Addresses { node, handle, allocations } => {
            let exactly = allocations.iter().map(|a| (a.address, a.sequence)).collect();
            (node.clone(), handle.clone(), exactly, None)
        }
        Subject::Claim { owner, block } => (owner.name.clone(), None, Vec::new(), Some(*block)),
    }
}

/// Empty blocks of a node that has others: which of them to give back. Upstream's controller does
/// the same, after the same grace time.
#[derive(Debug, Clone, Default)]
pub struct SpareBlocks {
    suspicions: Suspicions<IpNet>,
}

impl SpareBlocks {
    /// Takes in the node's confirmed blocks, each with whether it is empty; returns those to give
    /// up. A node keeps one block of each family.
    pub fn look(
        &mut self,
        blocks: &[(IpNet, bool)],
        settings: &Settings,
        now: Duration,
    ) -> Vec<IpNet> {
        let mut empty: Vec<IpNet> = blocks.iter().filter(|(_, e)| *e).map(|(b, _)| *b).collect();
        empty.sort_unstable();
        self.suspicions.look(empty.clone(), now, settings.gap);
        let mut spare = Vec::new();
        for family in Family::BOTH {
            let of_family = |block: &IpNet| Family::of_net(block) == family;
            let mut owned = blocks.iter().filter(|(block, _)| of_family(block)).count();
            for block in empty.iter().filter(|block| of_family(block)) {
                let (since, looks) = self.suspicions.of(block, now);
                if owned > 1 && since >= settings.grace && looks >= settings.looks.min(2) {
                    spare.push(*block);
                    owned -= 1;
                }
            }
        }
        spare
    }
}

/// Since when, and in how many looks, something has been suspect without a break.
#[derive(Debug, Clone)]
struct Suspicions<K> {
    since: HashMap<K, (Duration, u32)>,
    last: Option<Duration>,
}

impl<K> Default for Suspicions<K> {
    fn default() -> Self {
        Self { since: HashMap::new(), last: None }
    }
}

impl<K: Eq + Hash> Suspicions<K> {
    fn look(&mut self, suspects: Vec<K>, now: Duration, gap: Duration) {
        let passed = self.last.map(|last| now.checked_sub(last));
        if !matches!(passed, Some(Some(passed)) if passed <= gap) {
            self.since.clear();
        }
        self.last = Some(now);
        let mut before = std::mem::take(&mut self.since);
        for suspect in suspects {
            let (since, looks) = before.remove(&suspect).unwrap_or((now, 0));
            self.since.insert(suspect, (since, looks + 1));
        }
    }

    fn of(&self, suspect: &K, now: Duration) -> (Duration, u32) {
        let found = self.since.get(suspect).copied();
        found.map_or((Duration::ZERO, 0), |(since, looks)| (now.saturating_sub(since), looks))
    }
}
