//! Composition: opens what the node needs, joins it, and runs until told to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_cni::protocol;
use calico_control::Recorded;
use calico_core::Datastore;
use calico_core::dataplane::{Dataplane, DataplaneError};
use calico_core::datastore::StoreError;
use calico_core::resource::FelixConfigurationSpec;
use calico_datastore::KubernetesStore;
use calico_datastore::config::{self, DatastoreConfig};
use calico_datastore::remote::{LocalListener, Server};
use calico_netlink::dataplane::LinuxDataplane;
use calico_netlink::route::RouteSync;
use calico_netlink::rtnl::RtnlError;
use calico_netlink::sysctl::{self, SysctlError};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::brain::Brain;
use crate::config::{Config, ConfigError};
use crate::control::{Control, VerdictLog};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::overlay::addresses::Wanted;
use crate::overlay::devices::Devices;
use crate::probes::Probes;
use crate::progress::{Progress, Watcher, follow_recovery};
use crate::router::Router;
use crate::settings::kernel::Kernel;
use crate::startup::{Startup, condition};
use crate::workload_addresses::WorkloadAddresses;
use crate::{
    cni, collect, environment, init, load_balancer, node_status, overlay, pods, probes, settings,
};
use calico_router::secrets::SecretFiles;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration does not suffice.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The datastore cannot be opened.
    #[error("cannot open the datastore")]
    Store(#[from] StoreError),
    /// The kernel cannot be used.
    #[error("cannot use the kernel's nf_tables")]
    Dataplane(#[from] DataplaneError),
    /// The kernel's routes cannot be read.
    #[error("cannot use the kernel's routes")]
    Routes(#[from] RtnlError),
    /// The host cannot be made to forward packets.
    #[error("cannot prepare the host")]
    Sysctl(#[from] SysctlError),
    /// A socket or directory cannot be made.
    #[error("cannot use {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Runs the agent of a node until `shutdown` completes. Traffic and routes outlive it.
///
/// # Errors
///
/// [`RunError`] if it cannot start. Once it runs, it keeps trying.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let node = config.node_name()?;
    let local = settings::local(&config.felix_config)?;
    for directory in [&config.run_dir, &config.state_dir] {
        std::fs::create_dir_all(directory).map_err(file(directory))?;
    }
    let mut services = JoinSet::new();
    let store = open_store(&config)?;
    serve_store(&config, &store, &mut services)?;
    for note in sysctl::count_connections()? {
        info!(note, "a kernel setting is not available");
    }
    let routes =
        Arc::new(RouteSync::open(settings::kernel::routes(&FelixConfigurationSpec::default()))?);
    let usual = calico_netlink::dataplane::Settings::default();
    let dataplane = match config.dataplane.own_table {
        true => LinuxDataplane::open_owning(Arc::clone(&routes) as _, usual).await?,
        false => LinuxDataplane::open_with(Arc::clone(&routes) as _, usual).await?,
    };
    let dataplane = Arc::new(dataplane);
    let kernel = Some(Kernel::new(routes, Arc::clone(&dataplane)));
    let dataplane: Arc<dyn Dataplane> = dataplane;

    let (progress, watcher) = watch::channel(Progress::default());
    let watcher = Watcher::new(watcher);
    let router = Router::new(config.bgp.as_ref(), &config.run_dir);
    let metrics = Metrics::default();
    let probes = Arc::new(Probes::new(&node, watcher.clone(), &metrics, std::time::Instant::now()));
    let verdicts = VerdictLog::default();
    services.spawn(publish(Arc::clone(&dataplane), verdicts.clone()));
    let control =
        Control { node: node.clone(), progress: watcher.clone(), bgp: router.view(), verdicts };
    services.spawn(control.serve(listen(&config.control_socket())?));
    info!(node, run_dir = %config.run_dir.display(), "the agent runs");

    services.spawn(initialize(Arc::clone(&store)));
    let recovery = watcher.clone();
    services.spawn(follow_recovery(Arc::clone(&store), progress.clone()));
    let kubernetes = match (&config.startup, config.store()?) {
        (Some(_), DatastoreConfig::Kubernetes(settings)) => {
            Some(KubernetesStore::connect(&settings)?)
        }
        _ => None,
    };
    let startup = config.startup.clone().map(|variables| {
        let kubernetes = kubernetes.clone();
        Startup { node: node.clone(), kubernetes, variables }
    });
    if let Some(startup) = startup.clone() {
        services.spawn(startup.run(Arc::clone(&store), config.state_dir.clone()));
    }
    if let Some(kubernetes) = kubernetes.clone() {
        services.spawn(condition::run(node.clone(), kubernetes, watcher.clone()));
    }
    let tunnel_addresses = watch::Sender::new(Wanted::default());
    let wanted = tunnel_addresses.subscribe();
    let absent = tunnel_addresses.subscribe();
    services.spawn(collect::run(node.clone(), Arc::clone(&store), absent, config.reconcile));
    if config.load_balancer {
        match pods::api_server(&config.store()?, config.kubernetes.as_deref())? {
            Some(server) => {
                let nodes = tunnel_addresses.subscribe();
                services.spawn(load_balancer::run(Arc::clone(&store), server, nodes));
            }
            None => warn!("`load_balancer` has no effect: no Kubernetes API server is configured"),
        }
    }
    services.spawn(overlay::addresses::run(node.clone(), Arc::clone(&store), wanted));
    let devices = Some(Devices::new(config.mtu_file()));
    services.spawn(node_status::run(node.clone(), Arc::clone(&store), router.view()));
    let pods = pods::source(&config.store()?, config.kubernetes.as_deref())?;
    let engine =
        cni::engine(&node, Arc::clone(&store), watcher, &config.journal(), config.mtu_file(), pods);
    services.spawn(cni::replay(Arc::clone(&engine)));
    services.spawn(cni::reconcile(Arc::clone(&engine), config.reconcile));
    services.spawn(cni::replay_after_failures(Arc::clone(&engine), recovery));
    let (stop_calls, stopped) = tokio::sync::oneshot::channel::<()>();
    let calls = tokio::spawn(protocol::serve(listen(&config.cni_socket())?, engine, async move {
        drop(stopped.await)
    }));
    let mut brain = Brain::new(&node, environment::options());
    brain.set_local(local);
    let settings = watch::Sender::new(FelixConfigurationSpec::default());
    services.spawn(probes::serve(probes, settings.subscribe()));
    services.spawn(settings::follow_log(settings.subscribe()));
    services.spawn(settings::follow_forwarding(settings.subscribe()));
    let secrets = SecretFiles::new(config.bgp.clone().unwrap_or_default().secrets_dir());
    let workload_addresses = WorkloadAddresses::default();
    let name = node;
    let node = Node {
        brain,
        store,
        dataplane,
        kernel,
        router,
        secrets,
        workload_addresses,
        devices,
        tunnel_addresses,
        settings,
        metrics,
        progress,
    };
    node.run(shutdown).await;
    info!("the agent stops; traffic and routes stay");
    if let Some(startup) = &startup {
        startup.note_end(&config.state_dir, SystemTime::now());
    }
    if let Some(kubernetes) = kubernetes {
        services.abort_all();
        condition::farewell(&name, &kubernetes).await;
    }
    drop(stop_calls);
    if let Err(error) = calls.await {
        warn!(%error, "the CNI service ended badly");
    }
    services.shutdown().await;
    Ok(())
}

fn open_store(config: &Config) -> Result<Arc<dyn Datastore>, RunError> {
    let settings = config.store()?;
    if let DatastoreConfig::Embedded { path, .. } = &settings
        && let Some(parent) = path.parent()
    {
        std::fs::create_dir_all(parent).map_err(file(parent))?;
    }
    Ok(config::open(&settings)?)
}

/// Serves the store to the programs of this host, and to agents that have none of their own.
fn serve_store(
    config: &Config,
    store: &Arc<dyn Datastore>,
    services: &mut JoinSet<()>,
) -> Result<(), RunError> {
    let path = config.datastore_socket();
    let store = Arc::clone(store);
    let server = Server::run(listen(&path)?, store, std::future::pending());
    services.spawn(server);
    Ok(())
}

fn listen(path: &Path) -> Result<LocalListener, RunError> {
    LocalListener::bind(path).map_err(file(path))
}

/// Waits for the datastore if need be: the cluster may be on its way up, too.
async fn initialize(store: Arc<dyn Datastore>) {
    let guid = || {
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        uuid.trim().replace('-', "")
    };
    while let Err(error) = init::ensure_initialized(&*store, guid).await {
        debug!(%error, "cannot initialize the datastore yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn publish(dataplane: Arc<dyn Dataplane>, verdicts: VerdictLog) {
    let mut events = dataplane.verdicts();
    while let Some(event) = events.next().await {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        verdicts.record(Recorded { at, event });
    }
    warn!("the dataplane reports no verdicts any more");
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> RunError + use<> {
    let path = path.to_owned();
    move |source| RunError::File { path, source }
}
