//! Running from Calico's resources: the sessions of a Node, as upstream gives them to BIRD.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::WatchEvent;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_datastore::config::{self, ApiConfig, ApiConfigSpec, DatastoreConfig, EtcdConfig};
use calico_peering::Peering;
use calico_router::mirror::{Change, Mirror};
use calico_router::notify::notify;
use calico_router::secrets::{self, SecretFiles};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::config::Service;
use crate::marker::Marker;
use crate::reflector::Reflector;
use crate::service::Services;

/// The resources that sessions and what they carry follow from.
const KINDS: [Kind; 5] =
    [Kind::Node, Kind::BgpPeer, Kind::BgpConfiguration, Kind::BgpFilter, Kind::IpPool];

/// How long peers that do not come keep the reflector from being ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events taken in before they are acted on.
const BATCH: usize = 4096;

/// Why the datastore cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}", path = path.display())]
    Settings { path: PathBuf, reason: String },
    #[error("the environment names no datastore: {0}")]
    Environment(String),
    #[error("the name of this node is unknown: give --node, or set NODENAME")]
    NoNodeName,
}

/// The datastore that the command line means.
pub(crate) fn place(text: &str) -> Result<DatastoreConfig, PlaceError> {
    if text == "env" {
        let env = ApiConfigSpec::from_env(|name| std::env::var(name).ok());
        return env.and_then(|spec| spec.datastore()).map_err(PlaceError::Environment);
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        let endpoints = text.split(',').map(|url| url.trim().to_owned());
        return Ok(DatastoreConfig::Etcd(EtcdConfig::new(endpoints)));
    }
    let path = Path::new(text);
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    if !is_file && path.extension().is_none_or(|extension| extension == "sock") {
        return Ok(DatastoreConfig::Remote { socket: path.to_owned() });
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| PlaceError::Read { path: path.to_owned(), source })?;
    let settings = |reason| PlaceError::Settings { path: path.to_owned(), reason };
    let file: ApiConfig = serde_saphyr::from_str(&text)
        .map_err(|error| settings(error.without_snippet().to_string()))?;
    file.datastore().map_err(settings)
}

/// The name of this node: as given, `NODENAME`, or the host's in lower case.
pub(crate) fn node_name(given: Option<&str>) -> Result<String, PlaceError> {
    let host = || Some(nix::unistd::gethostname().ok()?.into_string().ok()?.to_lowercase());
    given
        .map(str::to_owned)
        .or_else(|| std::env::var("NODENAME").ok())
        .or_else(host)
        .filter(|name| !name.is_empty())
        .ok_or(PlaceError::NoNodeName)
}

/// Where sessions come from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) place: DatastoreConfig,
    pub(crate) node: String,
    /// Directory of passwords.
    pub(crate) secrets: PathBuf,
}

impl Source {
    /// Runs until SIGTERM or SIGINT.
    pub(crate) async fn serve(self, service: &Service) -> Result<(), Box<dyn Error>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let store = config::open(&self.place)?;
        let services = Services::start(service, PATIENCE).await?;
        let mut reflector = Reflector::new(Marker::in_directory(&service.run_dir));
        let mut view = View::new(&self.node);
        let mut secrets = SecretFiles::new(self.secrets);
        let watch = |(at, kind)| watch(&*store, at, kind);
        let mut events = stream::select_all(KINDS.into_iter().enumerate().map(watch));
        let mut tick = tokio::time::interval(secrets::INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announced_ready = false;
        info!(node = self.node, "waiting for the datastore to be listed");
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => info!("SIGHUP has nothing read again: resources are followed"),
                event = events.next() => match event {
                    Some((at, event)) => view.handle(at, event),
                    None => break warn!("the datastore was closed"),
                },
                _ = tick.tick() => view.set_secrets(secrets.read_all()),
            }
            for _ in 0..BATCH {
                let Some(Some((at, event))) = events.next().now_or_never() else { break };
                view.handle(at, event);
            }
            view.set_secrets(secrets.read_new(view.peering.wanted_secrets()));
            if !view.is_due() {
                continue;
            }
            let plan = view.peering.plan();
            if plan.is_none() {
                info!(node = self.node, "no BGP address: is there a Node of this name with one?");
            }
            // What could not be done is tried again with the next tick.
            view.dirty = !reflector.follow(plan.as_ref(), &services).await;
            if !view.dirty && !announced_ready {
                announced_ready = true;
                notify("READY=1\nSTATUS=following the datastore");
            }
        }
        notify("STOPPING=1");
        reflector.stop().await;
        Ok(())
    }
}

type Numbered = (usize, WatchEvent);

fn watch(store: &dyn Datastore, at: usize, kind: Kind) -> stream::BoxStream<'static, Numbered> {
    store.watch(Scope::Kind(kind), None).map(move |event| (at, event)).boxed()
}

/// What is known of the resources.
struct View {
    peering: Peering,
    mirrors: [Mirror; KINDS.len()],
    dirty: bool,
}

impl View {
    fn new(node: &str) -> Self {
        let mirrors = std::array::from_fn(|_| Mirror::default());
        Self { peering: Peering::new(node), mirrors, dirty: true }
    }

    /// Whether something changed, and all is known: nothing is done with half of it.
    fn is_due(&self) -> bool {
        self.dirty && self.mirrors.iter().all(Mirror::in_sync)
    }

    fn handle(&mut self, at: usize, event: WatchEvent) {
        match &event {
            WatchEvent::Interrupted { reason } => {
                warn!(reason, "the datastore does not answer; what it said last stays in force");
            }
            WatchEvent::Bad { path, reason } => {
                warn!(path, reason, "an object in the datastore is ignored");
            }
            _ => {}
        }
        for change in self.mirrors[at].handle(event) {
            match change {
                Change::Put(entry) => match self.peering.put(&entry) {
                    Ok(changed) => self.dirty |= changed,
                    Err(error) => {
                        warn!(key = %entry.key, %error, "an object in the datastore is ignored");
                    }
                },
                Change::Gone(key) => self.dirty |= self.peering.gone(&key),
            }
        }
    }

    fn set_secrets(&mut self, secrets: Vec<(calico_peering::SecretRef, calico_peering::Secret)>) {
        for (reference, secret) in secrets {
            self.dirty |= self.peering.set_secret(reference, secret);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_the_command_line_has_them() {
        let socket = place("/run/agent/datastore.sock").unwrap();
        let expected = "/run/agent/datastore.sock".into();
        assert_eq!(socket, DatastoreConfig::Remote { socket: expected });
        let etcd = place("http://a:2379,https://b:2379").unwrap();
        let expected = EtcdConfig::new(["http://a:2379", "https://b:2379"]);
        assert_eq!(etcd, DatastoreConfig::Etcd(expected));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("calicoctl.cfg");
        let text = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\n\
                    spec: {datastoreType: etcdv3, etcdEndpoints: 'http://c:1'}\n";
        std::fs::write(&file, text).unwrap();
        let expected = EtcdConfig::new(["http://c:1"]);
        assert_eq!(place(file.to_str().unwrap()).unwrap(), DatastoreConfig::Etcd(expected));
        std::fs::write(&file, "spec: [").unwrap();
        let error = place(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("calicoctl.cfg"), "{error}");
        let error = place("/nonexistent/calicoctl.cfg").unwrap_err().to_string();
        assert_eq!(error, "cannot read /nonexistent/calicoctl.cfg");
    }

    #[test]
    fn a_node_is_named_first_by_the_command_line() {
        assert_eq!(node_name(Some("rr1")).unwrap(), "rr1");
        assert!(!node_name(None).unwrap().is_empty());
    }
}
