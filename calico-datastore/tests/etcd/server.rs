//! Real etcd servers, each of which dies with the value that stands for it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use calico_core::datastore::Revision;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;
use tempfile::TempDir;

/// Time for a server to answer after it was started.
const START: Duration = Duration::from_secs(30);

/// A cluster of etcd servers.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    _dir: TempDir,
    /// What [`EtcdConfig`] and etcdctl need besides the endpoints.
    tls: Option<PathBuf>,
}

/// One server, which may be stopped and started again.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) url: String,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `size` servers and waits until they answer.
    pub(crate) async fn start(size: usize) -> Self {
        Self::start_with(size, &[], None).await
    }

    /// One server that wants TLS; `certificates` has `ca.pem`, `server.pem` and `client.pem`,
    /// with keys in `*-key.pem`.
    pub(crate) async fn start_tls(certificates: &Path) -> Self {
        let file = |name: &str| certificates.join(name).display().to_string();
        let args = [
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", file("ca.pem")),
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server-key.pem")),
        ];
        Self::start_with(1, &args, Some(certificates.to_owned())).await
    }

    pub(crate) async fn start_with(size: usize, args: &[String], tls: Option<PathBuf>) -> Self {
        // A port that was free a moment ago may be taken by another program: try again.
        for attempt in 0.. {
            let dir = tempfile::tempdir().expect("a directory");
            let mut members = members(dir.path(), size, args, tls.is_some());
            members.iter_mut().for_each(Member::spawn);
            let cluster = Self { members, _dir: dir, tls: tls.clone() };
            match cluster.answers().await {
                Ok(()) => return cluster,
                Err(why) if attempt == 3 => panic!("etcd does not start: {why}"),
                Err(why) => println!("etcd does not start ({why}); trying other ports"),
            }
        }
        unreachable!("the loop returns or panics")
    }

    /// Settings that name every member.
    pub(crate) fn config(&self) -> EtcdConfig {
        self.config_of(self.members.iter().map(|member| member.url.clone()))
    }

    /// Settings with these endpoints.
    pub(crate) fn config_of(&self, urls: impl IntoIterator<Item = String>) -> EtcdConfig {
        use calico_datastore::config::Pem;
        let mut config = EtcdConfig::new(urls);
        if let Some(dir) = &self.tls {
            config.ca = Some(Pem::File(dir.join("ca.pem")));
            config.certificate = Some(Pem::File(dir.join("client.pem")));
            config.key = Some(Pem::File(dir.join("client-key.pem")));
        }
        config
    }

    pub(crate) fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config()).expect("good settings")
    }

    /// Runs etcdctl, which must succeed.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> Vec<u8> {
        let output = self.try_etcdctl(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {errors}");
        output.stdout
    }

    pub(crate) fn try_etcdctl(&self, args: &[&str]) -> Output {
        let urls: Vec<&str> = self.members.iter().map(|member| member.url.as_str()).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(urls.join(",")).args(args);
        if let Some(dir) = &self.tls {
            command.arg("--cacert").arg(dir.join("ca.pem"));
            command.arg("--cert").arg(dir.join("client.pem"));
            command.arg("--key").arg(dir.join("client-key.pem"));
        }
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| missing("etcdctl", &error))
    }

    /// Forgets what was before `revision`.
    pub(crate) fn compact(&self, revision: Revision) {
        self.etcdctl(&["compact", &revision.to_string()]);
    }

    /// Deletes everything.
    pub(crate) fn clear(&self) {
        self.etcdctl(&["del", "--prefix", "/"]);
    }

    /// The member that leads.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + START;
        loop {
            for (index, member) in self.members.iter().enumerate() {
                if member.child.is_none() {
                    continue;
                }
                let output = Command::new("etcdctl")
                    .env("ETCDCTL_API", "3")
                    .args(["--endpoints", &member.url, "--command-timeout=1s"])
                    .args(["endpoint", "status"])
                    .output()
                    .unwrap_or_else(|error| missing("etcdctl", &error));
                let text = String::from_utf8_lossy(&output.stdout);
                if text.split(", ").nth(4) == Some("true") {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "the cluster finds no leader");
        }
    }

    async fn answers(&self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        for member in &self.members {
            let store = EtcdStore::connect(self.config_of([member.url.clone()]))
                .map_err(|error| error.to_string())?;
            while let Err(error) = store.revision().await {
                if Instant::now() > deadline || member.has_exited() {
                    let log = std::fs::read_to_string(&member.log).unwrap_or_default();
                    let from = log.len().saturating_sub(2000);
                    return Err(format!("{error}; {}", log.get(from..).unwrap_or(&log)));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

impl Member {
    /// Starts it, also again: with the data that it had.
    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::create(&self.log).expect("a log file");
        let output = log.try_clone().expect("a log file");
        // Not even a killed test leaves a server behind.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| missing("setpriv", &error));
        self.child = Some(child);
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a running server");
            child.wait().expect("an ended server");
        }
    }

    /// Stops it in the middle of whatever it does: connections stay open, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("a running server").id();
        let id = nix::unistd::Pid::from_raw(i32::try_from(id).expect("a process id"));
        let signal = format!("SIG{name}").parse().expect("a signal");
        nix::sys::signal::kill(id, Some::<nix::sys::signal::Signal>(signal)).expect("a process");
    }

    fn has_exited(&self) -> bool {
        let Some(child) = &self.child else { return true };
        let status = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
        status.map_or(true, |text| text.contains(") Z "))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn members(root: &Path, size: usize, extra: &[String], tls: bool) -> Vec<Member> {
    let scheme = if tls { "https" } else { "http" };
    let ports = free_ports(size * 2);
    let peers: Vec<String> = (0..size).map(|n| format!("http://{}", ports[size + n])).collect();
    let everyone: Vec<String> =
        peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
    (0..size)
        .map(|n| {
            let url = format!("{scheme}://{}", ports[n]);
            let mut args: Vec<String> = [
                format!("--name=m{n}"),
                format!("--data-dir={}", root.join(format!("m{n}")).display()),
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
                format!("--listen-peer-urls={}", peers[n]),
                format!("--initial-advertise-peer-urls={}", peers[n]),
                format!("--initial-cluster={}", everyone.join(",")),
                "--logger=zap".to_owned(),
                "--log-outputs=stderr".to_owned(),
            ]
            .into();
            args.extend_from_slice(extra);
            Member { url, args, log: root.join(format!("m{n}.log")), child: None }
        })
        .collect()
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("an address")).collect()
}

fn missing(program: &str, error: &std::io::Error) -> ! {
    panic!(
        "{program}: {error}. These tests need etcd, etcdctl and setpriv \
         (Debian: apt-get install etcd-server etcd-client util-linux)"
    )
}
