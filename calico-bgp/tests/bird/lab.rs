//! Two network namespaces joined by a cable: this speaker in one, BIRD in the other.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// What is wanted within this time happens, or the test fails.
const PATIENCE: Duration = Duration::from_secs(25);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The two namespaces, and BIRD while it runs. Everything goes when it is dropped.
pub(crate) struct Lab {
    ours: String,
    theirs: String,
    directory: tempfile::TempDir,
    bird: Option<Child>,
}

impl Lab {
    /// Builds the namespaces: 10.9.0.1 and fd09::1 here, 10.9.0.2 and fd09::2 at BIRD's end.
    fn new() -> Self {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("cr-test-{}-{n}{side}", std::process::id());
        let lab = Self {
            ours: name("a"),
            theirs: name("b"),
            directory: tempfile::tempdir().expect("a temporary directory"),
            bird: None,
        };
        ip(&["netns", "add", &lab.ours]);
        ip(&["netns", "add", &lab.theirs]);
        let (a, b) = (lab.ours.as_str(), lab.theirs.as_str());
        ip(&["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b]);
        for (ns, v4, v6) in [(a, "10.9.0.1/24", "fd09::1/64"), (b, "10.9.0.2/24", "fd09::2/64")] {
            ip(&["-n", ns, "addr", "add", v4, "dev", "eth0"]);
            ip(&["-n", ns, "addr", "add", v6, "dev", "eth0", "nodad"]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
        }
        lab
    }

    /// Starts BIRD with a configuration; `recover` as after a crash (`-R`).
    pub(crate) fn start_bird(&mut self, config: &str, recover: bool) {
        assert!(self.bird.is_none(), "BIRD runs already");
        let (file, socket) = (self.path("bird.conf"), self.path("bird.ctl"));
        fs::write(&file, config).expect("write the configuration");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.theirs, "bird", "-f", "-c"]).arg(file);
        command.arg("-s").arg(&socket);
        if recover {
            command.arg("-R");
        }
        let log = fs::File::create(self.path("bird.log")).expect("create the log");
        let child = command.stderr(log).stdin(Stdio::null()).spawn().expect("start bird");
        self.bird = Some(child);
        let start = Instant::now();
        while !self.birdc("show status").contains("up and running") {
            let log = fs::read_to_string(self.path("bird.log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "BIRD does not come up: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends BIRD as a crash does.
    pub(crate) fn kill_bird(&mut self) {
        if let Some(mut bird) = self.bird.take() {
            // `ip netns exec` replaces itself with bird, so the child is bird itself.
            bird.kill().expect("kill bird");
            bird.wait().expect("wait for bird");
        }
    }

    /// What BIRD answers to a command.
    pub(crate) fn birdc(&self, command: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.path("bird.ctl"))
            .args(command.split_whitespace())
            .output()
            .expect("run birdc");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a shell command at BIRD's end.
    pub(crate) fn spawn_at_bird(&self, script: &str) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.theirs, "bash", "-c", script])
            .spawn()
            .expect("run a command")
    }

    /// Runs a shell command at BIRD's end.
    pub(crate) fn at_bird(&self, script: &str) {
        let status = self.spawn_at_bird(script).wait().expect("wait for the command");
        assert!(status.success(), "{script}: {status}");
    }

    /// Waits until BIRD's answer to a command pleases.
    pub(crate) async fn until_bird(
        &self,
        command: &str,
        what: &str,
        pleases: impl Fn(&str) -> bool,
    ) {
        eventually(what, async || {
            let answer = self.birdc(command);
            if pleases(&answer) { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    fn path(&self, name: &str) -> PathBuf {
        let directory: &Path = self.directory.path();
        directory.join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("bird.log")).unwrap_or_default();
            eprintln!("--- log of BIRD:\n{log}---");
        }
        if let Some(mut bird) = self.bird.take() {
            let _ = bird.kill();
            let _ = bird.wait();
        }
        for ns in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// Runs a test inside our namespace, on a thread of its own with a tokio runtime of its own.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|v| v == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1)");
        return;
    }
    require("bird", "the Debian package bird2");
    require("ip", "the Debian package iproute2");
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let thread = std::thread::spawn(move || {
        let lab = Lab::new();
        let ns = fs::File::open(format!("/run/netns/{}", lab.ours)).expect("open the namespace");
        setns(ns, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(lab));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tries until it works; says what it saw last if it never does.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(()) => return,
            Err(seen) => {
                assert!(start.elapsed() < PATIENCE, "never happened: {what}; last seen:\n{seen}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
