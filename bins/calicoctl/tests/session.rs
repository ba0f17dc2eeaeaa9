//! One session at the command line, on every kind of datastore: the answers are the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use calico_core::Datastore;
use calico_core::memory::MemoryStore;
use calico_core::resource::{ClusterInformation, ClusterInformationSpec, Tier};
use calico_datastore::config::{DatastoreConfig, EtcdConfig, open};
use calico_datastore::remote::{LocalListener, Server};
use calico_ipam::{AssignRequest, Ipam, Options};

/// A datastore that calicoctl reaches by a settings file.
struct Backend {
    dir: tempfile::TempDir,
    config: PathBuf,
    _server: Option<Etcd>,
    _runtime: Option<tokio::runtime::Runtime>,
}

impl Backend {
    fn new(spec: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("calicoctl.cfg");
        let spec = spec(dir.path());
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec: {spec}\n"
        );
        std::fs::write(&config, text).unwrap();
        Self { dir, config, _server: None, _runtime: None }
    }

    /// A memory store, served as an agent serves its own.
    fn memory() -> Self {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(fill(Arc::clone(&store)));
        let mut backend = Self::new(|dir| {
            let socket = dir.join("datastore.sock");
            let listener = {
                let _in_runtime = runtime.enter();
                LocalListener::bind(&socket).unwrap()
            };
            runtime.spawn(Server::run(listener, store, std::future::pending()));
            format!("{{datastoreType: remote, socket: {}}}", socket.display())
        });
        backend._runtime = Some(runtime);
        backend
    }

    fn embedded() -> Self {
        Self::new(|dir| {
            let path = dir.join("calico.db");
            prepare(&DatastoreConfig::Embedded {
                path: path.clone(),
                durability: Default::default(),
            });
            format!("{{datastoreType: embedded, path: {}}}", path.display())
        })
    }

    fn etcd() -> Self {
        let server = Etcd::start();
        prepare(&DatastoreConfig::Etcd(EtcdConfig::new([server.url.clone()])));
        let mut backend = Self::new(|_| format!("{{etcdEndpoints: '{}'}}", server.url));
        backend._server = Some(server);
        backend
    }

    /// Runs one command: the command line, what it prints, and how it ends.
    fn run(&self, line: &str) -> String {
        let line = line.replace("DIR", &self.dir.path().to_string_lossy());
        let (words, stdin) = line.split_once(" <<< ").unwrap_or((&line, ""));
        let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
            .args(split(words))
            .arg("--config")
            .arg(&self.config)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may be gone by now.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let code = output.status.code().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        let said = format!("$ calicoctl {line}\n{out}{err}[exit code {code}]\n");
        self.without_chance(&said)
    }

    /// Leaves out what differs from run to run: identities, times, revisions, directories.
    fn without_chance(&self, said: &str) -> String {
        let said = said.replace(&*self.dir.path().to_string_lossy(), "DIR");
        let mut lines = Vec::new();
        for line in said.lines() {
            let mut line = line.to_owned();
            for field in [
                "uid",
                "creationTimestamp",
                "resourceVersion",
                "Revision",
                "sequenceNumber",
                "clusterInformationRevision",
            ] {
                for start in [format!("{field}: "), format!("\"{field}\": ")] {
                    if let Some(at) = line.find(&start) {
                        let comma = if line.ends_with(',') { "," } else { "" };
                        line.truncate(at + start.len());
                        line = format!("{line}...{comma}");
                    }
                }
            }
            if let Some(at) = line.find("is at resourceVersion") {
                line.truncate(at);
            }
            lines.push(line);
        }
        lines.join("\n") + "\n"
    }
}

/// Words of a command line; quotes hold together.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// What an agent finds or makes: the cluster's identity, tiers, and some addresses.
async fn fill(store: Arc<dyn Datastore>) {
    let spec = ClusterInformationSpec {
        cluster_guid: "0123456789abcdef".to_owned(),
        cluster_type: "test".to_owned(),
        calico_version: "v3.32.0".to_owned(),
        datastore_ready: Some(true),
        ..ClusterInformationSpec::default()
    };
    let information = ClusterInformation::new("default", spec);
    store.create(information.key(), information.to_json()).await.unwrap();
    for tier in Tier::built_in() {
        store.create(tier.key(), tier.to_json()).await.unwrap();
    }
    let pool = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"small"},"spec":{"cidr":"10.99.0.0/26"}}"#;
    let key = "/calico/resources/v3/projectcalico.org/ippools/small".parse().unwrap();
    store.create(key, pool.into()).await.unwrap();
    // Times and sequence numbers are the same in every run.
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let options = Options { clock: Arc::new(move || start), ..Options::default() };
    let ipam = Ipam::new(store, options);
    for pod in ["web-1", "web-2"] {
        let request = AssignRequest::new("node1").handle(format!("net.{pod}")).v4(1);
        let request = request.attribute("node", "node1").attribute("pod", pod);
        ipam.auto_assign(request.attribute("namespace", "prod")).await.unwrap();
    }
}

fn prepare(config: &DatastoreConfig) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { fill(open(config).unwrap()).await });
}

/// An etcd server that ends with the test.
struct Etcd {
    url: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (url, peer) =
            (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--log-level=error", "--data-dir"])
            .arg(dir.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv: {error}; install util-linux and etcd-server"));
        let etcd = Self { url, child, _dir: dir };
        let address = etcd.url.trim_start_matches("http://");
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "etcd does not answer; is etcd-server installed?");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MANIFEST: &str = "{kind: List, apiVersion: v1, items: [\
    {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, spec: {cidr: 10.65.0.0/24}}, \
    {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 5}}, \
    {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: web, namespace: prod}, \
     spec: {tier: security, order: 1.5, selector: app == 'web', ingress: [{action: Allow}]}}, \
    {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node1}, \
     spec: {bgp: {ipv4Address: 192.0.2.1/24}}}, \
    {apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: node1-k8s-web--1-eth0, namespace: prod}, \
     spec: {orchestrator: k8s, node: node1, pod: web-1, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.99.0.0/32]}}]}";

/// The session. `<<< MANIFEST` is what comes through the standard input.
const SESSION: &[&str] = &[
    "version",
    "get tiers",
    "diff -f - <<< MANIFEST",
    "apply -f - --dry-run <<< MANIFEST",
    "get ippools",
    "create -f - <<< MANIFEST",
    "create -f - <<< MANIFEST",
    "create -f - --skip-exists <<< MANIFEST",
    "diff -f - <<< MANIFEST",
    "apply -f - <<< MANIFEST",
    "replace -f - <<< MANIFEST",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: other}, spec: {cidr: 10.65.0.0/16}}",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: main}, spec: {cidr: 10.66.0.0/24}}",
    "apply -f - <<< {kind: NetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {name: x}, spec: {tier: nowhere}}",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: main}, spec: {cidr: 10.65.0.0/24, natOutgoin: true}}",
    "get ippool -o wide",
    "get networkpolicy -A",
    "get np web -n prod -o yaml",
    "get np web -n prod -o yaml --export",
    "get wep -n prod -o json",
    "get nodes -o wide",
    "get nodes -o custom-columns=NAME,ASN,ADDRESS:.spec.bgp.ipv4Address",
    "get nodes -o 'go-template={{range .}}{{.ObjectMeta.Name}}{{end}}'",
    "get np missing -n prod",
    "patch ippool main -p '{\"spec\":{\"natOutgoing\":true}}'",
    "patch ippool main -t json -p '[{\"op\":\"test\",\"path\":\"/spec/natOutgoing\",\"value\":false}]'",
    "patch ippool main -t merge -p 'metadata: {labels: {a: b}}' --dry-run",
    "label ippool main rack=a",
    "label ippool main rack=b",
    "label ippool main rack=b --overwrite",
    "get ippool main -o yaml",
    "delete tier security",
    "ipam show --show-blocks",
    "ipam show --ip 10.99.0.0",
    "ipam configure --strictaffinity=true --max-blocks-per-host 4",
    "ipam show --show-configuration",
    "ipam check --show-problem-ips -o DIR/early.json",
    "ipam release --from-report DIR/early.json",
    "ipam split 2 --name main",
    "datastore migrate export",
    "datastore migrate lock",
    "get clusterinformation default -o yaml",
    "ipam check -o DIR/report.json",
    "ipam release --from-report DIR/early.json",
    "ipam release --from-report DIR/report.json --from-report DIR/early.json",
    "ipam show --ip 10.99.0.1",
    "ipam release --ip 10.99.0.1",
    "ipam split 2 --name main",
    "get ippools",
    "datastore migrate export",
    "datastore migrate import -f DIR/early.json",
    "datastore migrate unlock",
    "delete node node1",
    "get wep -A",
    "ipam show",
    "delete np web -n prod",
    "delete tier security",
    "delete ippool split-main-0 split-main-1",
    "delete ippool split-main-0",
    "delete -s ippool split-main-0",
    "get ippools",
];

fn session(backend: &Backend) -> Vec<String> {
    SESSION.iter().map(|line| backend.run(&line.replace("MANIFEST", MANIFEST))).collect()
}

#[test]
fn every_datastore_gives_the_same_answers() {
    let expected = session(&Backend::memory());
    let all = expected.concat();
    println!("{all}");
    // The session does what it is meant to: else equal answers mean nothing.
    for part in [
        "Successfully created 5 resource(s)",
        "spec.cidr: 10.65.0.0/16 overlaps IP pool main (10.65.0.0/24)",
        "spec.cidr: cannot change from 10.65.0.0/24",
        "there is no tier nowhere",
        "the tier still has NetworkPolicy prod/web",
        "1 address(es) assigned, but not in use\n  10.99.0.1 not in use; handle net.web-2",
        "none of the reports was made since the datastore was locked",
        "Released 1 address(es) and 0 handle(s)",
        "Successfully split IP pool main",
        "Datastore unlocked.",
    ] {
        assert!(all.contains(part), "{part:?} in:\n{all}");
    }
    compare("embedded", &expected, &session(&Backend::embedded()));
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some() {
        println!("SKIPPED (etcd: CALICO_SKIP_PRIVILEGED is set)");
        return;
    }
    compare("etcd", &expected, &session(&Backend::etcd()));
}

#[track_caller]
fn compare(name: &str, expected: &[String], found: &[String]) {
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(found, expected, "{name} answers otherwise");
    }
}
