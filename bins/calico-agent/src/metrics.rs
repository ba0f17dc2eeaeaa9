//! What Prometheus reads of the agent, under upstream's names where they mean the same.
//!
//! Upstream's counters have no suffix `_total` in their names; so that its dashboards find them,
//! they are kept as gauges that only grow.

use std::time::Duration;

use calico_core::kind::Kind;
use calico_observe::Process;
use calico_observe::metrics::{Gauge, Histogram, Registry};

use crate::brain::{Brain, Work};
use crate::progress::Progress;

/// Upper ends of durations, in seconds.
const SECONDS: [f64; 12] =
    [0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// What the main loop counts and times. Clones share their numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The graph's share of an update.
    graph_time: Histogram,
    outputs: Gauge,
    /// The kernel's share.
    apply_time: Histogram,
    failures: Gauge,
    first_sync: Gauge<f64, std::sync::atomic::AtomicU64>,
    resyncs: Gauge,
    routes: Gauge,
    flow_devices: Gauge,
    active_policies: Gauge,
    active_selectors: Gauge,
    cluster: [(&'static str, &'static str, Kinds, Gauge); 6],
}

type Kinds = &'static [Kind];

impl Default for Metrics {
    fn default() -> Self {
        let cluster = |name, help, kinds: Kinds| (name, help, kinds, Gauge::default());
        let policies: Kinds = &[Kind::NetworkPolicy, Kind::GlobalNetworkPolicy];
        Self {
            graph_time: Histogram::new(SECONDS),
            outputs: Gauge::default(),
            apply_time: Histogram::new(SECONDS),
            failures: Gauge::default(),
            first_sync: Gauge::default(),
            resyncs: Gauge::default(),
            routes: Gauge::default(),
            flow_devices: Gauge::default(),
            active_policies: Gauge::default(),
            active_selectors: Gauge::default(),
            cluster: [
                cluster("felix_cluster_num_hosts", "Nodes", &[Kind::Node]),
                cluster(
                    "felix_cluster_num_host_endpoints",
                    "Host endpoints of all nodes",
                    &[Kind::HostEndpoint],
                ),
                cluster("felix_cluster_num_policies", "Policies", policies),
                cluster("felix_cluster_num_profiles", "Profiles", &[Kind::Profile]),
                cluster("felix_cluster_num_tiers", "Tiers", &[Kind::Tier]),
                cluster(
                    "felix_cluster_num_workload_endpoints",
                    "Workload endpoints of all nodes",
                    &[Kind::WorkloadEndpoint],
                ),
            ],
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "felix_calc_graph_update_time_seconds",
            "Time to find out what changes in the kernel",
            self.graph_time.clone(),
        );
        registry.register(
            "felix_int_dataplane_apply_time_seconds",
            "Time to bring a transaction into force in the kernel",
            self.apply_time.clone(),
        );
        registry.register(
            "felix_int_dataplane_initial_resync_time_seconds",
            "Time from the start until the kernel was as the datastore said",
            self.first_sync.clone(),
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge("felix_calc_graph_output_events", "Updates for the kernel so far", &self.outputs);
        gauge(
            "felix_int_dataplane_failures",
            "Transactions that failed and were tried again, so far",
            &self.failures,
        );
        gauge("felix_resyncs_started", "Times that the datastore was listed", &self.resyncs);
        gauge("felix_route_table_num_routes", "Routes that this agent wants", &self.routes);
        gauge(
            "felix_nft_flowtable_devices",
            "Devices between which established connections pass without rules",
            &self.flow_devices,
        );
        gauge(
            "felix_active_local_policies",
            "Policies and profiles in use on this node",
            &self.active_policies,
        );
        gauge(
            "felix_active_local_selectors",
            "Sets of addresses in use on this node",
            &self.active_selectors,
        );
        for (name, help, _, number) in &self.cluster {
            gauge(name, help, number);
        }
    }

    /// A listing of the datastore begins.
    pub fn listing(&self) {
        self.resyncs.inc();
    }

    /// The brain made up its mind within this time.
    pub fn planned(&self, brain: &Brain, work: &Work, took: Duration) {
        self.graph_time.observe(took.as_secs_f64());
        self.outputs.inc_by(count(work.transaction.updates.len()));
        let stats = brain.stats();
        self.active_policies.set(count(stats.active));
        self.active_selectors.set(count(stats.sets));
        self.routes.set(count(brain.routing().installed()));
        for (_, _, kinds, number) in &self.cluster {
            number.set(count(kinds.iter().map(|kind| brain.count(*kind)).sum()));
        }
    }

    /// Established connections pass without rules between so many devices.
    pub fn offloads(&self, devices: usize) {
        self.flow_devices.set(count(devices));
    }

    /// A transaction is in force, `since_start` after the start of the loop.
    pub fn applied(&self, took: Duration, since_start: Duration) {
        self.apply_time.observe(took.as_secs_f64());
        if self.first_sync.get() == 0.0 {
            self.first_sync.set(since_start.as_secs_f64());
        }
    }

    /// A transaction failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

/// What is read from the agent's progress when somebody asks.
#[derive(Debug, Default)]
pub struct Gauges {
    endpoints: Gauge,
    blocked: Gauge,
    in_sync: Gauge,
    revision: Gauge,
    process: Process,
}

impl Gauges {
    /// Adds them to a registry.
    pub fn register(&self, node: &str, registry: &mut Registry) {
        let labels = [("host".into(), node.to_owned().into())];
        let host = registry.sub_registry_with_labels(labels.into_iter());
        let known = Gauge::<i64>::default();
        known.set(1);
        host.register("felix_host", "Always 1; the label is the node's name", known);
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge("felix_active_local_endpoints", "Endpoints of this node", &self.endpoints);
        gauge("calico_blocked_local_endpoints", "Endpoints that cannot be served", &self.blocked);
        gauge(
            "felix_resync_state",
            "1: waits for the datastore, 2: lists it, 3: in sync",
            &self.in_sync,
        );
        gauge("calico_dataplane_revision", "Latest revision in force", &self.revision);
    }

    /// Adds what the kernel says of this process.
    pub fn register_process(&self, registry: &mut Registry) {
        self.process.register(registry);
    }

    /// As things are now.
    pub fn read(&self, progress: &Progress) {
        let blocked = progress.endpoints.values().filter(|status| !status.programmed).count();
        self.endpoints.set(count(progress.endpoints.len()));
        self.blocked.set(count(blocked));
        self.in_sync.set(match (progress.listed, progress.programmed) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 3,
        });
        self.revision.set(i64::try_from(progress.dataplane).unwrap_or(i64::MAX));
        self.process.read();
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
