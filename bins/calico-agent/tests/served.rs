//! The real agent in a network namespace of its own: what it serves, and which settings it obeys.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_netlink::sysctl::Setting;
use calico_netlink::testing::TestNet;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(40);

const HEALTH: u16 = 9099;
const METRICS: u16 = 9091;

struct Agent {
    net: TestNet,
    directory: tempfile::TempDir,
    process: Child,
}

impl Agent {
    /// With these lines in its file of settings.
    fn start(label: &str, settings: &str) -> Option<Self> {
        let net = TestNet::new(label)?;
        net.run(|| Setting::Ipv4Forward.write(0)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let config = format!(
            "node = 'n1'\nrun_dir = '{0}/run'\nstate_dir = '{0}/state'\n\
             felix_config = '{0}/felix.cfg'\n[datastore]\nembedded = '{0}/datastore'\n",
            directory.path().display()
        );
        fs::write(at("agent.toml"), config).unwrap();
        fs::write(at("felix.cfg"), settings).unwrap();
        let log = File::create(at("log")).unwrap();
        let process = net.run(|| {
            Command::new(env!("CARGO_BIN_EXE_calico-agent"))
                .arg("--config")
                .arg(at("agent.toml"))
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
        });
        Some(Self { net, directory, process: process.unwrap() })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Status and body of a page; nothing while nobody answers.
    fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        self.net.run(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let status = answer.split(' ').nth(1)?.parse().ok()?;
            Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
        })
    }

    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: the agent ended: {ended:?}\n{}", self.log());
            assert!(started.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_ready(&mut self) {
        self.until("readiness", |agent| {
            agent.get(HEALTH, "/readiness").filter(|(status, _)| *status == 200)
        });
    }

    fn forwards(&self) -> bool {
        self.net.run(|| Setting::Ipv4Forward.read()).unwrap() == 1
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended, which the test has told then.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn prometheus_reads_upstreams_names() {
    let settings = "HealthEnabled = true\nPrometheusMetricsEnabled = true\n\
                    PrometheusMetricsHost = 127.0.0.1\n";
    let Some(mut agent) = Agent::start("metrics", settings) else { return };
    agent.wait_ready();
    assert_eq!(agent.get(HEALTH, "/liveness").unwrap().0, 200);
    let value = |text: &str, name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line?.parse().ok()
    };
    let text = agent.until("metrics of the tiers", |agent| {
        let (_, text) = agent.get(METRICS, "/metrics")?;
        // Every cluster has three; the agent makes them itself.
        (value(&text, "felix_cluster_num_tiers") == Some(3.0)).then_some(text)
    });
    assert!(text.contains("felix_host{host=\"n1\"} 1\n"), "{text}");
    for (name, expected) in [
        ("felix_resync_state", 3.0),
        ("felix_resyncs_started", 1.0),
        ("felix_active_local_endpoints", 0.0),
        ("felix_cluster_num_workload_endpoints", 0.0),
        ("felix_int_dataplane_failures", 0.0),
        ("felix_route_table_num_routes", 0.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name}\n{text}");
    }
    for name in [
        "felix_int_dataplane_apply_time_seconds_count",
        "felix_calc_graph_update_time_seconds_count",
        "felix_calc_graph_output_events",
        "felix_int_dataplane_initial_resync_time_seconds",
        "process_resident_memory_bytes",
    ] {
        assert!(value(&text, name).is_some_and(|value| value > 0.0), "{name}\n{text}");
    }
    agent.until("forwarding", |agent| agent.forwards().then_some(()));
}

#[test]
fn settings_are_obeyed_or_named() {
    let settings = "HealthEnabled = true\nPrometheusMetricsEnabled = true\n\
                    PrometheusMetricsHost = 127.0.0.1\nPrometheusProcessMetricsEnabled = false\n\
                    IPForwarding = Disabled\nWireguardEnabled = true\n\
                    IptablesBackend = Legacy\nBPFLogLevel = Debug\n";
    let Some(mut agent) = Agent::start("settings", settings) else { return };
    agent.wait_ready();
    let (_, text) = agent.until("metrics", |agent| agent.get(METRICS, "/metrics"));
    assert!(text.contains("felix_host") && !text.contains("process_"), "{text}");
    assert!(!agent.forwards());
    let log = agent.log();
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("wireguardEnabled = true (the file)"), 1, "{log}");
    assert_eq!(lines("bpfLogLevel, iptablesBackend"), 1, "{log}");
    assert_eq!(lines("a setting is not supported"), 1, "{log}");
}
