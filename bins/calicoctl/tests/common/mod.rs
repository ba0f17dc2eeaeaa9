//! Datastores that calicoctl reaches by a settings file.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::memory::MemoryStore;
use calico_datastore::config::{DatastoreConfig, EtcdConfig, KubernetesConfig};
use calico_datastore::conversion::ApiGroup;
use calico_datastore::remote::{LocalListener, Server};
use calico_test_servers::{ADMIN, cluster};

/// A datastore, and the settings file for it.
pub(crate) struct Backend {
    pub(crate) dir: tempfile::TempDir,
    config: PathBuf,
    /// How to open it beside calicoctl; a memory store cannot be.
    pub(crate) store: DatastoreConfig,
    _server: Option<Etcd>,
    _cluster: Option<Arc<cluster::Cluster>>,
    _runtime: Option<tokio::runtime::Runtime>,
}

impl Backend {
    fn new(spec: impl FnOnce(&Path) -> (String, DatastoreConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("calicoctl.cfg");
        let (spec, store) = spec(dir.path());
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec: {spec}\n"
        );
        std::fs::write(&config, text).unwrap();
        Self { dir, config, store, _server: None, _cluster: None, _runtime: None }
    }

    /// A memory store, served as an agent serves its own.
    pub(crate) fn memory() -> Self {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let mut backend = Self::new(|dir| {
            let socket = dir.join("datastore.sock");
            let listener = {
                let _in_runtime = runtime.enter();
                LocalListener::bind(&socket).unwrap()
            };
            runtime.spawn(Server::run(listener, store, std::future::pending()));
            let spec = format!("{{datastoreType: remote, socket: {}}}", socket.display());
            (spec, DatastoreConfig::Remote { socket })
        });
        backend._runtime = Some(runtime);
        backend
    }

    pub(crate) fn embedded() -> Self {
        Self::new(|dir| {
            let path = dir.join("calico.db");
            let spec = format!("{{datastoreType: embedded, path: {}}}", path.display());
            (spec, DatastoreConfig::Embedded { path, durability: Default::default() })
        })
    }

    pub(crate) fn etcd() -> Self {
        let server = Etcd::start();
        let mut backend = Self::new(|_| {
            let config = DatastoreConfig::Etcd(EtcdConfig::new([server.url.clone()]));
            (format!("{{etcdEndpoints: '{}'}}", server.url), config)
        });
        backend._server = Some(server);
        backend
    }

    /// A cluster, of which `group` is used. Other backends may share it.
    pub(crate) fn kubernetes(cluster: &Arc<cluster::Cluster>, group: ApiGroup) -> Self {
        let mut backend = Self::new(|dir| {
            let file = dir.join("kubeconfig");
            std::fs::write(&file, cluster.kubeconfig(ADMIN)).unwrap();
            let kubeconfig = file.display().to_string();
            let spec = format!(
                "{{datastoreType: kubernetes, kubeconfig: {kubeconfig}, calicoAPIGroup: {group}}}"
            );
            let config = KubernetesConfig {
                kubeconfig: Some(kubeconfig),
                api_group: Some(group),
                ..KubernetesConfig::default()
            };
            (spec, DatastoreConfig::Kubernetes(Box::new(config)))
        });
        backend._cluster = Some(Arc::clone(cluster));
        backend
    }

    /// Runs calicoctl on it.
    pub(crate) fn calicoctl(&self, words: &[String], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
            .args(words)
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
        child.wait_with_output().unwrap()
    }

    /// Does something with the store itself. Nobody else may have an embedded one open meanwhile.
    pub(crate) fn with_store<T>(&self, work: impl AsyncFnOnce(Arc<dyn Datastore>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(calico_datastore::open(&self.store).unwrap()).await })
    }
}

/// Whether servers may be missing.
pub(crate) fn without_servers() -> bool {
    let skip = std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some();
    if skip {
        println!("SKIPPED (etcd: CALICO_SKIP_PRIVILEGED is set)");
    }
    skip
}

/// An etcd server that ends with the test.
pub(crate) struct Etcd {
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
