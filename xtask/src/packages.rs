//! Debian packages that the demo and the tests use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::run::{Failure, Step};

/// What the demo runs: BIRD as a router, `ip`, `ping`, and Debian's `portmap` plugin.
pub(crate) const DEMO: &[&str] =
    &["bird2", "containernetworking-plugins", "iproute2", "iptables", "iputils-ping", "nftables"];

/// What a demo runs besides whose datastore is etcd.
pub(crate) const DEMO_ETCD: &[&str] = &["etcd-server"];

/// What the tests run besides: two container runtimes, what their containers hold, etcd, a name
/// server, the BGP daemons of docs/bgp-interop.md, and a virtual machine.
pub(crate) const TEST: &[&str] = &[
    "bird2",
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "dnsmasq-base",
    "etcd-client",
    "etcd-server",
    "exabgp",
    "frr",
    "gobgpd",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "nftables",
    "openbgpd",
    "podman",
    "qemu-system-x86",
    "runc",
    "strace",
    "xz-utils",
];

/// What firewalld runs with.
pub(crate) const FIREWALLD: &[&str] = &["dbus", "python3-dbus", "python3-gi"];

/// firewalld and its own libraries: never installed, as they would take over this machine's firewall.
const FIREWALLD_ITSELF: [&str; 3] = ["firewalld", "python3-firewall", "python3-nftables"];

/// Asked by Debian's maintainer scripts whether a daemon may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `wanted` that are missing. The daemons among them (BIRD, containerd, ...)
/// are not started: they belong in namespaces of the lab, not on this host.
pub(crate) fn install(wanted: &[&str]) -> Result<(), Failure> {
    if std::env::var_os("CALICO_SKIP_INSTALL").is_some() {
        return Ok(());
    }
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Failure::check(format!(
            "this is no Debian or Ubuntu (no apt-get). Install what holds these yourself: {}; \
             then set CALICO_SKIP_INSTALL=1",
            missing.join(" ")
        )));
    }
    let _no_daemons = NoDaemons::ask();
    apt_get("packages: refresh lists").arg("update").run()?;
    apt_get("packages: install")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing)
        .run()
}

/// Unpacks firewalld into this directory.
pub(crate) fn unpack_firewalld(directory: &Path) -> Result<(), Failure> {
    let io = |error| Failure::io("make", directory, &error);
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(io)?;
    }
    fs::create_dir_all(directory).map_err(io)?;
    apt_get("packages: refresh lists").arg("update").run()?;
    let script = "cd \"$0\" && apt-get --quiet download \"$@\" && for package in *.deb; do \
                  dpkg-deb --extract \"$package\" . || exit; done";
    Step::new("packages: unpack firewalld", "sh")
        .args(["-c", script])
        .arg(directory)
        .args(FIREWALLD_ITSELF)
        .deadline(Duration::from_secs(300))
        .run()
}

fn apt_get(title: &'static str) -> Step {
    Step::new(title, "apt-get")
        .arg("--quiet")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .deadline(Duration::from_secs(600))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Names its maker, so that one that an interrupted installation left is taken for ours.
const NO_DAEMONS: &str =
    "#!/bin/sh\n# cargo xtask: no daemon starts during this installation\nexit 101\n";

/// While it lives, packages do not start their daemons.
struct NoDaemons {
    ours: bool,
}

impl NoDaemons {
    /// Leaves a policy that the host already has as it is. A policy that cannot be written is
    /// no reason to stop: the daemons then start as on any installation.
    fn ask() -> Self {
        let path = Path::new(POLICY);
        let ours = fs::read(path)
            .map_or_else(|_| !path.exists(), |text| text == NO_DAEMONS.as_bytes())
            && fs::write(path, NO_DAEMONS).is_ok()
            && fs::set_permissions(path, fs::Permissions::from_mode(0o755)).is_ok();
        Self { ours }
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(POLICY).is_err() {
            eprintln!("xtask: could not remove {POLICY}; remove it by hand");
        }
    }
}
