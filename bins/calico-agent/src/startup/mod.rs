//! What a node does about itself at its start, as upstream's calico-node: it finds its addresses
//! and writes them to its Node, and makes what a new cluster lacks, among it the first pools.
//!
//! Variables say how, with upstream's names: `IP`, `IP6`, `IP_AUTODETECTION_METHOD`,
//! `IP6_AUTODETECTION_METHOD`, `AUTODETECT_POLL_INTERVAL`, `AS`, `CALICO_NETWORKING_BACKEND`,
//! `CALICO_K8S_NODE_REF`, `CLUSTER_TYPE`, `DISABLE_NODE_IP_CHECK`, `NO_DEFAULT_POOLS`,
//! `CALICO_IPV4POOL_...` and `CALICO_IPV6POOL_...`.

mod addresses;
pub mod condition;
mod defaults;
pub mod detect;
pub mod pools;
mod timestamp;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_datastore::KubernetesStore;
use calico_netlink::link::LinkFilter;
use calico_netlink::rtnl::Connection;
use calico_netlink::{address, link};
use ipnet::IpNet;
use tracing::{error, warn};

use self::detect::{Interface, Method};

/// How often addresses are looked for again where they are to be found (upstream's default).
const POLL: Duration = Duration::from_secs(60);
/// When a start that the datastore was in the way of is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Attempts at an object that others write, too.
const ATTEMPTS: usize = 5;

/// How to start.
#[derive(Debug, Clone)]
pub struct Startup {
    /// Name of this node.
    pub node: String,
    /// The cluster's API server, where it is the datastore.
    pub kubernetes: Option<KubernetesStore>,
    /// Variables that win over those of the environment.
    pub variables: BTreeMap<String, String>,
}

/// What the variables say about one family's address.
#[derive(Debug, Clone)]
enum Wish {
    /// To be found, also later.
    Find(Method),
    /// To be found if the Node has none.
    FindIfMissing(Method),
    /// This one; its network is that of the interface that has it, if it names none.
    This(IpAddr, Option<IpNet>),
    /// None.
    Never,
    /// As the Node has it.
    Keep,
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
enum StartupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Wrong(String),
}

impl Startup {
    /// Starts the node, and looks after its addresses for as long as they are to be found. Tries
    /// again for as long as something is in the way.
    pub async fn run(self, store: Arc<dyn Datastore>, state_dir: std::path::PathBuf) {
        let mut done = false;
        loop {
            let wait = match self.start(&*store, &state_dir, done).await {
                Ok(true) => {
                    done = true;
                    self.poll()
                }
                Ok(false) => return,
                Err(StartupError::Store(StoreError::Unavailable { .. })) => RETRY,
                Err(reason) => {
                    error!(%reason, "the node's start is not complete");
                    self.poll()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether it is to be done again later.
    async fn start(
        &self,
        store: &dyn Datastore,
        state_dir: &Path,
        again: bool,
    ) -> Result<bool, StartupError> {
        let wrong = StartupError::Wrong;
        let interfaces = interfaces().map_err(|error| wrong(error.to_string()))?;
        let wishes = [self.wish(false).map_err(wrong)?, self.wish(true).map_err(wrong)?];
        self.write_node(store, &wishes, &interfaces).await?;
        if !again {
            let kubeadm = match &self.kubernetes {
                Some(kubernetes) => kubernetes.kubeadm_pod_subnets().await?.unwrap_or_default(),
                None => String::new(),
            };
            self.make_pools(store, &kubeadm, &interfaces).await?;
            self.make_defaults(store, !kubeadm.is_empty()).await?;
            let path = state_dir.join("nodename");
            if let Err(error) = std::fs::write(&path, &self.node) {
                warn!(path = %path.display(), %error, "cannot write the node's name for other programs");
            }
            self.forget_end(state_dir);
        }
        Ok(wishes.iter().any(|wish| matches!(wish, Wish::Find(_))))
    }

    fn variable(&self, name: &str) -> Option<String> {
        let own = self.variables.get(name).cloned();
        own.or_else(|| std::env::var(name).ok()).filter(|text| !text.is_empty())
    }

    fn poll(&self) -> Duration {
        let text = self.variable("AUTODETECT_POLL_INTERVAL").unwrap_or_default();
        let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
        seconds.filter(|seconds| *seconds > 0).map_or(POLL, Duration::from_secs)
    }

    fn wish(&self, v6: bool) -> Result<Wish, String> {
        let name = if v6 { "IP6" } else { "IP" };
        if self.variable("CALICO_NETWORKING_BACKEND").is_some_and(|backend| backend == "none") {
            return Ok(Wish::Keep);
        }
        let method = || {
            let text = self.variable(&format!("{name}_AUTODETECTION_METHOD"));
            Method::parse(&text.unwrap_or_default())
                .map_err(|reason| format!("{name}_AUTODETECTION_METHOD: {reason}"))
        };
        match self.variable(name).as_deref() {
            None if v6 => Ok(Wish::Keep),
            None => Ok(Wish::FindIfMissing(method()?)),
            Some("none") => Ok(Wish::Never),
            Some("autodetect") => Ok(Wish::Find(method()?)),
            Some(text) => {
                let net = text.parse::<IpNet>().ok();
                let address = net.map(|net| net.addr()).or_else(|| text.parse().ok());
                let address = address.filter(|address| address.is_ipv6() == v6);
                let address = address.ok_or_else(|| {
                    format!("{name}={text}: neither autodetect, none, nor an address")
                })?;
                Ok(Wish::This(address, net))
            }
        }
    }
}

/// Interfaces of this host that are up, with their addresses, in the kernel's order.
fn interfaces() -> Result<Vec<Interface>, calico_netlink::rtnl::RtnlError> {
    let mut connection = Connection::open()?;
    let links = link::list(&mut connection, &LinkFilter::default())?;
    let addresses = address::list(&mut connection, None)?;
    let up = links.into_iter().filter(|link| link.up);
    let interface = |link: link::Link| Interface {
        addresses: addresses
            .iter()
            .filter(|it| it.index == link.index)
            .map(|it| it.address)
            .collect(),
        name: link.name,
    };
    Ok(up.map(interface).collect())
}
