//! Two network namespaces joined by a cable: our speakers in one, the daemon in the other.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// What is wanted within this time happens, or the test fails. Generous: daemons have timers of
/// their own, up to the hold time of 90 seconds, and machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

static COUNTER: AtomicU32 = AtomicU32::new(0);
/// `ip netns add` on a fresh machine makes a mount that must not be made twice.
static ADDING: Mutex<()> = Mutex::new(());

/// Where a daemon lives.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) directory: PathBuf,
}

impl Place {
    /// A file of the daemon's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file's name as text, for configurations.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command in the daemon's namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).stdin(Stdio::null());
        command
    }

    /// What a command in the daemon's namespace prints, errors included.
    pub(crate) fn ask(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().expect("run ip");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Ends every process in the daemon's namespace at once, as a crash does.
    pub(crate) fn kill_all(&self) {
        use nix::sys::signal::{Signal, kill};
        let start = Instant::now();
        loop {
            let output = Command::new("ip").args(["netns", "pids", &self.namespace]).output();
            let pids = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            let pids: Vec<i32> =
                pids.unwrap_or_default().lines().filter_map(|l| l.trim().parse().ok()).collect();
            // A process that is dead but not waited for has left its namespace.
            if pids.is_empty() || start.elapsed() > PATIENCE {
                return;
            }
            for pid in pids {
                // It may have ended by itself.
                let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A counter of the kernel's TCP in the daemon's namespace, as `TCPMD5Failure`.
    pub(crate) fn tcp_counter(&self, name: &str) -> u64 {
        counter(&self.ask("cat", &["/proc/net/netstat"]), name)
    }
}

/// A counter of the kernel's TCP in our namespace.
pub(crate) fn tcp_counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("read counters");
    counter(&text, name)
}

fn counter(netstat: &str, name: &str) -> u64 {
    let mut lines = netstat.lines().filter(|l| l.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let at = names.split_whitespace().position(|n| n == name);
    let at = at.unwrap_or_else(|| panic!("the kernel does not count {name}"));
    values.split_whitespace().nth(at).and_then(|v| v.parse().ok()).expect("a number")
}

/// The two namespaces. Everything goes when it is dropped.
pub(crate) struct Lab {
    ours: String,
    pub(crate) place: Place,
    _directory: tempfile::TempDir,
}

impl Lab {
    /// Builds the namespaces and enters ours with this thread. The daemon is 10.9.0.2 and
    /// fd09::2, our speakers are 1, 3 and 4 of the same subnets.
    pub(crate) fn enter() -> Self {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("cr-test-{}-i{n}{side}", std::process::id());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = Place { namespace: name("b"), directory: directory.path().to_owned() };
        let lab = Self { ours: name("a"), place, _directory: directory };
        let (a, b) = (lab.ours.as_str(), lab.place.namespace.as_str());
        {
            let _one = ADDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            ip(&["netns", "add", a]);
            ip(&["netns", "add", b]);
        }
        ip(&["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b]);
        for (ns, number) in [(a, 1), (a, 3), (a, 4), (b, 2)] {
            let (v4, v6) = (format!("{}/24", v4(number)), format!("{}/64", v6(number)));
            ip(&["-n", ns, "addr", "add", &v4, "dev", "eth0"]);
            ip(&["-n", ns, "addr", "add", &v6, "dev", "eth0", "nodad"]);
        }
        for ns in [a, b] {
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
        }
        let file = fs::File::open(format!("/run/netns/{a}")).expect("open the namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.place.path("log")).unwrap_or_default();
            let tail = log.char_indices().rev().nth(8000).map_or(0, |(at, _)| at);
            eprintln!("--- end of the daemon's log:\n{}---", &log[tail..]);
        }
        self.place.kill_all();
        for ns in [&self.ours, &self.place.namespace] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// IPv4 address of a participant.
pub(crate) fn v4(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n])
}

/// IPv6 address of a participant.
pub(crate) fn v6(n: u8) -> IpAddr {
    IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(n)])
}

/// Tries until it works; says what it saw last if it never does.
pub(crate) async fn eventually<T>(
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(seen) => {
                assert!(start.elapsed() < PATIENCE, "never happened: {what}; last seen:\n{seen}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("run ip");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", args.join(" "));
}
