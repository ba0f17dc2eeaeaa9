//! Health and metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_datastore::fanout::Fanout;
use calico_datastore::remote::Counters;
use calico_observe::metrics;
use calico_observe::{Health, Page, Report};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::figures::Figures;

const STORE: &str = "Datastore";

/// Time until an address that cannot be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);

pub(crate) struct Pages {
    fanout: Arc<Fanout>,
    place: String,
    health: Mutex<Health>,
    counters: Arc<Counters>,
    figures: Figures,
}

impl Pages {
    pub(crate) fn new(fanout: Arc<Fanout>, counters: Arc<Counters>, place: String) -> Self {
        let mut health = Health::default();
        health.register(STORE, Duration::ZERO, Instant::now());
        Self { fanout, place, health: Mutex::new(health), counters, figures: Figures::new() }
    }

    pub(crate) async fn serve(self) {
        let listener = loop {
            match TcpListener::bind(&self.place).await {
                Ok(listener) => break listener,
                Err(error) => warn!(%error, place = self.place, "cannot serve pages; tries again"),
            }
            tokio::time::sleep(RETRY).await;
        };
        info!(place = self.place, "serves health and metrics");
        let pages = Arc::new(self);
        calico_observe::serve(listener, move |path| {
            std::future::ready(pages.page(&path, Instant::now()))
        })
        .await;
    }

    fn page(&self, path: &str, now: Instant) -> Option<Page> {
        let report = match (self.fanout.is_listed(), self.fanout.trouble()) {
            (false, None) => Report::not_ready("is listed for the first time"),
            (false, Some(trouble)) => Report::not_ready(trouble),
            // Clients are served with what it said last.
            (true, Some(trouble)) => Report { detail: trouble, ..Report::ready() },
            (true, None) => Report::ready(),
        };
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.report(STORE, report, now);
        match path {
            "/liveness" => Some(health.liveness(now).page()),
            "/readiness" => Some(health.readiness(now).page()),
            "/metrics" => {
                self.figures.take(&self.fanout, &self.counters);
                Some(metrics::page(&self.figures.registry))
            }
            _ => None,
        }
    }
}
