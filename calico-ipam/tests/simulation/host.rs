//! A host as a state machine: at rest, or in the middle of an operation. What it runs, it knows
//! for sure, as a container runtime does; what the store says of it may be wrong after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use calico_core::key::Scope;
use calico_ipam::{Allocator, AssignIp, AssignRequest, Finding, Ipam, Owner, Release};

use super::store::{Dice, Steps};
use crate::common::Cluster;

/// Containers that a host runs at the same time at most.
const CONTAINERS: u64 = 5;

/// What containers really have, over all hosts.
#[derive(Debug)]
pub(crate) struct Truth {
    seed: u64,
    cooldown: u64,
    held: Mutex<BTreeMap<IpAddr, String>>,
    released: Mutex<BTreeMap<IpAddr, u64>>,
    given: Mutex<u64>,
}

impl Truth {
    /// With `cooldown`, an address must not be given again for so many seconds.
    pub(crate) fn new(seed: u64, cooldown: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            cooldown,
            held: Mutex::default(),
            released: Mutex::default(),
            given: Mutex::default(),
        })
    }

    /// A container gets `ip`: the one moment that everything is about.
    fn give(&self, ip: IpAddr, handle: &str, now: u64) {
        let seed = self.seed;
        let before = self.held.lock().unwrap().insert(ip, handle.to_owned());
        if before.as_deref() == Some(handle) {
            return;
        }
        assert_eq!(before, None, "seed {seed}: {ip} is given to {handle} as well");
        *self.given.lock().unwrap() += 1;
        if let Some(released) = self.released.lock().unwrap().get(&ip) {
            // Without a time to rest, the clock plays no role, and may run backwards.
            assert!(
                self.cooldown == 0 || now >= released + self.cooldown,
                "seed {seed}: {ip} was released at {released} and is given again at {now}"
            );
        }
    }

    fn of(&self, handle: &str) -> Vec<IpAddr> {
        let held = self.held.lock().unwrap();
        held.iter().filter(|(_, owner)| *owner == handle).map(|(ip, _)| *ip).collect()
    }

    fn forget(&self, handle: &str, now: u64) {
        for ip in self.of(handle) {
            self.held.lock().unwrap().remove(&ip);
            self.released.lock().unwrap().insert(ip, now);
        }
    }

    pub(crate) fn given(&self) -> u64 {
        *self.given.lock().unwrap()
    }

    /// The store says what is true: no more, no less.
    pub(crate) async fn assert_is(&self, cluster: &Cluster) {
        let seed = self.seed;
        let held = self.held.lock().unwrap().clone();
        let stored: BTreeMap<IpAddr, String> = cluster
            .assigned()
            .await
            .into_iter()
            .map(|(ip, handle)| (ip.parse().unwrap(), handle))
            .collect();
        assert_eq!(stored, held, "seed {seed}: the store (left) and the truth (right)");
        let ipam = cluster.ipam();
        let findings = ipam.check().await.unwrap();
        let harmless = |f: &Finding| !matches!(f, Finding::NoHandle { .. });
        assert!(findings.iter().all(harmless), "seed {seed}: {findings:?}");
        // Once every container is gone, so is every trace of addresses.
        for handle in held.into_values().collect::<BTreeSet<_>>() {
            ipam.release_by_handle(&handle).await.unwrap();
        }
        assert_eq!(cluster.assigned().await, [], "seed {seed}");
        assert!(cluster.paths(&Scope::Handles).await.is_empty(), "seed {seed}: handles");
    }
}

type Operation = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What an operation came to.
struct Done {
    handle: String,
    /// Addresses that the container has now; `None`: it has none, the handle is to be deleted.
    addresses: Option<Vec<IpAddr>>,
}

pub(crate) struct Host {
    name: String,
    store: Arc<Steps>,
    ipam: Ipam,
    allocator: Arc<Allocator>,
    truth: Arc<Truth>,
    /// Handles of containers that run.
    running: BTreeSet<String>,
    /// Handles that the runtime knows to be deleted, and will ask about again.
    dying: BTreeSet<String>,
    operation: Option<(String, Operation)>,
    containers: u64,
    reclaimed: Arc<Mutex<u64>>,
}

impl Host {
    pub(crate) fn new(
        name: String,
        store: Arc<Steps>,
        cluster: &Cluster,
        truth: &Arc<Truth>,
    ) -> Self {
        let ipam = cluster.ipam_on(Arc::clone(&store) as _);
        Self {
            allocator: Arc::new(Allocator::new(ipam.clone(), &name)),
            name,
            store,
            ipam,
            truth: Arc::clone(truth),
            running: BTreeSet::new(),
            dying: BTreeSet::new(),
            operation: None,
            containers: 0,
            reclaimed: Arc::default(),
        }
    }

    pub(crate) const fn is_busy(&self) -> bool {
        self.operation.is_some()
    }

    pub(crate) fn store(&self) -> &Steps {
        &self.store
    }

    pub(crate) fn reclaimed(&self) -> u64 {
        *self.reclaimed.lock().unwrap()
    }

    /// The program dies in the middle of what it does, and starts again. The runtime remembers
    /// what it asked for in most cases; else only a comparison with the store finds it.
    pub(crate) fn crash(&mut self) {
        self.allocator = Arc::new(Allocator::new(self.ipam.clone(), &self.name));
        if let Some((handle, _)) = self.operation.take()
            && !self.running.contains(&handle)
            && !self.containers.is_multiple_of(3)
        {
            self.dying.insert(handle);
        }
    }

    /// One step; says whether an operation came to its end with it.
    pub(crate) fn step(&mut self, dice: &mut Dice, now: u64) -> bool {
        let Some((_, operation)) = &mut self.operation else {
            self.operation = Some(self.begin(dice, now));
            return false;
        };
        let mut context = Context::from_waker(Waker::noop());
        let std::task::Poll::Ready(done) = operation.as_mut().poll(&mut context) else {
            return false;
        };
        self.operation = None;
        self.finish(done, now);
        true
    }

    fn finish(&mut self, done: Done, now: u64) {
        let Done { handle, addresses } = done;
        match addresses {
            Some(addresses) => {
                addresses.iter().for_each(|ip| self.truth.give(*ip, &handle, now));
                self.running.insert(handle);
            }
            None => {
                self.dying.remove(&handle);
            }
        }
    }

    /// Everything under way comes to its end, and what is left of crashes is found.
    pub(crate) async fn come_to_rest(&mut self) {
        self.store.calm();
        if let Some((_, operation)) = self.operation.take() {
            let done = operation.await;
            self.finish(done, u64::MAX);
        }
        let reclaim = self.reclaim();
        reclaim.await;
    }

    fn begin(&mut self, dice: &mut Dice, now: u64) -> (String, Operation) {
        let pick = |from: &BTreeSet<String>, dice: &mut Dice| {
            from.iter().nth(dice.below(from.len().max(1) as u64) as usize).cloned()
        };
        let dying = pick(&self.dying, dice);
        let running = pick(&self.running, dice);
        match (dice.below(20), dying, running) {
            (0..=4, Some(handle), _) => self.release(handle),
            (5..=8, _, Some(handle)) => {
                self.running.remove(&handle);
                self.dying.insert(handle.clone());
                // From now on nobody uses its addresses.
                self.truth.forget(&handle, now);
                self.release(handle)
            }
            (9, _, Some(handle)) => self.assign(handle, dice),
            (10, ..) => {
                let reclaim = self.reclaim();
                let work = async move {
                    reclaim.await;
                    Done { handle: String::new(), addresses: None }
                };
                (String::new(), Box::pin(work))
            }
            (11, ..) => self.give_up_block(dice),
            (12, ..) => self.assign_particular(dice),
            _ if self.running.len() as u64 >= CONTAINERS => {
                let handle = self.running.first().cloned().unwrap_or_default();
                self.assign(handle, dice)
            }
            _ => {
                let handle = self.fresh();
                self.assign(handle, dice)
            }
        }
    }

    fn fresh(&mut self) -> String {
        self.containers += 1;
        format!("net.{}-{}", self.name, self.containers)
    }

    /// Asks for addresses; of a container that runs, for those that it has.
    fn assign(&self, handle: String, dice: &mut Dice) -> (String, Operation) {
        let has = self.truth.of(&handle).len() as u64;
        let runs = self.running.contains(&handle);
        let count = if runs { has } else { 1 + dice.below(3) };
        let request = AssignRequest::new(&self.name)
            .handle(&handle)
            .attribute("node", &self.name)
            .v4(count as u32)
            .reuse();
        let (ipam, allocator) = (self.ipam.clone(), Arc::clone(&self.allocator));
        let resident = !dice.one_in(3);
        let name = handle.clone();
        let work = async move {
            let got = if resident {
                allocator.auto_assign(request).await
            } else {
                ipam.auto_assign(request).await
            };
            let addresses = got.and_then(|got| got.complete());
            let addresses = addresses.map(|got| got.v4.iter().map(|a| a.ip).collect()).ok();
            if addresses.is_none() && !runs {
                // A failed ADD: the runtime deletes.
                let _ = allocator.release_by_handle(&name).await;
            }
            Done { handle: name, addresses: addresses.or_else(|| runs.then(Vec::new)) }
        };
        (handle, Box::pin(work))
    }

    fn assign_particular(&mut self, dice: &mut Dice) -> (String, Operation) {
        let handle = self.fresh();
        let address = [10, 0, 0, dice.below(32) as u8].into();
        let mut wish = AssignIp::new(&self.name, address);
        wish.handle = Some(handle.clone());
        wish.attributes = [("node".to_owned(), self.name.clone())].into();
        let allocator = Arc::clone(&self.allocator);
        let name = handle.clone();
        let work = async move {
            let got = allocator.assign_ip(&wish).await;
            let addresses = got.map(|address| vec![address.ip]).ok();
            if addresses.is_none() {
                let _ = allocator.release_by_handle(&name).await;
            }
            Done { handle: name, addresses }
        };
        (handle, Box::pin(work))
    }

    fn release(&self, handle: String) -> (String, Operation) {
        let allocator = Arc::clone(&self.allocator);
        let name = handle.clone();
        let work = async move {
            let _ = allocator.release_by_handle(&name).await;
            Done { handle: name, addresses: None }
        };
        (handle, Box::pin(work))
    }

    fn give_up_block(&self, dice: &mut Dice) -> (String, Operation) {
        let (ipam, owner) = (self.ipam.clone(), Owner::host(&self.name));
        let (nth, only_if_empty) = (dice.below(4) as usize, dice.one_in(2));
        let work = async move {
            let own: Vec<_> = ipam.blocks().await.unwrap_or_default();
            let own = own.iter().filter(|b| b.owner.as_ref() == Some(&owner)).nth(nth);
            if let Some(block) = own {
                let _ = ipam.release_affinity(&owner, block.cidr, only_if_empty).await;
            }
            Done { handle: String::new(), addresses: None }
        };
        (String::new(), Box::pin(work))
    }

    /// Compares what the store says of this host with what runs here, and releases the rest.
    fn reclaim(&self) -> impl Future<Output = ()> + Send + use<> {
        let (ipam, running) = (self.ipam.clone(), self.running.clone());
        let (name, counter) = (self.name.clone(), Arc::clone(&self.reclaimed));
        async move {
            let runs = |handle: &str| running.contains(handle);
            for allocation in ipam.addresses_of_host(&name).await.unwrap_or_default() {
                let handle = allocation.attributes.handle_id.clone().unwrap_or_default();
                if !runs(&handle)
                    && let Ok(done) = ipam.release_ips(&[Release::exactly(&allocation)]).await
                {
                    *counter.lock().unwrap() += done.released.len() as u64;
                }
            }
            let _ = ipam.release_empty_handles().await;
        }
    }
}
