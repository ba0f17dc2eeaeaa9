//! The real agent in a network namespace of its own: what it serves, which settings it obeys, and how
//! it starts again among objects with mistakes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_control::{Client, Status};
use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::remote::RemoteStore;
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
        let process = Self::spawn(&net, directory.path());
        Some(Self { net, directory, process })
    }

    /// With a log of its own.
    fn spawn(net: &TestNet, directory: &Path) -> Child {
        let log = File::create(directory.join("log")).unwrap();
        let process = net.run(|| {
            Command::new(env!("CARGO_BIN_EXE_calico-agent"))
                .arg("--config")
                .arg(directory.join("agent.toml"))
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
        });
        process.unwrap()
    }

    /// Kills it and starts it again.
    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.net, self.directory.path());
    }

    /// Writes objects past every check.
    fn write(&self, objects: &[(Key, String)]) {
        let store = RemoteStore::connect(self.directory.path().join("run/datastore.sock"));
        within(async {
            for (key, text) in objects {
                store.put(key.clone(), text.as_str().into()).await.unwrap();
            }
        });
    }

    /// What it says of itself; nothing while it does not answer.
    fn status(&self) -> Option<Status> {
        let socket = self.directory.path().join("run/control.sock");
        within(async { Client::connect(&socket).await.ok()?.status().await.ok() })
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

fn within<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(PATIENCE, work).await.expect("an answer in time") };
    runtime.block_on(work)
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

/// An object of the namespace `default`.
fn object(kind: Kind, name: &str, labels: &str, spec: &str) -> (Key, String) {
    let metadata = format!(r#"{{"name":"{name}","namespace":"default","labels":{labels}}}"#);
    let version = "projectcalico.org/v3";
    let text = format!(
        r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"spec":{spec}}}"#
    );
    (Key::resource(kind, Some("default"), name), text)
}

#[test]
fn it_starts_again_among_objects_with_mistakes() {
    let Some(mut agent) = Agent::start("mistakes", "HealthEnabled = true\n") else { return };
    agent.wait_ready();
    let pod = |name: &str, labels: &str, spec: &str| {
        object(Kind::WorkloadEndpoint, &format!("n1-cni-{name}-eth0"), labels, spec)
    };
    let spec = |number: u8| {
        format!(
            r#"{{"orchestrator":"cni","node":"n1","containerID":"c{number}","endpoint":"eth0",
            "interfaceName":"cali{number}","ipNetworks":["10.65.0.{number}/32"]}}"#
        )
    };
    let labels = r#"{"app":"web"}"#;
    let (good, edited) = (
        r#"{"selector":"app == 'web'","ingress":[{"action":"Allow"}]}"#,
        r#"{"selector":"app == 'web'","ingress":[{"action":"Alow"}]}"#,
    );
    agent.write(&[
        pod("web", labels, &spec(1)),
        pod("other", "{}", &spec(2)),
        object(Kind::NetworkPolicy, "edited", "{}", good),
        object(Kind::NetworkPolicy, "sound", "{}", good),
    ]);
    let programmed = |status: &Status| status.endpoints.values().filter(|it| it.programmed).count();
    agent.until("two pods", |agent| agent.status().filter(|status| programmed(status) == 2));
    let net = object(Kind::NetworkSet, "nets", "{}", r#"{"nets":["10.0.0.0/99"]}"#);
    agent.write(&[
        object(Kind::NetworkPolicy, "edited", "{}", edited),
        object(Kind::NetworkPolicy, "garbage", "{}", "{ this is no JSON"),
        (net.0, net.1),
        pod("third", "{}", r#"{"node":"n1","ipNetworks":"x"}"#),
    ]);
    let said = |log: &str, part: &str| {
        log.lines().filter(|line| line.contains("is ignored") && line.contains(part)).count()
    };
    let names = ["default/edited", "default/garbage", "default/nets", "n1-cni-third-eth0"];
    let all = |agent: &Agent| agent.status().filter(|status| status.mistakes.len() == names.len());
    agent.until("what is wrong", all);
    let log = agent.log();
    assert!(log.contains("its last good version stays in force"), "{log}");
    assert!(log.contains("there was no good version before"), "{log}");

    agent.restart();
    agent.wait_ready();
    let status = agent.until("what is wrong, again", all);
    assert_eq!(programmed(&status), 2, "{status:?}");
    let shown = |name: &str| status.mistakes.keys().any(|path| path.ends_with(name));
    assert!(names.iter().all(|name| shown(name)), "{status:?}");
    let log = agent.log();
    for name in names {
        assert_eq!(said(&log, name), 1, "{name}\n{log}");
    }
    assert_eq!(said(&log, "all that it would have judged is denied"), 2, "{log}");

    agent.write(&[object(Kind::NetworkPolicy, "edited", "{}", good)]);
    let mended = |agent: &Agent| agent.status().filter(|status| status.mistakes.len() == 3);
    let status = agent.until("what is mended", mended);
    assert!(!status.mistakes.keys().any(|path| path.ends_with("default/edited")), "{status:?}");
}
