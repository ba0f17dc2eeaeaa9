//! Metrics: under Typha's names where it has the same.

use calico_datastore::fanout::Fanout;
use calico_datastore::remote::Counters;
use calico_observe::metrics::{Counter, Gauge, Registry};

/// Name and meaning of each gauge, in the order of [`values`].
const GAUGES: [(&str, &str); 13] = [
    ("typha_cache_size", "Objects held for clients"),
    ("typha_connections_accepted", "Connections accepted so far"),
    ("typha_connections_active", "Clients that are connected"),
    ("calico_fanout_clients_slow", "Clients dropped so far because they took nothing"),
    ("calico_fanout_clients_behind", "Listings given so far to clients that fell behind"),
    ("calico_fanout_watches_active", "Watches that are open"),
    ("calico_fanout_history_events", "Events kept for clients that fall behind or come back"),
    ("typha_breadcrumb_seq_number", "Position: events logged so far"),
    ("typha_snapshots_generated", "Listings made for clients so far"),
    ("typha_snapshots_reused", "Listings so far that a client had from another's"),
    ("typha_snapshot_raw_bytes", "Size of the latest listing"),
    ("calico_fanout_events_sent", "Events sent to clients so far"),
    ("calico_fanout_sent_bytes", "Bytes sent to clients so far, before TLS"),
];

/// What Prometheus is told.
pub(crate) struct Figures {
    pub(crate) registry: Registry,
    gauges: Vec<Gauge>,
    updates: Counter,
}

impl Figures {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let gauges = GAUGES.map(|(name, help)| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        });
        let updates = Counter::default();
        // It is shown with the ending `_total`.
        registry.register("typha_updates", "Updates from the datastore so far", updates.clone());
        Self { registry, gauges: gauges.into(), updates }
    }

    /// Takes what is so now.
    pub(crate) fn take(&self, fanout: &Fanout, counters: &Counters) {
        for (gauge, value) in self.gauges.iter().zip(values(fanout, counters)) {
            gauge.set(value);
        }
        let told = self.updates.get();
        self.updates.inc_by(fanout.updates().saturating_sub(told));
    }
}

fn values(fanout: &Fanout, counters: &Counters) -> [i64; GAUGES.len()] {
    let (hub, server) = (fanout.figures(), counters.figures());
    let size = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    [
        size(hub.objects),
        count(server.accepted),
        server.connected,
        count(server.slow),
        count(hub.fell_behind),
        size(hub.watchers),
        size(hub.history),
        count(hub.position),
        count(hub.listings_made),
        count(hub.listings_shared),
        size(hub.listing_bytes),
        count(server.events),
        count(server.sent),
    ]
}
