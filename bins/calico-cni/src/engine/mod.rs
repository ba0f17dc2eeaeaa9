//! The life of an attachment: ADD, DEL, CHECK, GC. The agent runs it, and so does the plugin itself
//! where no agent is configured.
//!
//! An ADD assigns addresses, writes the WorkloadEndpoint, and then makes the interfaces while the
//! dataplane brings the endpoint's policy into force; it answers once both are done. Whatever
//! fails, all that was made goes away again.

mod add;
mod batch;
mod check;
mod del;
mod failure;
mod gates;
mod gc;
mod ipam;
mod journal;
mod locks;
mod machine;
mod netlink;
mod reconcile;
mod resident;
mod traits;
mod turns;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{ClusterInformation, Node};
use calico_ipam::{Allocator, Ipam};
use tokio::sync::{Mutex as AsyncMutex, RwLock};
use tracing::{info, warn};

pub use self::del::Replayed;
pub use self::journal::{DEFAULT_DIRECTORY, Journal, Pending};
pub(crate) use self::netlink::chain;
pub use self::netlink::{NetlinkPods, teardown};
pub use self::reconcile::{Evidence, Reconciled, Suspect, Verdict};
pub use self::resident::ResidentPods;
pub use self::traits::{NetworkError, NoPolicy, PodNetwork, PolicyGate};

use self::batch::Queue;
use self::locks::Locks;
use crate::facts::{NoPods, PodSource};
use crate::naming::Identity;
use crate::protocol::{Plugin, Request, Response};
use crate::spec::{Call, CniError, CniResult, Code, NetConf, Verb, Version};

/// What an engine works with.
#[derive(Debug)]
pub struct Parts {
    /// Name of this node.
    pub node: String,
    /// Where endpoints are written.
    pub store: Arc<dyn Datastore>,
    /// Where addresses come from; on the same store.
    pub ipam: Ipam,
    /// What makes interfaces.
    pub network: Arc<dyn PodNetwork>,
    /// What knows when policy is in force.
    pub policy: Arc<dyn PolicyGate>,
    /// Deletions that could not be carried out.
    pub journal: Journal,
    /// Everything else.
    pub options: Options,
}

/// Settings of an engine.
#[derive(Clone)]
pub struct Options {
    /// How long an ADD waits for policy, unless the network configuration says otherwise.
    pub policy_patience: Duration,
    /// How long a DEL waits for the datastore before it goes to the journal.
    pub store_patience: Duration,
    /// File with the MTU for pods, read if the configuration says nothing; may be missing.
    pub mtu_file: PathBuf,
    /// Who knows what pods ask for.
    pub pods: Arc<dyn PodSource>,
    /// Where the time comes from.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy_patience: Duration::from_secs(20),
            store_patience: Duration::from_secs(3),
            mtu_file: "/var/lib/calico/mtu".into(),
            pods: Arc::new(NoPods),
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("policy_patience", &self.policy_patience)
            .field("store_patience", &self.store_patience)
            .field("mtu_file", &self.mtu_file)
            .finish_non_exhaustive()
    }
}

/// Carries out calls of the plugin on one node.
///
/// A call should go on to its end even if its caller is gone, as [`serve`](crate::protocol::serve)
/// sees to: dropping the future of an ADD may leave what it made until the runtime's DEL.
#[derive(Debug)]
pub struct Engine {
    node: String,
    store: Arc<dyn Datastore>,
    addresses: Allocator,
    queue: Queue,
    network: Arc<dyn PodNetwork>,
    policy: Arc<dyn PolicyGate>,
    journal: Journal,
    options: Options,
    /// By endpoint: calls about one attachment go one after the other.
    locks: Locks,
    /// Held by ADDs; whoever looks for what no container has any more waits until there are none.
    attaching: RwLock<()>,
    /// Handles of machines that were gone when last looked at.
    ended_machines: AsyncMutex<BTreeSet<String>>,
    /// How often this node's addresses were compared with what runs.
    reconciled: AtomicU64,
}

impl Engine {
    /// An engine of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            addresses: Allocator::new(parts.ipam, &parts.node),
            queue: Queue::default(),
            node: parts.node,
            store: parts.store,
            network: parts.network,
            policy: parts.policy,
            journal: parts.journal,
            options: parts.options,
            locks: Locks::default(),
            attaching: RwLock::default(),
            ended_machines: AsyncMutex::default(),
            reconciled: AtomicU64::new(0),
        }
    }

    /// The allocator of this node's addresses, for other users on this node.
    #[must_use]
    pub const fn addresses(&self) -> &Allocator {
        &self.addresses
    }

    /// Carries out one call and words its answer.
    pub async fn handle(&self, request: &Request) -> Response {
        self.handle_for(request, &|| false).await
    }

    /// [`handle`](Self::handle) for a caller who may be gone by now: then nothing is attached.
    pub async fn handle_for(&self, request: &Request, gone: Gone<'_>) -> Response {
        let Request { call, verb, .. } = request;
        let conf = match NetConf::parse(&request.config) {
            Ok(conf) => conf,
            Err(error) => return Response::failure(&error, Version::LATEST),
        };
        match self.dispatch(request, &conf, gone).await {
            Ok(output) => Response { failed: false, output },
            Err(error) => {
                let container = call.container.as_str();
                warn!(?verb, container, network = conf.name, %error, "a CNI call failed");
                Response::failure(&error, conf.version().unwrap_or(Version::LATEST))
            }
        }
    }

    async fn dispatch(
        &self,
        request: &Request,
        conf: &NetConf,
        gone: Gone<'_>,
    ) -> Result<String, CniError> {
        let version = conf.version()?;
        let call = &request.call;
        allow(request.verb, version)?;
        self.check_node(conf)?;
        let write = |result: CniResult| result.to_json(version);
        match (request.verb, request.plugin) {
            (_, Plugin::Ranges) => self.ranges().await,
            (Verb::Version, _) => Ok(Version::report()),
            // Somebody else has the addresses.
            (Verb::Status, _) if !conf.ipam.is_ours() => self.ready().await.map(|()| String::new()),
            (Verb::Status, _) => self.status().await.map(|()| String::new()),
            (Verb::Gc, _) => self.collect(conf).await.map(|()| String::new()),
            (Verb::Add, Plugin::Main) => self.add_for(conf, call, gone).await.map(write),
            (Verb::Del, Plugin::Main) => self.del(conf, request).await.map(|()| String::new()),
            (Verb::Check, Plugin::Main) => self.check(conf, call).await.map(|()| String::new()),
            (Verb::Add, Plugin::Ipam) => self.add_addresses(conf, call, gone).await.map(write),
            (Verb::Del, Plugin::Ipam) => {
                self.del_addresses(conf, request).await.map(|()| String::new())
            }
            (Verb::Check, Plugin::Ipam) => {
                self.check_addresses(conf, call).await.map(|()| String::new())
            }
        }
    }

    /// Whether an ADD can be served.
    ///
    /// # Errors
    ///
    /// Code 50 says what is missing.
    pub async fn status(&self) -> Result<(), CniError> {
        let not_available = |details: String| {
            CniError::new(Code::NotAvailable, "pods cannot be given a network now").details(details)
        };
        self.ready().await.map_err(|error| not_available(error.to_string()))?;
        let pools = self.addresses.ipam().utilization().await;
        let pools = pools.map_err(|error| not_available(error.to_string()))?;
        if pools.iter().all(|pool| pool.available == 0) {
            return Err(not_available(
                "no IP pool has an address left: create one, or release addresses".into(),
            ));
        }
        Ok(())
    }

    /// Whether the cluster's datastore may be used: during a migration it may not.
    async fn ready(&self) -> Result<(), CniError> {
        let key = Key::resource(Kind::ClusterInformation, None, "default");
        let Some(entry) = self.store.find(&key).await? else { return Ok(()) };
        let cluster: ClusterInformation = entry.decode()?;
        if cluster.spec.datastore_ready == Some(false) {
            return Err(CniError::new(
                Code::TryAgain,
                "Calico is currently not ready to process requests",
            )
            .details("the datastore is being migrated (ClusterInformation, datastoreReady)"));
        }
        Ok(())
    }

    /// The ranges of pods that Kubernetes gave to this node, as a JSON list.
    async fn ranges(&self) -> Result<String, CniError> {
        let key = Key::resource(Kind::Node, None, &self.node);
        let ranges = match self.store.find(&key).await? {
            Some(entry) => entry.decode::<Node>()?.status.unwrap_or_default().pod_cidrs,
            None => Vec::new(),
        };
        serde_json::to_string(&ranges)
            .map_err(|error| CniError::new(Code::Decode, error.to_string()))
    }

    fn identity(&self, conf: &NetConf, call: &Call) -> Identity {
        Identity::new(&self.node, conf, call)
    }

    fn check_node(&self, conf: &NetConf) -> Result<(), CniError> {
        let named = [&conf.nodename, &conf.hostname].into_iter().find(|name| !name.is_empty());
        match named {
            Some(name) if *name != self.node => Err(CniError::new(
                Code::InvalidConfig,
                format!("the configuration is for node {name}"),
            )
            .details(format!("this is node {}; change or remove `nodename`", self.node))),
            _ => Ok(()),
        }
    }

    fn mtu(&self, conf: &NetConf) -> u32 {
        if conf.mtu != 0 {
            return conf.mtu;
        }
        let text = std::fs::read_to_string(&self.options.mtu_file).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// Says whether the caller is gone.
pub type Gone<'a> = &'a (dyn Fn() -> bool + Send + Sync);

fn still_there(gone: Gone<'_>) -> Result<(), CniError> {
    if gone() {
        let error = CniError::new(Code::TryAgain, "the caller went away before its turn");
        return Err(error.details("nothing was attached"));
    }
    Ok(())
}

/// Verbs that came later need a configuration of that version, as the specification's library for
/// plugins demands too.
fn allow(verb: Verb, version: Version) -> Result<(), CniError> {
    let since = match verb {
        Verb::Check => Version::V0_4_0,
        Verb::Gc | Verb::Status => Version::V1_1_0,
        Verb::Add | Verb::Del | Verb::Version => Version::V0_1_0,
    };
    if version >= since {
        return Ok(());
    }
    let message = format!("cniVersion {version} does not have this command");
    Err(CniError::new(Code::IncompatibleVersion, message)
        .details(format!("set cniVersion to {since} or later in the network configuration")))
}

impl Response {
    pub(crate) fn failure(error: &CniError, version: Version) -> Self {
        Self { failed: true, output: error.to_json(version) }
    }
}

/// Logs an attachment that came or went.
fn log(what: &str, id: &Identity, result: &str) {
    info!(endpoint = %id.endpoint(), interface = id.host_interface, "{what}{result}");
}
