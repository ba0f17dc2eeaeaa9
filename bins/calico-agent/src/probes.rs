//! Health and metrics, served where the settings say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_core::resource::FelixConfigurationSpec;
use calico_observe::metrics::{self, Gauge, Registry};
use calico_observe::{Health, Page, Report};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::progress::{Progress, Watcher};

/// Names of the parts, upstream's where it has the same.
const DATASTORE: &str = "Datastore";
const DATAPLANE: &str = "InternalDataplaneMainLoop";

/// An address that cannot be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The upper bound of a silence of the main loop; upstream's `dataplaneWatchdogTimeout`.
const WATCHDOG: Duration = Duration::from_secs(90);

/// Where something is served; nowhere if it is not to be.
type Place = Option<(String, u16)>;

/// What is served to probes and to Prometheus.
#[derive(Debug)]
pub struct Probes {
    health: Mutex<Health>,
    registry: Registry,
    gauges: Gauges,
    progress: Watcher,
}

#[derive(Debug, Default)]
struct Gauges {
    endpoints: Gauge,
    blocked: Gauge,
    in_sync: Gauge,
    revision: Gauge,
}

impl Probes {
    /// Of the agent of `node`, which is as far as `progress` says.
    #[must_use]
    pub fn new(node: &str, progress: Watcher, now: Instant) -> Self {
        let mut health = Health::default();
        health.register(DATASTORE, Duration::ZERO, now);
        health.register(DATAPLANE, WATCHDOG, now);
        let gauges = Gauges::default();
        let mut registry = Registry::default();
        let labels = [("host".into(), node.to_owned().into())];
        let host = registry.sub_registry_with_labels(labels.into_iter());
        let known = Gauge::<i64>::default();
        known.set(1);
        host.register("felix_host", "Always 1; the label is the node's name", known);
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge("felix_active_local_endpoints", "Endpoints of this node", &gauges.endpoints);
        gauge("calico_blocked_local_endpoints", "Endpoints that cannot be served", &gauges.blocked);
        gauge(
            "felix_resync_state",
            "1: waits for the datastore, 2: lists it, 3: in sync",
            &gauges.in_sync,
        );
        gauge("calico_dataplane_revision", "Latest revision in force", &gauges.revision);
        Self { health: Mutex::new(health), registry, gauges, progress }
    }

    /// The page of a path.
    #[must_use]
    pub fn health(&self, path: &str, now: Instant) -> Option<Page> {
        let progress = self.progress.now();
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let (datastore, dataplane) = reports(&progress);
        health.report(DATASTORE, datastore, now);
        // One that has something to do was last heard of when it began.
        let heard = progress.busy_since.map_or(now, tokio::time::Instant::into_std);
        health.report(DATAPLANE, dataplane, heard);
        match path {
            "/liveness" => Some(health.liveness(now).page()),
            "/readiness" => Some(health.readiness(now).page()),
            _ => None,
        }
    }

    /// The metrics, if that is the path.
    #[must_use]
    pub fn metrics(&self, path: &str) -> Option<Page> {
        if path != "/metrics" {
            return None;
        }
        let progress = self.progress.now();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let blocked = progress.endpoints.values().filter(|status| !status.programmed).count();
        self.gauges.endpoints.set(count(progress.endpoints.len()));
        self.gauges.blocked.set(count(blocked));
        self.gauges.in_sync.set(match (progress.listed, progress.programmed) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 3,
        });
        self.gauges.revision.set(i64::try_from(progress.dataplane).unwrap_or(i64::MAX));
        Some(metrics::page(&self.registry))
    }
}

/// What datastore and dataplane say of themselves.
fn reports(progress: &Progress) -> (Report, Report) {
    let datastore = match &progress.store_error {
        Some(error) => Report::not_ready(error.clone()),
        None if !progress.listed => Report::not_ready("is listed for the first time"),
        None => Report::ready(),
    };
    let dataplane = match &progress.dataplane_error {
        Some(error) => Report::not_ready(error.clone()),
        None if !progress.programmed => Report::not_ready("waits for the datastore"),
        None => Report::ready(),
    };
    (datastore, dataplane)
}

/// Serves health and metrics where the settings say, and elsewhere when they change.
pub async fn serve(probes: Arc<Probes>, mut settings: watch::Receiver<FelixConfigurationSpec>) {
    let (mut health, mut metrics) = (Served::default(), Served::default());
    loop {
        let (for_health, for_metrics) = places(&settings.borrow_and_update());
        let (of_health, of_metrics) = (Arc::clone(&probes), Arc::clone(&probes));
        health.follow("health", for_health, move |path: String| {
            std::future::ready(of_health.health(&path, Instant::now()))
        });
        metrics.follow("metrics", for_metrics, move |path: String| {
            std::future::ready(of_metrics.metrics(&path))
        });
        if settings.changed().await.is_err() {
            return;
        }
    }
}

fn places(spec: &FelixConfigurationSpec) -> (Place, Place) {
    let health = spec.health_enabled.unwrap_or(false).then(|| {
        let host = spec.health_host.clone().unwrap_or_else(|| "localhost".to_owned());
        (host, spec.health_port.unwrap_or(9099))
    });
    let metrics = spec.prometheus_metrics_enabled.unwrap_or(false).then(|| {
        let host = match spec.prometheus_metrics_host.as_str() {
            "" => "::".to_owned(),
            host => host.to_owned(),
        };
        (host, spec.prometheus_metrics_port.unwrap_or(9091))
    });
    (health, metrics)
}

/// A server, and the place it is for.
#[derive(Debug, Default)]
struct Served {
    place: Place,
    task: Option<JoinHandle<()>>,
}

impl Served {
    fn follow<F, A>(&mut self, what: &'static str, place: Place, pages: F)
    where
        F: Fn(String) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Option<Page>> + Send + 'static,
    {
        if self.place == place {
            return;
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.place.clone_from(&place);
        self.task = place.map(|(host, port)| {
            tokio::spawn(async move {
                let listener = listen(what, &host, port).await;
                calico_observe::serve(listener, pages).await;
            })
        });
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn listen(what: &str, host: &str, port: u16) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind((host, port)).await {
            Ok(listener) => {
                let address = listener
                    .local_addr()
                    .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], port)));
                info!(%address, "serves {what}");
                return listener;
            }
            Err(error) if !told => warn!(%error, host, port, "cannot serve {what}; tries again"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant as Beat;

    use super::*;

    #[tokio::test]
    async fn probes_follow_the_progress() {
        let (progress, watcher) = watch::channel(Progress::default());
        let start = Instant::now();
        let probes = Probes::new("n1", Watcher::new(watcher), start);
        let status = |path: &str, now: Instant| probes.health(path, now).unwrap().status;
        assert_eq!((status("/liveness", start), status("/readiness", start)), (200, 503));
        progress.send_modify(|progress| {
            progress.listed = true;
            progress.programmed = true;
        });
        let later = Instant::now() + 2 * WATCHDOG;
        assert_eq!((status("/readiness", start), status("/liveness", later)), (200, 200));
        progress.send_modify(|progress| progress.busy_since = Some(Beat::now()));
        assert_eq!((status("/liveness", start), status("/liveness", later)), (200, 503), "stuck");
        progress.send_modify(|progress| progress.busy_since = None);
        progress.send_modify(|progress| progress.store_error = Some("it is gone".to_owned()));
        let page = probes.health("/readiness", Instant::now()).unwrap();
        assert!(page.status == 503 && page.body.contains("it is gone"), "{}", page.body);
        let text = probes.metrics("/metrics").unwrap().body;
        assert!(text.contains("felix_host{host=\"n1\"} 1"), "{text}");
        assert!(text.contains("felix_resync_state 3"), "{text}");
        assert_eq!(probes.metrics("/"), None);
    }

    #[test]
    fn nothing_is_served_unless_asked_for() {
        let mut spec = FelixConfigurationSpec::default();
        assert_eq!(places(&spec), (None, None));
        spec.health_enabled = Some(true);
        spec.prometheus_metrics_enabled = Some(true);
        spec.prometheus_metrics_port = Some(9000);
        let (health, metrics) = places(&spec);
        assert_eq!(health, Some(("localhost".to_owned(), 9099)));
        assert_eq!(metrics, Some(("::".to_owned(), 9000)));
    }
}
