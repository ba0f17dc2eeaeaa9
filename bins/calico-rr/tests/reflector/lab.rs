//! A reflector and routers with BIRD, each in a network namespace of its own.
//!
//! ```text
//!   reflector 10.9.N.1, fd09:N::1 ─── 10.9.N.2, fd09:N::2 router N, for N = 1, 2, …
//! ```

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is wanted within this time happens, or the test fails.
const PATIENCE: Duration = Duration::from_secs(40);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The namespaces and what runs in them. Everything goes when it is dropped.
pub(crate) struct Lab {
    name: String,
    directory: tempfile::TempDir,
    routers: Vec<Option<Child>>,
    reflector: Option<Child>,
    /// Logs of the reflectors that ran here.
    logs: u32,
}

/// The lab with so many routers, of which none runs; none at all if privileged tests are not
/// wanted.
pub(crate) fn lab(routers: usize) -> Option<Lab> {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|v| v == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1): makes network namespaces");
        return None;
    }
    require("bird", "the Debian package bird2");
    require("ip", "the Debian package iproute2");
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let lab = Lab {
        name: format!("cr-test-{}-{n}", std::process::id()),
        directory: tempfile::tempdir().expect("a temporary directory"),
        routers: (0..routers).map(|_| None).collect(),
        reflector: None,
        logs: 0,
    };
    let own = lab.namespace(0);
    ip(&["netns", "add", &own]);
    ip(&["-n", &own, "link", "set", "lo", "up"]);
    for n in 1..=routers {
        let (theirs, link) = (lab.namespace(n), format!("r{n}"));
        ip(&["netns", "add", &theirs]);
        let add = ["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &theirs];
        ip(&[&["-n", own.as_str()][..], &add].concat());
        for (ns, device, host) in [(&own, link.as_str(), 1), (&theirs, "eth0", 2)] {
            let (v4, v6) = (format!("10.9.{n}.{host}/24"), format!("fd09:{n}::{host}/64"));
            ip(&["-n", ns, "addr", "add", &v4, "dev", device]);
            ip(&["-n", ns, "addr", "add", &v6, "dev", device, "nodad"]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "set", device, "up"]);
        }
        // The reflector has one address for all of them when it is a Node.
        let gateway = format!("10.9.{n}.1");
        ip(&["-n", &theirs, "route", "add", "10.9.0.0/16", "via", &gateway]);
    }
    Some(lab)
}

/// How a router is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Router {
    pub(crate) asn: u32,
    /// Options of its BGP sessions, in BIRD's words.
    pub(crate) options: &'static str,
    /// IPv4 address of the reflector, if not the nearest one.
    pub(crate) reflector: Option<&'static str>,
}

impl Default for Router {
    fn default() -> Self {
        Self { asn: 64512, options: "", reflector: None }
    }
}

impl Lab {
    fn namespace(&self, n: usize) -> String {
        format!("{}{}", self.name, if n == 0 { "r".to_owned() } else { format!("b{n}") })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts BIRD in a router. It tells 10.65.N.0/24 and fd65:N::/64, and graceful restart is on.
    pub(crate) fn start_router(&mut self, n: usize, router: Router) {
        let Router { asn, options, reflector } = router;
        let nearest = format!("10.9.{n}.1");
        let reflector = reflector.unwrap_or(&nearest).to_owned();
        let session = |name: &str, us: String, them: String, family: &str, own: &str| {
            format!(
                "protocol bgp {name} {{
                   local {us} as {asn};
                   neighbor {them} as 64512;
                   graceful restart on;
                   connect delay time 1; connect retry time 1; error wait time 1, 2;
                   {options}
                   {family} {{ import all; export where net ~ [ {own} ]; next hop self; }};
                 }}\n"
            )
        };
        let config = format!(
            "log stderr all; router id 10.9.{n}.2;
             protocol device {{ }}
             protocol static s4 {{ ipv4; route 10.65.{n}.0/24 unreachable; }}
             protocol static s6 {{ ipv6; route fd65:{n}::/64 unreachable; }}
             protocol static w4 {{ ipv4 {{ preference 1; }}; route 10.9.0.0/16 via 10.9.{n}.1; }}
             protocol static w6 {{ ipv6 {{ preference 1; }}; route fd09::/16 via fd09:{n}::1; }}
             {}{}",
            session("c4", format!("10.9.{n}.2"), reflector, "ipv4", &format!("10.65.{n}.0/24")),
            session(
                "c6",
                format!("fd09:{n}::2"),
                format!("fd09:{n}::1"),
                "ipv6",
                &format!("fd65:{n}::/64")
            ),
        );
        let file = self.path(&format!("bird{n}.conf"));
        fs::write(&file, config).expect("write the configuration");
        let log = fs::File::create(self.path(&format!("bird{n}.log"))).expect("create the log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(n), "bird", "-f", "-c"])
            .arg(file)
            .arg("-s")
            .arg(self.path(&format!("bird{n}.ctl")))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("start bird");
        self.routers[n - 1] = Some(child);
        self.until("BIRD comes up", |lab| lab.birdc(n, "show status").contains("up and running"));
    }

    /// What BIRD in a router answers to a command.
    pub(crate) fn birdc(&self, n: usize, command: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.path(&format!("bird{n}.ctl")))
            .args(command.split_whitespace())
            .output()
            .expect("run birdc");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether a router has a route to a prefix.
    pub(crate) fn has_route(&self, n: usize, prefix: &str) -> bool {
        self.birdc(n, &format!("show route for {prefix}")).contains(prefix)
    }

    /// Starts calico-rr with a configuration; the run directory stands in front of it.
    pub(crate) fn start_reflector(&mut self, config: &str) {
        self.write_config(config);
        let file = self.path("rr.toml");
        self.start_reflector_with(&["--config", &file.to_string_lossy()]);
    }

    /// Starts calico-rr with these arguments.
    pub(crate) fn start_reflector_with(&mut self, arguments: &[&str]) {
        assert!(self.reflector.is_none(), "it runs already");
        self.logs += 1;
        let log = fs::File::create(self.log_path()).expect("create the log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(0), env!("CARGO_BIN_EXE_calico-rr")])
            .args(arguments)
            .env("RUST_LOG", "debug,calico_datastore=info")
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("start calico-rr");
        self.reflector = Some(child);
        self.until("calico-rr comes up", |lab| lab.log().contains("reflecting routes"));
    }

    /// Replaces the configuration of the reflector in one step.
    pub(crate) fn write_config(&self, config: &str) {
        let run_dir = self.run_dir();
        let text = format!("run_dir = {run_dir:?}\n{config}");
        let (new, file) = (self.path("rr.toml.new"), self.path("rr.toml"));
        fs::write(&new, text).expect("write the configuration");
        fs::rename(&new, file).expect("replace the configuration");
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.path(&format!("rr{}.log", self.logs))
    }

    /// What the reflector that runs, or ran last, has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Sends the reflector a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.reflector.as_ref().expect("it runs");
        // `ip netns exec` replaces itself with the program, so the child is calico-rr itself.
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("send a signal");
    }

    /// Ends the reflector by a signal.
    pub(crate) fn end_reflector(&mut self, how: Signal) {
        self.signal(how);
        let started = Instant::now();
        let mut child = self.reflector.take().expect("it runs");
        while child.try_wait().expect("wait for calico-rr").is_none() {
            assert!(started.elapsed() < PATIENCE, "calico-rr does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs calicoctl on the reflector.
    pub(crate) fn calicoctl(&self, arguments: &str) -> Output {
        Command::new(calicoctl_of_the_workspace())
            .args(arguments.split_whitespace())
            .env("CALICO_CONTROL_SOCKET", self.socket())
            .output()
            .expect("run calicoctl")
    }

    /// Writes resources through the socket of a datastore.
    pub(crate) fn apply(&self, verb: &str, socket: &Path, resources: &str) {
        let file = self.path("resources.yaml");
        fs::write(&file, resources).expect("write resources");
        let output = Command::new(calicoctl_of_the_workspace())
            .args([verb, "-f"])
            .arg(file)
            .env("CALICO_DATASTORE_SOCKET", socket)
            .output()
            .expect("run calicoctl");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "calicoctl {verb}: {error}");
    }

    /// What calicoctl prints; it must succeed.
    pub(crate) fn ask(&self, arguments: &str) -> String {
        let output = self.calicoctl(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "calicoctl {arguments}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What the reflector says about its neighbors.
    pub(crate) fn peers(&self) -> calico_control::Peers {
        self.with_client(async |client| client.peers().await.expect("peers"))
    }

    /// Asks the reflector without calicoctl.
    pub(crate) fn with_client<T>(
        &self,
        ask: impl AsyncFnOnce(&mut calico_control::Client) -> T,
    ) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = calico_control::Client::connect(&self.socket()).await;
            ask(&mut client.expect("connect")).await
        })
    }

    /// Waits until so many sessions of the reflector are up.
    pub(crate) fn until_established(&self, wanted: usize) {
        self.until(&format!("{wanted} sessions are up"), |lab| {
            let peers = lab.peers().peers;
            peers.iter().filter(|peer| peer.state == "Established").count() == wanted
        });
    }

    /// Waits until something holds; tells all that is known if it never does.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < PATIENCE, "never happened: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a page of the reflector's metrics says: status line and body.
    pub(crate) fn page(&self, address: SocketAddr, path: &str) -> (String, String) {
        let namespace = format!("/run/netns/{}", self.namespace(0));
        let request = format!("GET {path} HTTP/1.1\r\nHost: rr\r\nConnection: close\r\n\r\n");
        let answer = std::thread::spawn(move || {
            let namespace = fs::File::open(namespace).expect("open the namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
            stream.write_all(request.as_bytes()).expect("ask");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("read");
            answer
        });
        let answer = answer.join().expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut names: Vec<PathBuf> = fs::read_dir(self.directory.path())
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|e| e == "log"))
                .collect();
            names.sort();
            for name in names {
                let text = fs::read_to_string(&name).unwrap_or_default();
                eprintln!("--- {}:\n{text}", name.display());
            }
        }
        let children = self.routers.iter_mut().flatten().chain(&mut self.reflector);
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for n in 0..=self.routers.len() {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(n)]).status();
        }
    }
}

/// The client that was built with this program.
pub(crate) fn calicoctl_of_the_workspace() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_calico-rr")).with_file_name("calicoctl");
    assert!(program.is_file(), "calicoctl is not built; run `cargo build --workspace`");
    program
}

fn require(program: &str, package: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).exists()))
        || Path::new("/usr/sbin").join(program).exists();
    assert!(
        found,
        "`{program}` is not installed: install {package}, or set CALICO_SKIP_PRIVILEGED=1"
    );
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("run ip");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", args.join(" "));
}
