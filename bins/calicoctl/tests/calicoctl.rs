//! The program itself, on a durable store served over a socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::EmbeddedStore;
use calico_datastore::remote::{LocalListener, Server};

/// A served store, with a directory for files.
struct Lab {
    dir: tempfile::TempDir,
    store: Arc<EmbeddedStore>,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let store = Arc::new(EmbeddedStore::open(dir.path().join("calico.db")).unwrap());
        let _in_runtime = runtime.enter();
        let listener = LocalListener::bind(dir.path().join("datastore.sock")).unwrap();
        runtime.spawn(Server::run(listener, store.clone(), std::future::pending()));
        drop(_in_runtime);
        Self { dir, store, _runtime: runtime }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, line: &str, stdin: &str) -> Output {
        calicoctl(&self.dir.path().join("datastore.sock"), line, stdin)
    }

    /// What a command that succeeds prints.
    fn ok(&self, line: &str, stdin: &str) -> String {
        let output = self.run(line, stdin);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{line}: {err}");
        out
    }

    /// What a command that fails says; it prints nothing else and exits with 1.
    fn fails(&self, line: &str, stdin: &str) -> String {
        let output = self.run(line, stdin);
        let (out, err) = texts(&output);
        assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{line}: {err}");
        err
    }
}

fn calicoctl(socket: &Path, line: &str, stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(line.split_whitespace())
        .env("CALICO_DATASTORE_SOCKET", socket)
        .env_remove("DATASTORE_TYPE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: main}
spec: {cidr: 10.65.0.0/16, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node1, labels: {rack: a}}
spec: {bgp: {ipv4Address: 192.0.2.1/24}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: prod}
spec:
  order: 100
  selector: app == 'web'
  ingress:
  - action: Allow
    protocol: TCP
    destination: {ports: [80, '8000:8999']}
";

#[test]
fn resources_live_and_die() {
    let lab = Lab::new();
    let applied = "Successfully applied 3 resource(s)\n";
    assert_eq!(lab.ok("apply -f -", CLUSTER), applied);
    assert_eq!(lab.ok("apply -f -", CLUSTER), applied);
    assert_eq!(
        lab.ok("get ippool", ""),
        "NAME   CIDR           SELECTOR\nmain   10.65.0.0/16   all()\n"
    );
    assert_eq!(
        lab.ok("get nodes -o wide", ""),
        "NAME    ASN       IPV4           IPV6\nnode1   (64512)   192.0.2.1/24\n"
    );
    assert_eq!(lab.ok("get np", ""), "NAME   TIER\n", "the namespace is `default`");
    assert_eq!(
        lab.ok("get np -A -owide", ""),
        "NAMESPACE   NAME   TIER      ORDER   SELECTOR\nprod        web    default   100     app == 'web'\n"
    );

    let yaml = lab.ok("get networkpolicy web -n prod -o yaml", "");
    assert!(yaml.contains("8000:8999") && yaml.contains("uid: "), "{yaml}");
    let file = lab.file("web.yaml", &yaml);
    let replace = format!("replace -f {}", file.display());
    assert_eq!(lab.ok(&replace, ""), "Successfully replaced 1 'NetworkPolicy' resource(s)\n");
    let stale = lab.fails(&replace, "");
    assert!(stale.contains("NetworkPolicy prod/web was changed in the meantime"), "{stale}");

    assert_eq!(
        lab.ok("delete np web -n prod", ""),
        "Successfully deleted 1 'NetworkPolicy' resource(s)\n"
    );
    assert_eq!(lab.fails("get np web -n prod", ""), "NetworkPolicy prod/web does not exist\n");
    assert_eq!(lab.ok("delete -s -f -", CLUSTER), "Successfully deleted 2 resource(s)\n");
}

#[test]
fn mistakes_are_pointed_at_and_nothing_is_done() {
    let lab = Lab::new();
    let wrong =
        CLUSTER.replace("selector:", "selectr:").replace("natOutgoing: true", "natOutgoing: 7");
    let file = lab.file("cluster.yaml", &wrong);
    let error = lab.fails(&format!("apply -f {}", file.display()), "");
    for part in [
        "cluster.yaml: document 1, line 4 (IPPool main): spec.natOutgoing",
        "cluster.yaml: document 3, line 16 (NetworkPolicy web): spec.selectr",
        "did you mean `selector`?",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listing = runtime.block_on(lab.store.list(&Scope::All)).unwrap();
    assert_eq!(listing.entries, []);

    for (line, stdin, part) in [
        ("apply -f /nonexistent.yaml", "", "cannot read /nonexistent.yaml: No such file"),
        ("apply -f -", "", "use --skip-empty"),
        ("apply -f -", "a: [", "line 1"),
        ("get gadgets", "", "gadgets"),
        ("get ippool -n x", "", "has no namespace"),
        ("get ippool -o toml", "", "toml"),
        ("delete tier default", "", "built in"),
        ("delete ippool", "", "give the names"),
        ("frobnicate", "", "frobnicate"),
    ] {
        let error = lab.fails(line, stdin);
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn addresses_and_versions_are_shown() {
    let lab = Lab::new();
    lab.ok("apply -f -", CLUSTER);
    let table = lab.ok("ipam show --show-blocks", "");
    assert!(table.contains("| IP Pool  | 10.65.0.0/16 | 65536     | 0 (0%)     |"), "{table}");
    assert_eq!(lab.ok("ipam show --ip 10.65.0.9", ""), "10.65.0.9 is not assigned\n");
    assert!(lab.ok("version", "").contains("Cluster Version:   unknown"));
    assert!(lab.ok("validate -f -", CLUSTER).contains("3 resource(s)"));
    assert!(lab.ok("get --help", "").contains("FelixConfiguration (felixconfig)"));
}

#[test]
fn a_bad_object_is_told_and_the_rest_is_shown() {
    let lab = Lab::new();
    lab.ok("apply -f -", CLUSTER);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = Key::resource(Kind::IpPool, None, "bad");
    runtime.block_on(lab.store.put(key, "no json".into())).unwrap();
    let output = lab.run("get ippool", "");
    let (out, err) = texts(&output);
    assert!(output.status.success() && out.contains("main"), "{out}");
    assert!(err.contains("ippools/bad") && err.lines().count() == 1, "{err}");
}

#[test]
fn without_a_server_it_says_what_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("datastore.sock");
    let output = calicoctl(&socket, "get ippool", "");
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains(socket.to_str().unwrap()) && err.contains("calico-agent"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}
