//! Addresses whose container is gone though nobody deleted it: after a reboot, or with a runtime
//! that forgot.
//!
//! Three sources are asked, which do not depend on each other: the datastore (is there an
//! endpoint?), the kernel (is there its interface?), and the runtime (is there the container's
//! network namespace?). An address is freed only if two of them say that its owner is gone and
//! neither kernel nor runtime says that it is there. Every decision is logged with its evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use calico_core::datastore::Entry;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::{WorkloadEndpoint, WorkloadEndpointSpec};
use calico_ipam::Release;
use calico_ipam::plan::block::Allocation;
use calico_ipam::plan::time::parse_rfc3339;
use tracing::{debug, info, warn};

use super::Engine;
use super::ipam::{INTERFACE, NETNS, SANDBOX};
use crate::naming::{FIRST_INTERFACE, host_interface};
use crate::spec::CniError;

/// An address younger than this is left alone: whoever assigned it may be at work yet.
const GRACE: Duration = Duration::from_secs(60);

/// Owners whose addresses are freed in one pass at most.
const MOST: usize = 100;

/// Every so many passes all blocks and handles of the cluster are read, for addresses from blocks of
/// other nodes and for handles without addresses; else only this node's.
const EVERYTHING: u64 = 24;

/// What the sources say of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Datastore: an endpoint of this node names the container.
    pub endpoint: bool,
    /// Kernel: the host has the interface, and it is not another container's.
    pub interface: bool,
    /// Runtime: the container's network namespace is there; `None` if it is not known where.
    pub namespace: Option<bool>,
    /// Time since the addresses were assigned; `None` if that is not known, or in the future.
    pub age: Option<Duration>,
}

impl Evidence {
    /// Whether it proves that the owner is gone.
    #[must_use]
    pub fn proves_gone(&self) -> bool {
        let old = self.age.is_some_and(|age| age >= GRACE);
        let gone = match self.namespace {
            Some(there) => !there,
            // Two are left to ask, and both must say so.
            None => !self.endpoint,
        };
        old && gone && !self.interface
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = |there: bool| if there { "there" } else { "gone" };
        write!(f, "endpoint {}, interface {}", is(self.endpoint), is(self.interface))?;
        write!(f, ", network namespace {}", self.namespace.map_or("unknown", is))?;
        match self.age {
            Some(age) => write!(f, ", assigned {} s ago", age.as_secs()),
            None => f.write_str(", assigned at an unknown time"),
        }
    }
}

/// What became of an owner that not every source knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not proven to be gone: its addresses stay.
    Kept,
    /// Proven to be gone; nothing was changed, as asked.
    WouldFree,
    /// Proven to be gone; its addresses are free.
    Freed,
    /// Proven to be gone; freeing failed, and is tried again in the next pass.
    Failed(String),
}

/// An owner that at least one source does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// IPAM handle.
    pub handle: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What the sources say.
    pub evidence: Evidence,
    /// What was done.
    pub verdict: Verdict,
}

/// What [`Engine::reconcile`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Owners that at least one source does not know.
    pub suspects: Vec<Suspect>,
    /// Handles without addresses, which were deleted.
    pub empty_handles: Vec<String>,
    /// Handles of virtual machines that are gone, whose addresses were freed.
    pub machines: Vec<String>,
    /// ADDs were under way: nothing was looked at.
    pub busy: bool,
}

impl Engine {
    /// Compares the addresses of this node with endpoints, interfaces and network namespaces, and
    /// frees those whose owner is proven to be gone; with `dry_run` it only says so. Endpoints are
    /// read only if kernel or runtime miss something. Addresses of virtual machines wait for the
    /// machine's next pod, here or elsewhere, until the orchestrator knows no such machine.
    ///
    /// # Errors
    ///
    /// If datastore or kernel do not answer; without them there is no proof.
    pub async fn reconcile(&self, dry_run: bool) -> Result<Reconciled, CniError> {
        // No ADD begins before this is over; it never waits for those that have begun.
        let Ok(_quiet) = self.attaching.try_write() else {
            return Ok(Reconciled { busy: true, ..Reconciled::default() });
        };
        let Some(interfaces) = self.network.interfaces().await? else {
            return Ok(Reconciled::default());
        };
        let everything = self.reconciled.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERYTHING);
        let ipam = self.addresses.ipam();
        let allocations = if everything {
            ipam.addresses_of_host(&self.node).await?
        } else {
            ipam.addresses_in_own_blocks(&self.node).await?
        };
        let mut owners: BTreeMap<String, Vec<Allocation>> = BTreeMap::new();
        for allocation in allocations {
            if let (Some(handle), Some(_)) =
                (&allocation.attributes.handle_id, container(&allocation))
            {
                owners.entry(handle.clone()).or_default().push(allocation);
            }
        }
        let none = Endpoints(Vec::new());
        owners.retain(|_, allocations| {
            let seen = self.evidence(&allocations[0], &none, &interfaces);
            !(seen.interface && seen.namespace != Some(false))
        });
        let endpoints = if owners.is_empty() {
            none
        } else {
            let listing = self.store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await?;
            Endpoints::new(&self.node, listing.entries)
        };
        let mut answer = Reconciled::default();
        let mut freed = 0;
        for (handle, allocations) in owners {
            let evidence = self.evidence(&allocations[0], &endpoints, &interfaces);
            if evidence.endpoint && evidence.interface && evidence.namespace != Some(false) {
                continue;
            }
            let addresses = allocations.iter().map(|allocation| allocation.address).collect();
            let verdict = match evidence.proves_gone() {
                false => Verdict::Kept,
                true if dry_run || freed >= MOST => Verdict::WouldFree,
                true => {
                    freed += 1;
                    match self.free(&allocations, &endpoints).await {
                        Ok(()) => Verdict::Freed,
                        Err(error) => Verdict::Failed(error.to_string()),
                    }
                }
            };
            let suspect = Suspect { handle, addresses, evidence, verdict };
            report(&suspect);
            answer.suspects.push(suspect);
        }
        match self.free_machines(dry_run, everything).await {
            Ok(freed) => answer.machines = freed,
            Err(error) => debug!(%error, "cannot see yet which virtual machines are gone"),
        }
        if !dry_run && everything {
            answer.empty_handles = ipam.release_empty_handles().await?;
        }
        Ok(answer)
    }

    fn evidence(
        &self,
        allocation: &Allocation,
        endpoints: &Endpoints,
        interfaces: &BTreeSet<String>,
    ) -> Evidence {
        let secondary = &allocation.attributes.secondary;
        let container = container(allocation).unwrap_or_default();
        let ifname = secondary.get(INTERFACE).map_or(FIRST_INTERFACE, String::as_str);
        let own = endpoints.of(container, ifname);
        let name = match own.first() {
            Some((_, endpoint)) => endpoint.spec.interface_name.clone(),
            None => match secondary.get("pod").zip(secondary.get("namespace")) {
                Some((pod, namespace)) => host_interface(namespace, pod, container, ifname, true),
                None => host_interface("", "", container, ifname, false),
            },
        };
        // A pod's next container has the same interface name as the one before.
        let successors = endpoints.has_interface(&name) && own.is_empty();
        let assigned = secondary.get("timestamp").and_then(|time| parse_rfc3339(time));
        let now: SystemTime = (self.options.clock)();
        Evidence {
            endpoint: !own.is_empty(),
            interface: interfaces.contains(&name) && !successors,
            namespace: secondary
                .get(NETNS)
                .filter(|path| !path.is_empty())
                .and_then(|path| self.network.has_namespace(Path::new(path))),
            age: assigned.and_then(|assigned| now.duration_since(assigned).ok()),
        }
    }

    /// Removes endpoints and addresses, each only as it was when the evidence was taken.
    async fn free(&self, owned: &[Allocation], endpoints: &Endpoints) -> Result<(), CniError> {
        let Some(first) = owned.first() else { return Ok(()) };
        let ifname =
            first.attributes.secondary.get(INTERFACE).map_or(FIRST_INTERFACE, String::as_str);
        for (entry, _) in endpoints.of(container(first).unwrap_or_default(), ifname) {
            match self.store.delete(entry.key.clone(), Some(entry.revision)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        for allocation in owned {
            self.addresses.ipam().release_ips(&[Release::exactly(allocation)]).await?;
        }
        Ok(())
    }
}

/// The container that an address is for, as recorded; by older versions and upstream only in the
/// handle.
fn container(allocation: &Allocation) -> Option<&str> {
    let attributes = &allocation.attributes;
    let recorded = attributes.secondary.get(SANDBOX).map(String::as_str);
    // Addresses of tunnels and load balancers have a type, and no container.
    if attributes.secondary.contains_key("type") || allocation.is_of_machine() {
        return None;
    }
    recorded.or_else(|| Some(attributes.handle_id.as_deref()?.rsplit_once('.')?.1))
}

/// Endpoints of this node.
struct Endpoints(Vec<(Entry, WorkloadEndpoint)>);

impl Endpoints {
    fn new(node: &str, entries: Vec<Entry>) -> Self {
        let read = |entry: Entry| {
            let endpoint: WorkloadEndpoint = entry.decode().ok()?;
            (endpoint.spec.node == node).then_some((entry, endpoint))
        };
        Self(entries.into_iter().filter_map(read).collect())
    }

    fn of(&self, container: &str, ifname: &str) -> Vec<&(Entry, WorkloadEndpoint)> {
        let is =
            |spec: &WorkloadEndpointSpec| spec.container_id == container && spec.endpoint == ifname;
        self.0.iter().filter(|(_, endpoint)| is(&endpoint.spec)).collect()
    }

    fn has_interface(&self, name: &str) -> bool {
        self.0.iter().any(|(_, endpoint)| endpoint.spec.interface_name == name)
    }
}

fn report(suspect: &Suspect) {
    let Suspect { handle, addresses, evidence, verdict } = suspect;
    let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let addresses = text.join(", ");
    match verdict {
        Verdict::Freed => info!(handle, addresses, %evidence, "freed: the owner is gone"),
        Verdict::WouldFree => info!(handle, addresses, %evidence, "to be freed: the owner is gone"),
        Verdict::Kept => info!(handle, addresses, %evidence, "kept: not proven to be gone"),
        Verdict::Failed(error) => warn!(handle, addresses, %evidence, error, "cannot be freed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sources_must_agree_and_none_object() {
        let old = Some(Duration::from_secs(3600));
        let (yes, no) = (Some(true), Some(false));
        for (endpoint, interface, namespace, age, gone) in [
            (true, true, yes, old, false),
            (true, false, no, old, true),
            (false, false, no, old, true),
            (false, false, None, old, true),
            // One source alone.
            (true, false, None, old, false),
            (false, true, None, old, false),
            (true, true, no, old, false),
            // One objects.
            (false, true, no, old, false),
            (false, false, yes, old, false),
            // Too young, or nobody knows.
            (false, false, no, Some(Duration::from_secs(5)), false),
            (false, false, no, None, false),
        ] {
            let evidence = Evidence { endpoint, interface, namespace, age };
            assert_eq!(evidence.proves_gone(), gone, "{evidence}");
        }
    }
}
