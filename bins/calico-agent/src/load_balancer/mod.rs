//! Addresses of Kubernetes' services of type `LoadBalancer` from pools for that use, as upstream's
//! controller of that name gives them; `KubeControllersConfiguration` says to which services
//! (`loadBalancer.assignIPs`).
//!
//! Three agents do it, those of the nodes whose names come first: the first at once, each of the
//! others later than the one before, when there is mostly nothing left to do. All that they do may
//! be done by several at the same time.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_core::Datastore;
use calico_core::datastore::{StoreError, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    AllowedUse, AssignIps, IpPool, KubeControllersConfiguration, KubernetesService,
    NAMESPACE_LABEL_PREFIX, NAMESPACE_PROFILE_PREFIX, Profile,
};
use calico_datastore::KubernetesStore;
use calico_ipam::plan::time::rfc3339;
use calico_ipam::{Ipam, IpamError};
use calico_router::mirror::{Change, Mirror};
use futures_util::StreamExt;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::overlay::addresses::Wanted;

/// Time between two looks at everything. Upstream: the same.
const PASS: Duration = Duration::from_secs(300);
/// Changes come in swarms.
const PAUSE: Duration = Duration::from_millis(100);
/// How much later than the agent before an agent does what is left to do.
const TURN: Duration = Duration::from_secs(30);
/// Agents that take part.
const AGENTS: usize = 3;
/// Time after which what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Namespace and name of a service.
type Name = (String, String);

/// Runs until nobody says any more which nodes there are. Services are `kubernetes`'; addresses are
/// in `store`, which may be the same.
pub async fn run(
    store: Arc<dyn Datastore>,
    kubernetes: KubernetesStore,
    mut nodes: watch::Receiver<Wanted>,
) {
    // Until the nodes are known, everybody would be the first.
    let _ = timeout(AGAIN, nodes.changed()).await;
    let follow = |kind| store.watch(Scope::Kind(kind), None);
    let settings = follow(Kind::IpPool).chain(futures_util::stream::pending());
    let configuration = follow(Kind::KubeControllersConfiguration);
    let mut settings: WatchStream = Box::pin(futures_util::stream::select(settings, configuration));
    let mut services = kubernetes.watch(Scope::Kind(Kind::KubernetesService), None);
    let mut task = Task {
        ipam: Ipam::new(Arc::clone(&store), calico_ipam::Options::default()),
        store,
        kubernetes,
        nodes,
        mirror: Mirror::default(),
        services: BTreeMap::new(),
        ours: BTreeMap::new(),
        due: BTreeMap::new(),
        pass: Instant::now(),
        said: BTreeMap::new(),
    };
    loop {
        let next = task.due.values().min().map_or(task.pass, |due| task.pass.min(*due));
        tokio::select! {
            event = services.next() => match event {
                Some(event) => task.observe(event),
                None => return,
            },
            event = settings.next() => match event {
                // What others may have now, nobody knows.
                Some(_) => task.pass = task.pass.min(Instant::now() + task.delay()),
                None => return,
            },
            () = sleep_until(next) => task.work().await,
        }
        if task.nodes.has_changed().is_err() {
            return;
        }
    }
}

struct Task {
    store: Arc<dyn Datastore>,
    kubernetes: KubernetesStore,
    ipam: Ipam,
    nodes: watch::Receiver<Wanted>,
    mirror: Mirror,
    services: BTreeMap<Name, KubernetesService>,
    /// Handles of services that may have addresses.
    ours: BTreeMap<Name, String>,
    /// When to look at a service.
    due: BTreeMap<Name, Instant>,
    /// When to look at all of them, and at addresses that no service has.
    pass: Instant,
    /// What was said last of each service.
    said: BTreeMap<Name, String>,
}

/// What holds for all services.
struct Rules {
    assign: AssignIps,
    /// Ranges for services.
    pools: Vec<IpNet>,
}

impl Task {
    fn observe(&mut self, event: WatchEvent) {
        if matches!(event, WatchEvent::Ready(_)) {
            self.pass = Instant::now() + self.delay();
        }
        for change in self.mirror.handle(event) {
            let name = match &change {
                Change::Put(entry) => name(&entry.key),
                Change::Gone(key) => name(key),
            };
            let Some(name) = name else { continue };
            match change {
                Change::Put(entry) => match entry.decode::<KubernetesService>() {
                    Ok(service) => drop(self.services.insert(name.clone(), service)),
                    Err(error) => warn!(%error, "a service is ignored"),
                },
                Change::Gone(_) => drop(self.services.remove(&name)),
            }
            let concerns = self.services.get(&name).is_some_and(plan::is_balanced);
            if concerns || self.ours.contains_key(&name) {
                let due = Instant::now() + self.delay();
                self.due.entry(name).or_insert(due);
            }
        }
    }

    /// How much later than a change this agent follows it.
    fn delay(&self) -> Duration {
        let rank = self.nodes.borrow().absence.rank.min(AGENTS);
        PAUSE + TURN * u32::try_from(rank).unwrap_or_default()
    }

    async fn work(&mut self) {
        let now = Instant::now();
        let rank = self.nodes.borrow().absence.rank;
        let all = self.pass <= now;
        if rank >= AGENTS || !self.mirror.in_sync() {
            // Somebody else's business, or nothing is known yet.
            self.due.clear();
            self.pass = now + if rank >= AGENTS { PASS } else { AGAIN };
            return;
        }
        let mut names: BTreeSet<Name> =
            self.due.iter().filter(|(_, due)| **due <= now).map(|(name, _)| name.clone()).collect();
        if all {
            let services = self.services.iter().filter(|(_, service)| plan::is_balanced(service));
            names.extend(services.map(|(name, _)| name.clone()));
            names.extend(self.ours.keys().cloned());
            self.pass = now + PASS;
        }
        self.due.retain(|name, _| !names.contains(name));
        let rules = match self.rules().await {
            Ok(rules) => rules,
            Err(error) => {
                debug!(%error, "cannot give services their addresses yet");
                self.pass = now + AGAIN;
                return;
            }
        };
        for name in names {
            if let Err(error) = self.follow(&name, &rules).await {
                debug!(%error, service = name.1, namespace = name.0, "to be tried again");
                self.due.insert(name, Instant::now() + AGAIN);
            }
        }
        if all && let Err(error) = self.collect(&rules).await {
            debug!(%error, "cannot look for addresses of services that are gone yet");
            self.pass = now + AGAIN;
        }
    }

    async fn rules(&self) -> Result<Rules, StoreError> {
        let key = Key::resource(Kind::KubeControllersConfiguration, None, "default");
        let assign = match self.store.find(&key).await? {
            Some(entry) => {
                let controllers = entry.decode::<KubeControllersConfiguration>()?.spec.controllers;
                controllers.load_balancer.and_then(|controller| controller.assign_ips)
            }
            None => None,
        };
        let pools = self.store.list(&Scope::Kind(Kind::IpPool)).await?.entries;
        let pools = pools.iter().filter_map(|entry| entry.decode::<IpPool>().ok());
        let for_services =
            |pool: &IpPool| pool.spec.allowed_uses().contains(&AllowedUse::LoadBalancer);
        let pools = pools.filter(for_services).map(|pool| pool.spec.cidr.trunc()).collect();
        Ok(Rules { assign: assign.unwrap_or_default(), pools })
    }

    /// Gives a service what it wants, or takes what it has, and says so on its status.
    async fn follow(&mut self, name: &Name, rules: &Rules) -> Result<(), IpamError> {
        let service = self.services.get(name).cloned();
        let managed = service.as_ref().filter(|service| plan::is_managed(service, rules.assign));
        let Some(service) = managed else {
            let released = match self.ours.get(name) {
                Some(handle) => self.ipam.release_by_handle(handle).await?,
                None => Vec::new(),
            };
            if let Some(service) = service.filter(plan::is_balanced) {
                self.tell(&service, &[], |ip| released.contains(ip)).await?;
            }
            if !released.is_empty() {
                info!(namespace = name.0, service = name.1, ?released, "gave back addresses");
            }
            self.ours.remove(name);
            self.said.remove(name);
            return Ok(());
        };
        let handle = plan::handle(service);
        if let Some(before) = self.ours.insert(name.clone(), handle.clone())
            && before != handle
        {
            // Another service of the same name.
            self.ipam.release_by_handle(&before).await?;
        }
        let wish = match self.wish(service).await? {
            Ok(wish) => wish,
            Err(mistake) => {
                self.say(name, mistake);
                return Ok(());
            }
        };
        let served = self.ipam.serve(&wish).await?;
        match &served.lacks {
            // Where no pool is for services, they are somebody else's business.
            Some(_) if rules.pools.is_empty() => {}
            Some(lacks) => self.say(name, lacks.to_string()),
            None => drop(self.said.remove(name)),
        }
        let ours = |ip: &IpAddr| {
            served.released.contains(ip) || rules.pools.iter().any(|pool| pool.contains(ip))
        };
        self.tell(service, &served.addresses, ours).await
    }

    async fn wish(
        &self,
        service: &KubernetesService,
    ) -> Result<Result<calico_ipam::ServiceWish, String>, StoreError> {
        let profile = format!("{NAMESPACE_PROFILE_PREFIX}{}", service.namespace());
        let key = Key::resource(Kind::Profile, None, &profile);
        let mut labels = BTreeMap::new();
        if let Some(entry) = self.kubernetes.find(&key).await? {
            let own = |(key, value): (String, String)| {
                Some((key.strip_prefix(NAMESPACE_LABEL_PREFIX)?.to_owned(), value))
            };
            let given = entry.decode::<Profile>()?.spec.labels_to_apply;
            labels.extend(given.into_iter().filter_map(own));
        }
        Ok(plan::wish(service, labels, rfc3339(SystemTime::now())))
    }

    async fn tell(
        &self,
        service: &KubernetesService,
        given: &[IpAddr],
        ours: impl Fn(&IpAddr) -> bool,
    ) -> Result<(), IpamError> {
        let Some(addresses) = plan::status(service, given, ours) else { return Ok(()) };
        let (namespace, name) = (service.namespace(), service.name());
        let version = &service.metadata.resource_version;
        match self.kubernetes.set_load_balancer(namespace, name, version, &addresses).await {
            Ok(()) => {
                info!(namespace, service = name, ?addresses, "told a service its addresses");
                Ok(())
            }
            // The watch brings what it is now.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Frees addresses whose service is gone: it was deleted while nobody looked. The API server is
    /// asked about each: what was watched may be out of date.
    async fn collect(&mut self, rules: &Rules) -> Result<(), IpamError> {
        let mut lost: BTreeMap<String, Name> = BTreeMap::new();
        let known: BTreeSet<&String> = self.ours.values().collect();
        for allocation in self.ipam.served().await? {
            let attributes = allocation.attributes;
            let Some(handle) = attributes.handle_id.filter(|handle| !known.contains(handle)) else {
                continue;
            };
            let of = |key: &str| attributes.secondary.get(key).cloned();
            if let Some(name) = of("namespace").zip(of("service")) {
                lost.insert(handle, name);
            }
        }
        for (handle, (namespace, name)) in lost {
            let key = Key::resource(Kind::KubernetesService, Some(&namespace), &name);
            let service = match self.kubernetes.find(&key).await? {
                Some(entry) => Some(entry.decode::<KubernetesService>()?),
                None => None,
            };
            let service = service.filter(|service| plan::handle(service) == handle);
            if service.as_ref().is_some_and(|service| plan::is_managed(service, rules.assign)) {
                continue;
            }
            let released = self.ipam.release_by_handle(&handle).await?;
            info!(namespace, service = name, ?released, "freed: the service is gone");
            if let Some(service) = service.filter(plan::is_balanced) {
                self.tell(&service, &[], |ip| released.contains(ip)).await?;
            }
        }
        Ok(())
    }

    fn say(&mut self, name: &Name, what: String) {
        if self.said.get(name) != Some(&what) {
            warn!(namespace = name.0, service = name.1, what, "a service lacks an address");
            self.said.insert(name.clone(), what);
        }
    }
}

fn name(key: &Key) -> Option<Name> {
    match key {
        Key::Resource { kind: Kind::KubernetesService, namespace: Some(namespace), name } => {
            Some((namespace.clone(), name.clone()))
        }
        _ => None,
    }
}
