//! A real kube-apiserver with a real etcd, for the tests of every crate that needs one.
//!
//! The server is found by `KUBEBUILDER_ASSETS` (as controllers' tests find it), or else built by
//! the Go toolchain from `tests/kube-apiserver`, once for each version of that module.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Time for a server to answer after it was started: on two cores with other tests beside it.
const START: Duration = Duration::from_secs(180);

/// Who may do everything, and who may do nothing.
pub(crate) const ADMIN: &str = "admin-token";
pub(crate) const NOBODY: &str = "nobody-token";

/// The workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().find(|dir| dir.join("tests/kube-apiserver/go.mod").exists());
    root.expect("the tests run inside the workspace").to_owned()
}

/// Whether servers may be missing.
pub(crate) fn skipped() -> bool {
    let skip = std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some();
    if skip {
        println!("SKIPPED (kube-apiserver: CALICO_SKIP_PRIVILEGED is set)");
    }
    skip
}

/// Which etcd keeps what the API server is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Etcd {
    /// Debian's, which is too old for the API server to stream listings: they come in pages.
    Debian,
    /// One of the API server's own time.
    Current,
}

/// The two programs, built if need be: API server, and the current etcd.
fn programs() -> [PathBuf; 2] {
    const NAMES: [&str; 2] = ["kube-apiserver", "etcd"];
    if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return NAMES.map(|name| {
            let program = Path::new(&assets).join(name);
            assert!(program.exists(), "KUBEBUILDER_ASSETS has no {}", program.display());
            program
        });
    }
    let module = root().join("tests/kube-apiserver");
    let mut hasher = DefaultHasher::new();
    for name in ["go.mod", "go.sum", "main.go", "etcd/main.go"] {
        fs::read(module.join(name)).expect("a file of the module").hash(&mut hasher);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kube-apiserver");
    fs::create_dir_all(&target).expect("a directory below target/");
    let built = target.join(format!("{:016x}", hasher.finish()));
    // Test programs of several crates may come here at the same time.
    let lock = File::create(target.join("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    if !built.exists() {
        let unfinished = target.join("unfinished");
        fs::create_dir_all(&unfinished).expect("a directory below target/");
        let start = Instant::now();
        println!("building kube-apiserver and etcd with Go: once, for some minutes");
        for (name, package) in NAMES.iter().zip([".", "./etcd"]) {
            build(&module, package, &unfinished.join(name));
        }
        fs::rename(&unfinished, &built).expect("the programs in their place");
        println!("kube-apiserver and etcd are built after {} s", start.elapsed().as_secs());
    }
    NAMES.map(|name| built.join(name))
}

fn build(module: &Path, package: &str, program: &Path) {
    let found = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"].into_iter().find(|go| {
        let version = Command::new(go).arg("version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    let go = found.unwrap_or_else(|| {
        panic!(
            "there is no kube-apiserver, and no Go toolchain to build one with: install Go 1.25 \
             or later (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a directory that has \
             kube-apiserver and etcd; CALICO_SKIP_PRIVILEGED=1 leaves these tests out"
        )
    });
    // A module proxy that does not answer must not hold everything up for ever.
    let output = Command::new("timeout")
        .args(["2400", go])
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-p=2", "-trimpath", "-ldflags=-s -w", "-o"])
        .args([program, Path::new(package)])
        .stdin(Stdio::null())
        .output()
        .expect("go, which was there a moment ago");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go build in {}: {errors}", module.display());
}

/// An API server and its etcd. Both end with the process.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    program: PathBuf,
    port: u16,
    etcd_url: String,
    etcd: Mutex<Option<Child>>,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts both, and loads the custom resources of `deploy/crds`.
    pub(crate) fn start(etcd: Etcd) -> Self {
        let [program, current] = programs();
        let etcd = match etcd {
            Etcd::Debian => Path::new("etcd"),
            Etcd::Current => &current,
        };
        let cluster = (0..3).find_map(|attempt| {
            let cluster = Self::launch(&program, etcd);
            match cluster.wait() {
                Ok(()) => Some(cluster),
                Err(why) => {
                    println!("attempt {attempt} to start a cluster: {why}");
                    cluster.stop();
                    None
                }
            }
        });
        let cluster = cluster.expect("kube-apiserver starts");
        run(cluster.load());
        cluster
    }

    fn launch(program: &Path, etcd: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        certificates(dir.path());
        let (client, peer, port) = (free_port(), free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{client}");
        let cluster = Self {
            dir,
            program: program.to_owned(),
            port,
            etcd_url,
            etcd: Mutex::new(None),
            server: Mutex::new(None),
        };
        let (url, peer) = (&cluster.etcd_url, format!("http://127.0.0.1:{peer}"));
        let mut command = mortal(&etcd.display().to_string());
        command
            .args(["--log-level=error", "--unsafe-no-fsync", "--data-dir"])
            .arg(cluster.dir.path().join("etcd"))
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(cluster.dir.path().join("etcd.log")).expect("a log"));
        *cluster.etcd.lock().expect("no panic") = Some(spawn(command));
        cluster.start_server();
        cluster
    }

    /// Runs etcdctl on its etcd, which must succeed.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.etcd_url).args(args);
        let output = command.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| panic!("etcdctl: {e}; install etcd-client"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts the API server, on the port that it had before.
    pub(crate) fn start_server(&self) {
        let dir = self.dir.path();
        let path = |name: &str| dir.join(name).display().to_string();
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log"));
        let mut command = mortal(&self.program.display().to_string());
        command
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", path("certs")))
            .arg(format!("--tls-cert-file={}", path("server.pem")))
            .arg(format!("--tls-private-key-file={}", path("server-key.pem")))
            .arg(format!("--client-ca-file={}", path("ca.pem")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", path("account.pub")))
            .arg(format!("--service-account-signing-key-file={}", path("account-key.pem")))
            .arg(format!("--token-auth-file={}", path("tokens.csv")))
            .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"])
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--etcd-compaction-interval=0"])
            .args(["--enable-priority-and-fairness=false", "--profiling=false"])
            .args(["--shutdown-delay-duration=0s", "--endpoint-reconciler-type=none"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"));
        *self.server.lock().expect("no panic") = Some(spawn(command));
    }

    /// Kills the API server.
    pub(crate) fn kill_server(&self) {
        end(&self.server);
    }

    fn stop(&self) {
        end(&self.server);
        end(&self.etcd);
    }

    /// Waits until the API server answers.
    pub(crate) fn wait(&self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let ended = |child: &Mutex<Option<Child>>| {
                let mut child = child.lock().expect("no panic");
                child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
            };
            let tail = |name: &str| {
                let log = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
                log.lines().rev().take(5).map(|line| format!("\n  {line}")).collect::<String>()
            };
            if ended(&self.etcd) {
                return Err(format!("etcd ended; is etcd-server installed?{}", tail("etcd.log")));
            }
            if ended(&self.server) {
                return Err(format!("kube-apiserver ended{}", tail("server.log")));
            }
            let ready = run(async {
                let request = Request::get("/readyz").body(Vec::new()).expect("a request");
                let client = self.client(ADMIN).await;
                let answer = client.request_text(request);
                tokio::time::timeout(Duration::from_secs(5), answer).await
            });
            if matches!(&ready, Ok(Ok(text)) if text == "ok") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("no answer in time: {ready:?}{}", tail("server.log")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// URL of the API server.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file with the authority that signed its certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A kubeconfig for who has `token`.
    pub(crate) fn kubeconfig(&self, token: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test",
                "cluster": {"server": self.url(), "certificate-authority": self.ca()}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// A client besides the one that is tested.
    pub(crate) async fn client(&self, token: &str) -> kube::Client {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(token)).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("settings");
        config.default_retry = false;
        kube::Client::try_from(config).expect("a client")
    }

    /// Asks the API server as administrator.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let client = self.client(ADMIN).await;
        let deadline = Instant::now() + START;
        loop {
            let request = Request::builder().method(method).uri(path).header("content-type", kind);
            let request = request.body(body.clone()).expect("a request");
            match client.request(request).await {
                // After a start, or after new custom resources, the server needs a moment.
                Err(kube::Error::Api(status))
                    if status.code == 429 && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Asks the API server, which must not refuse.
    pub(crate) async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path, &body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Loads what `deploy/crds` has, and the namespaces that tests use.
    async fn load(&self) {
        const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let client = self.client(ADMIN).await;
        let mut names = Vec::new();
        for group in ["v1", "v3"] {
            let dir = root().join("deploy/crds").join(group);
            for file in fs::read_dir(&dir).expect("deploy/crds") {
                let path = file.expect("a file").path();
                let request = Request::post(CRDS)
                    .header("content-type", "application/yaml")
                    .body(fs::read(&path).expect("a file"))
                    .expect("a request");
                let made: Result<Value, _> = client.request(request).await;
                let made = made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                names.push(made["metadata"]["name"].as_str().expect("a name").to_owned());
            }
        }
        for namespace in ["prod", "prod-2", "x", "n"] {
            let body = json!({"metadata": {"name": namespace}});
            self.must("POST", "/api/v1/namespaces", body).await;
        }
        let deadline = Instant::now() + START;
        for name in names {
            loop {
                let found = self.must("GET", &format!("{CRDS}/{name}"), Value::Null).await;
                let conditions = found["status"]["conditions"].as_array().cloned();
                let holds = |kind: &str| {
                    conditions.iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
                };
                // What the server would not accept of a schema, it says here.
                assert!(!holds("NonStructuralSchema"), "{name}: {conditions:#?}");
                if holds("Established") {
                    break;
                }
                assert!(Instant::now() < deadline, "{name} is not established: {conditions:#?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A program that the kernel kills when the thread that started it ends.
fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Starts a program from a thread that lives as long as the process: a test's thread does not.
fn spawn(mut command: Command) -> Child {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);
    let (reply, answer) = mpsc::channel();
    let mut spawner = SPAWNER.lock().expect("no panic");
    let jobs = spawner.get_or_insert_with(|| {
        let (jobs, orders) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let program = format!("{:?}", command.get_program());
    let order = std::mem::replace(&mut command, Command::new("true"));
    jobs.send((order, reply)).expect("the thread lives");
    let child = answer.recv().expect("an answer");
    child.unwrap_or_else(|error| panic!("{program}: {error}; install util-linux"))
}

fn end(child: &Mutex<Option<Child>>) {
    if let Some(mut child) = child.lock().unwrap_or_else(|e| e.into_inner()).take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Runs a future to its end, wherever the caller is.
fn run<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An authority, the server's certificate, keys of accounts, and tokens.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("a file");
    let key = || KeyPair::generate().expect("a key");
    let ca_key = key();
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).expect("a certificate").pem());
    let issuer = Issuer::new(ca, ca_key);
    let server_key = key();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = CertificateParams::new(names).expect("parameters");
    write("server.pem", server.signed_by(&server_key, &issuer).expect("a certificate").pem());
    write("server-key.pem", server_key.serialize_pem());
    let account = key();
    write("account-key.pem", account.serialize_pem());
    write("account.pub", account.public_key_pem());
    write("tokens.csv", format!("{ADMIN},admin,1,system:masters\n{NOBODY},nobody,2\n"));
}
