//! Fills the CalicoNodeStatus resources of this node.
//!
//! As upstream: a report is made when the resource comes or its spec changes, and then every
//! `updatePeriodSeconds`; 0 means never again. A report that says nothing new is not written.

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_core::Datastore;
use calico_core::datastore::{Entry, Revision, StoreError, WatchEvent};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{CalicoNodeStatus, CalicoNodeStatusStatus, NodeStatusClass};
use calico_netlink::link::{self, LinkFilter};
use calico_netlink::route::{self, KernelRoute};
use calico_netlink::rtnl::{Connection, RtnlError};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub use report::Seen;

use crate::router::RouterView;
use calico_router::mirror::{Change, Mirror};

/// Time after which a report that could not be made or written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The main table.
const TABLE: u32 = 254;

/// A resource of this node.
#[derive(Debug)]
struct Request {
    resource: CalicoNodeStatus,
    revision: Revision,
    due: Option<Instant>,
}

/// Reports until the datastore is closed.
pub async fn run(node: String, store: Arc<dyn Datastore>, router: RouterView) {
    let mut watch = store.watch(Scope::Kind(Kind::CalicoNodeStatus), None);
    let mut mirror = Mirror::default();
    let mut requests: BTreeMap<Key, Request> = BTreeMap::new();
    loop {
        let due = requests.values().filter_map(|request| request.due).min();
        tokio::select! {
            event = watch.next() => match event {
                Some(event) => take(&mut requests, &mut mirror, &node, event),
                None => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                for (key, request) in &mut requests {
                    if request.due.is_some_and(|due| due <= now) {
                        make(&*store, &router, key, request).await;
                    }
                }
            }
        }
    }
}

fn take(requests: &mut BTreeMap<Key, Request>, mirror: &mut Mirror, node: &str, event: WatchEvent) {
    if let WatchEvent::Bad { path, reason } = &event {
        warn!(path, reason, "a request for this node's status is ignored");
    }
    for change in mirror.handle(event) {
        let entry = match change {
            Change::Put(entry) => entry,
            Change::Gone(key) => {
                requests.remove(&key);
                continue;
            }
        };
        match read(&entry, node) {
            Ok(Some(resource)) => {
                let old = requests.remove(&entry.key);
                let due = match old {
                    Some(old) if old.resource.spec == resource.spec => old.due,
                    _ => Some(Instant::now()),
                };
                requests.insert(entry.key, Request { resource, revision: entry.revision, due });
            }
            Ok(None) => drop(requests.remove(&entry.key)),
            Err(error) => {
                warn!(key = %entry.key, %error, "a request for this node's status is ignored");
            }
        }
    }
}

/// The resource, if it is for this node and asks for anything.
fn read(entry: &Entry, node: &str) -> Result<Option<CalicoNodeStatus>, StoreError> {
    let resource: CalicoNodeStatus = entry.decode()?;
    if resource.spec.node != node {
        return Ok(None);
    }
    if resource.spec.update_period_seconds.is_none() {
        warn!(key = %entry.key, "no report of this node's status: updatePeriodSeconds is not set");
        return Ok(None);
    }
    Ok(Some(resource))
}

async fn make(store: &dyn Datastore, router: &RouterView, key: &Key, request: &mut Request) {
    let period = request.resource.spec.update_period_seconds.unwrap_or_default();
    let period = (period > 0).then(|| Duration::from_secs(period.into()));
    request.due = period.map(|period| Instant::now() + period);
    let mut seen = Seen { speaker: router.report().await, ..Seen::default() };
    if request.resource.spec.classes.contains(&NodeStatusClass::Routes) {
        match kernel() {
            Ok((routes, interfaces)) => (seen.routes, seen.interfaces) = (routes, interfaces),
            Err(error) => {
                warn!(%key, %error, "no report of this node's status: cannot read its routes");
                request.due = Some(Instant::now() + RETRY);
                return;
            }
        }
    }
    let old = request.resource.status.clone().unwrap_or_default();
    let new = report::status(&request.resource.spec.classes, &old, &seen, SystemTime::now());
    let same =
        |a: &CalicoNodeStatusStatus| CalicoNodeStatusStatus { last_updated: None, ..a.clone() };
    if same(&old) == same(&new) && old.last_updated.is_some() {
        return;
    }
    let resource = CalicoNodeStatus { status: Some(new), ..request.resource.clone() };
    match store.update(key.clone(), resource.to_json(), request.revision).await {
        Ok(revision) => {
            debug!(%key, "reported this node's status");
            (request.resource, request.revision) = (resource, revision);
        }
        // The watch brings what is there now.
        Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {
            request.due = Some(Instant::now() + RETRY);
        }
        Err(error) => {
            info!(%key, %error, "cannot report this node's status");
            request.due = Some(Instant::now() + RETRY);
        }
    }
}

/// The main table, and names of interfaces by index.
fn kernel() -> Result<(Vec<KernelRoute>, BTreeMap<u32, String>), RtnlError> {
    let mut connection = Connection::open()?;
    let routes = route::list(&mut connection, TABLE)?;
    let links = link::list(&mut connection, &LinkFilter::default())?;
    Ok((routes, links.into_iter().map(|link| (link.index, link.name)).collect()))
}
