//! An API server and its etcd on loopback, for the tests of a crate. It panics as tests do.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, START};
use crate::control_plane::{ControlPlane, on_loopback};
use crate::programs::{self, Programs};
use crate::{ADMIN, workspace};

/// Whether servers may be missing.
#[must_use]
pub fn skipped() -> bool {
    let skip = std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some();
    if skip {
        println!("SKIPPED (kube-apiserver: CALICO_SKIP_PRIVILEGED is set)");
    }
    skip
}

/// Which etcd keeps what the API server is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Etcd {
    /// Debian's, which is too old for the API server to stream listings: they come in pages.
    Debian,
    /// One of the API server's own time.
    Current,
}

/// An API server and its etcd. Both end with the process.
#[derive(Debug)]
pub struct Cluster {
    /// Certificates, logs, and room for what a test writes.
    pub dir: TempDir,
    program: PathBuf,
    plane: ControlPlane,
    etcd: Mutex<Option<Child>>,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts both, and loads the custom resources of `deploy/crds`.
    ///
    /// # Panics
    ///
    /// If a program is missing, or does not start.
    #[must_use]
    pub fn start(etcd: Etcd) -> Self {
        let found = programs::find(|what| println!("{what}"));
        let Programs { apiserver, etcd: current } = found.unwrap_or_else(|why| panic!("{why}"));
        let etcd = match etcd {
            Etcd::Debian => Path::new("etcd"),
            Etcd::Current => &current,
        };
        let cluster = (0..3).find_map(|attempt| {
            let cluster = Self::launch(&apiserver, etcd);
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
        let plane = on_loopback(dir.path(), free_port(), [free_port(), free_port()]);
        plane.prepare().unwrap_or_else(|why| panic!("{why}"));
        let mut command = mortal(&etcd.display().to_string());
        command
            .args(plane.etcd_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("etcd.log")).expect("a log"));
        let etcd = Mutex::new(Some(spawn(command)));
        let server = Mutex::new(None);
        let cluster = Self { dir, program: program.to_owned(), plane, etcd, server };
        cluster.start_server();
        cluster
    }

    /// Runs etcdctl on its etcd, which must succeed.
    ///
    /// # Panics
    ///
    /// With what etcdctl says, or if there is none.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.plane.etcd_url()).args(args);
        let output = command.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| panic!("etcdctl: {e}; install etcd-client"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts the API server, on the port that it had before.
    ///
    /// # Panics
    ///
    /// If it cannot be run.
    pub fn start_server(&self) {
        let log = self.dir.path().join("server.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log);
        let mut command = mortal(&self.program.display().to_string());
        command
            .args(self.plane.apiserver_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"));
        *self.server.lock().expect("no panic") = Some(spawn(command));
    }

    /// Kills the API server.
    pub fn kill_server(&self) {
        end(&self.server);
    }

    fn stop(&self) {
        end(&self.server);
        end(&self.etcd);
    }

    /// Waits until the API server answers.
    ///
    /// # Errors
    ///
    /// If it ends, or gives no answer in time; with the ends of the logs.
    ///
    /// # Panics
    ///
    /// If another thread panicked in the middle of it.
    pub fn wait(&self) -> Result<(), String> {
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
            let ready = run(async { self.api(ADMIN).ready().await });
            let Err(reason) = ready else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!("no answer in time: {reason}{}", tail("server.log")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The API server, for who has `token`.
    #[must_use]
    pub fn api(&self, token: &str) -> Api {
        Api { url: self.url(), ca: self.ca(), token: token.to_owned() }
    }

    /// URL of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        self.plane.url()
    }

    /// URL of its etcd.
    #[must_use]
    pub fn etcd_url(&self) -> String {
        self.plane.etcd_url()
    }

    /// The file with the authority that signed its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.plane.ca()
    }

    /// A kubeconfig for who has `token`.
    #[must_use]
    pub fn kubeconfig(&self, token: &str) -> String {
        self.api(token).kubeconfig()
    }

    /// A client besides the one that is tested.
    ///
    /// # Panics
    ///
    /// If the certificates are gone.
    pub async fn client(&self, token: &str) -> kube::Client {
        self.api(token).client().await.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Asks the API server as administrator.
    ///
    /// # Errors
    ///
    /// What it answers, or why it does not.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        self.api(ADMIN).ask(method, path, body).await
    }

    /// Asks the API server, which must not refuse.
    ///
    /// # Panics
    ///
    /// If it does.
    pub async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path, &body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Loads what `deploy/crds` has, and the namespaces that tests use.
    async fn load(&self) {
        let crds = workspace().unwrap_or_else(|why| panic!("{why}")).join("deploy/crds");
        for group in ["v1", "v3"] {
            let loaded = self.api(ADMIN).load_custom_resources(&crds.join(group)).await;
            loaded.unwrap_or_else(|why| panic!("{why}"));
        }
        for namespace in ["prod", "prod-2", "x", "n"] {
            let body = json!({"metadata": {"name": namespace}});
            self.must("POST", "/api/v1/namespaces", body).await;
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
                // Whoever asked may be gone.
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
        // It may have ended by itself.
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
