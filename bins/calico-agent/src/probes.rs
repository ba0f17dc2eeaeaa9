//! Health and metrics, served where the settings say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_core::resource::FelixConfigurationSpec;
use calico_observe::metrics::{self, Registry};
use calico_observe::{ClientCertificate, FollowedTls, Health, Page, Report, TlsFiles};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::metrics::{Gauges, Metrics};
use crate::progress::{Progress, Watcher};
use crate::settings;

/// Names of the parts, upstream's where it has the same.
const DATASTORE: &str = "Datastore";
const DATAPLANE: &str = "InternalDataplaneMainLoop";

/// An address that cannot be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often certificates are looked at: they may have been renewed.
const RENEWAL: Duration = Duration::from_secs(10);

/// The upper bound of a silence of the main loop; upstream's `dataplaneWatchdogTimeout`.
const WATCHDOG: Duration = Duration::from_secs(90);

/// The least that may be set for it, as upstream.
const WATCHDOG_MIN: Duration = Duration::from_secs(20);

/// Where and how something is served; nowhere if it is not to be.
type Place = Option<Stand>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stand {
    host: String,
    port: u16,
    tls: Option<TlsFiles>,
    with_process: bool,
}

/// What is served to probes and to Prometheus.
#[derive(Debug)]
pub struct Probes {
    health: Mutex<Health>,
    registry: Registry,
    /// With what the kernel says of the process, too.
    whole_registry: Registry,
    gauges: Gauges,
    progress: Watcher,
}

impl Probes {
    /// Of the agent of `node`, which is as far as `progress` says.
    #[must_use]
    pub fn new(node: &str, progress: Watcher, metrics: &Metrics, now: Instant) -> Self {
        let mut health = Health::default();
        health.register(DATASTORE, Duration::ZERO, now);
        health.register(DATAPLANE, WATCHDOG, now);
        let gauges = Gauges::default();
        let (mut registry, mut whole_registry) = (Registry::default(), Registry::default());
        for registry in [&mut registry, &mut whole_registry] {
            gauges.register(node, registry);
            metrics.register(registry);
        }
        gauges.register_process(&mut whole_registry);
        Self { health: Mutex::new(health), registry, whole_registry, gauges, progress }
    }

    /// Parts of the agent may be silent as long as the settings say.
    fn set_timeouts(&self, spec: &FelixConfigurationSpec) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let watchdog = settings::duration(spec, "dataplaneWatchdogTimeout").unwrap_or(WATCHDOG);
        for (part, usual) in [(DATASTORE, Duration::ZERO), (DATAPLANE, watchdog.max(WATCHDOG_MIN))]
        {
            health.set_timeout(part, settings::health_timeout(spec, part, usual));
        }
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

    /// The metrics, if that is the path; with those of the process or without.
    #[must_use]
    pub fn metrics(&self, path: &str, with_process: bool) -> Option<Page> {
        if path != "/metrics" {
            return None;
        }
        self.gauges.read(&self.progress.now());
        Some(metrics::page(if with_process { &self.whole_registry } else { &self.registry }))
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
        let spec = settings.borrow_and_update().clone();
        probes.set_timeouts(&spec);
        let (for_health, for_metrics) = places(&spec);
        let (of_health, of_metrics) = (Arc::clone(&probes), Arc::clone(&probes));
        let with_process = for_metrics.as_ref().is_some_and(|stand| stand.with_process);
        health.follow("health", for_health, move |path: String| {
            std::future::ready(of_health.health(&path, Instant::now()))
        });
        metrics.follow("metrics", for_metrics, move |path: String| {
            std::future::ready(of_metrics.metrics(&path, with_process))
        });
        if settings.changed().await.is_err() {
            return;
        }
    }
}

fn places(spec: &FelixConfigurationSpec) -> (Place, Place) {
    let health = spec.health_enabled.unwrap_or(false).then(|| {
        let host = spec.health_host.clone().unwrap_or_else(|| "localhost".to_owned());
        let port = spec.health_port.unwrap_or(9099);
        Stand { host, port, tls: None, with_process: false }
    });
    let metrics = spec.prometheus_metrics_enabled.unwrap_or(false).then(|| {
        let host = match spec.prometheus_metrics_host.as_str() {
            "" => "::".to_owned(),
            host => host.to_owned(),
        };
        let port = spec.prometheus_metrics_port.unwrap_or(9091);
        let process = spec.unknown.get("prometheusProcessMetricsEnabled");
        let with_process = process.and_then(|value| value.as_bool()).unwrap_or(true);
        Stand { host, port, tls: tls_files(spec), with_process }
    });
    (health, metrics)
}

/// TLS for metrics, if certificate and key are named.
fn tls_files(spec: &FelixConfigurationSpec) -> Option<TlsFiles> {
    let text = |field| spec.unknown.get(field).and_then(|value| value.as_str()).unwrap_or("");
    let file = |field| Some(PathBuf::from(text(field))).filter(|path| !path.as_os_str().is_empty());
    let clients = match text("prometheusMetricsClientAuth") {
        "RequireAnyClientCert" | "RequireAndVerifyClientCert" => ClientCertificate::Required,
        "VerifyClientCertIfGiven" => ClientCertificate::Verified,
        _ => ClientCertificate::NotAsked,
    };
    Some(TlsFiles {
        certificate: file("prometheusMetricsCertFile")?,
        key: file("prometheusMetricsKeyFile")?,
        authority: file("prometheusMetricsCAFile"),
        clients,
    })
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
        self.task = place.map(|stand| {
            tokio::spawn(async move {
                let tls = match stand.tls {
                    Some(files) => Some(read_tls(what, files).await),
                    None => None,
                };
                let listener = listen(what, &stand.host, stand.port).await;
                let current = tls.as_ref().map(FollowedTls::subscribe);
                let served = calico_observe::serve_over(current, listener, pages);
                match tls {
                    Some(tls) => drop(tokio::join!(served, tls.follow(RENEWAL))),
                    None => served.await,
                }
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

/// What is to be served over TLS is not served without: the files are waited for.
async fn read_tls(what: &'static str, files: TlsFiles) -> FollowedTls {
    let mut told = String::new();
    loop {
        match FollowedTls::read(files.clone()) {
            Ok(tls) => return tls,
            Err(error) => {
                let error = error.to_string();
                if error != told {
                    warn!(error, "cannot serve {what} over TLS; tries again");
                }
                told = error;
            }
        }
        tokio::time::sleep(RETRY).await;
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
        let probes = Probes::new("n1", Watcher::new(watcher), &Metrics::default(), start);
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
        let text = probes.metrics("/metrics", true).unwrap().body;
        assert!(text.contains("felix_host{host=\"n1\"} 1"), "{text}");
        assert!(text.contains("felix_resync_state 3"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        let text = probes.metrics("/metrics", false).unwrap().body;
        assert!(text.contains("felix_cluster_num_hosts 0") && !text.contains("process_"), "{text}");
        assert_eq!(probes.metrics("/", true), None);
        let mut spec = FelixConfigurationSpec::default();
        let overrides = serde_json::json!([{"name": DATAPLANE, "timeout": "10m"}]);
        spec.unknown.insert("healthTimeoutOverrides".to_owned(), overrides);
        probes.set_timeouts(&spec);
        progress.send_modify(|progress| progress.busy_since = Some(Beat::now()));
        assert_eq!(status("/liveness", later), 200, "it may be silent for longer");
    }

    #[test]
    fn nothing_is_served_unless_asked_for() {
        let mut spec = FelixConfigurationSpec::default();
        assert_eq!(places(&spec), (None, None));
        spec.health_enabled = Some(true);
        spec.prometheus_metrics_enabled = Some(true);
        spec.prometheus_metrics_port = Some(9000);
        let (health, metrics) = places(&spec);
        let place = |stand: Place| stand.map(|stand| (stand.host, stand.port, stand.tls));
        assert_eq!(place(health), Some(("localhost".to_owned(), 9099, None)));
        assert_eq!(place(metrics), Some(("::".to_owned(), 9000, None)));
        for (field, value) in [
            ("prometheusMetricsCertFile", "/c"),
            ("prometheusMetricsKeyFile", "/k"),
            ("prometheusMetricsCAFile", "/a"),
            ("prometheusMetricsClientAuth", "VerifyClientCertIfGiven"),
        ] {
            spec.unknown.insert(field.to_owned(), value.into());
        }
        let tls = places(&spec).1.and_then(|stand| stand.tls).unwrap();
        assert_eq!((tls.key, tls.clients), ("/k".into(), ClientCertificate::Verified));
        assert_eq!(places(&spec).0.unwrap().tls, None, "health is for the kubelet");
    }
}
