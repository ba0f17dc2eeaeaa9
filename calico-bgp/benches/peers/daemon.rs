//! The daemons under test, each as a route reflector for passive internal clients.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// AS of the daemon and of all its clients.
pub(crate) const AS: u32 = 64512;
/// Address of the daemon.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Longest time until a daemon listens.
const START: Duration = Duration::from_secs(30);

/// Address of a client, from 0.
pub(crate) fn client(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 1)) + u32::try_from(n).unwrap())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Daemon {
    Ours,
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
}

/// A running daemon; dropping it ends it.
pub(crate) struct Running {
    child: Child,
    _dir: TempDir,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // OpenBGPD has children that end with their parent only if it is asked.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) const ALL: [Self; 5] =
        [Self::Ours, Self::Bird, Self::Frr, Self::GoBgp, Self::OpenBgpd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::GoBgp => "gobgp",
            Self::OpenBgpd => "openbgpd",
        }
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, clients: usize) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        fs::write(&file, self.configuration(clients, dir.path())).unwrap();
        // OpenBGPD insists.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = self.command(&file, dir.path(), clients);
        command.stdin(Stdio::null());
        if std::env::var_os("BENCH_OUTPUT").is_none() {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child =
            command.spawn().unwrap_or_else(|e| panic!("{}: {e}; is it installed?", self.name()));
        let mut running = Running { child, _dir: dir };
        let until = Instant::now() + START;
        while TcpStream::connect((ADDRESS, 179)).is_err() {
            assert!(Instant::now() < until, "{} does not listen", self.name());
            assert!(matches!(running.child.try_wait(), Ok(None)), "{} ended", self.name());
            std::thread::sleep(Duration::from_millis(50));
        }
        // Sessions of OpenBGPD leave Idle only a while after it listens.
        let settle = if self == Self::OpenBgpd { 5000 } else { 500 };
        std::thread::sleep(Duration::from_millis(settle));
        running
    }

    /// Pause between the last session and the first route.
    pub(crate) fn quiet_time(self) -> Duration {
        match self {
            // It holds back what it tells new peers for up to ten seconds, so that they can be
            // told together.
            Self::Frr => Duration::from_secs(11),
            _ => Duration::from_secs(1),
        }
    }

    fn command(self, file: &Path, dir: &Path, clients: usize) -> Command {
        let mut command = match self {
            Self::Ours => Command::new(std::env::current_exe().unwrap()),
            Self::Bird => Command::new("/usr/sbin/bird"),
            Self::Frr => Command::new("/usr/lib/frr/bgpd"),
            Self::GoBgp => Command::new("/usr/bin/gobgpd"),
            Self::OpenBgpd => Command::new("/usr/sbin/bgpd"),
        };
        let _ = match self {
            Self::Ours => command.args([super::speaker::ROLE, &clients.to_string()]),
            Self::Bird => command.arg("-f").arg("-c").arg(file).arg("-s").arg(dir.join("ctl")),
            Self::Frr => command
                .arg("-f")
                .arg(file)
                .arg("-i")
                .arg(dir.join("pid"))
                .arg("--vty_socket")
                .arg(dir)
                .arg("-z")
                .arg(dir.join("zserv"))
                .args(["-Z", "-S", "-P", "0", "-l", "10.0.0.1"]),
            Self::GoBgp => command
                .args(["--log-level", "error", "--pprof-disable", "--api-hosts"])
                .arg(format!("unix://{}", dir.join("api").display()))
                .arg("-f")
                .arg(file),
            Self::OpenBgpd => {
                // Its package leaves it to systemd to make the directory it locks itself into.
                fs::create_dir_all("/run/openbgpd").unwrap();
                command.arg("-d").arg("-f").arg(file)
            }
        };
        command
    }

    fn configuration(self, clients: usize, dir: &Path) -> String {
        let mut out = String::new();
        let all = (0..clients).map(client);
        match self {
            Self::Ours => {}
            Self::Bird => {
                out += "log stderr { error, fatal };\nrouter id 10.0.0.1;\n";
                out += "protocol device {}\nprotocol direct { ipv4; }\n";
                out += "template bgp C { local 10.0.0.1 as 64512; passive; rr client; multihop;\n";
                out += " hold time 180; ipv4 { import all; export all; }; }\n";
                for (n, a) in all.enumerate() {
                    let _ = writeln!(out, "protocol bgp c{n} from C {{ neighbor {a} as {AS}; }}");
                }
            }
            Self::Frr => {
                out += "router bgp 64512\n bgp router-id 10.0.0.1\n neighbor C peer-group\n";
                out += " neighbor C remote-as 64512\n neighbor C passive\n";
                out += " neighbor C timers 60 180\n neighbor C advertisement-interval 0\n";
                for a in all {
                    let _ = writeln!(out, " neighbor {a} peer-group C");
                }
                out += " address-family ipv4 unicast\n  neighbor C route-reflector-client\n";
                out += " exit-address-family\n";
            }
            Self::GoBgp => {
                out += "[global.config]\nas = 64512\nrouter-id = \"10.0.0.1\"\nport = 179\n";
                out += "local-address-list = [\"10.0.0.1\"]\n";
                for a in all {
                    let _ = write!(
                        out,
                        "[[neighbors]]\n[neighbors.config]\npeer-as = {AS}\n\
                         neighbor-address = \"{a}\"\n[neighbors.transport.config]\n\
                         passive-mode = true\n[neighbors.route-reflector.config]\n\
                         route-reflector-client = true\n\
                         route-reflector-cluster-id = \"10.0.0.1\"\n\
                         [neighbors.timers.config]\nhold-time = 180\n"
                    );
                }
            }
            Self::OpenBgpd => {
                let socket = dir.join("ctl");
                let _ = writeln!(out, "AS {AS}\nrouter-id 10.0.0.1\nfib-update no");
                let _ = writeln!(out, "listen on 10.0.0.1\nsocket \"{}\"", socket.display());
                out += "group \"C\" {\n remote-as 64512\n route-reflector 10.0.0.1\n passive\n";
                out += " holdtime 180\n announce IPv4 unicast\n";
                for a in all {
                    let _ = writeln!(out, " neighbor {a}");
                }
                out += "}\nallow from any\nallow to any\n";
            }
        }
        out
    }
}
