//! Fresh network namespaces for tests (feature `testing`). Never the host's own network.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};

use crate::link;
use crate::netns::{self, Netns};
use crate::rtnl::Connection;

const PREFIX: &str = "cr-test-";

/// A fresh namespace with its loopback up; removed on drop.
///
/// Its name is `cr-test-<pid>-<n>-<label>`. Making one also removes those of processes that have
/// died.
#[derive(Debug)]
pub struct TestNet {
    name: String,
    netns: Netns,
}

impl TestNet {
    /// Makes one, or returns `None` if privileged tests are to be skipped
    /// (`CALICO_SKIP_PRIVILEGED=1`), saying so.
    ///
    /// # Panics
    ///
    /// Without root, or if the kernel refuses: such a test must fail, not pass unseen.
    #[must_use]
    pub fn new(label: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
            println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1): {label} needs network namespaces");
            return None;
        }
        assert!(
            geteuid().is_root(),
            "this test makes network namespaces: run it as root, or set CALICO_SKIP_PRIVILEGED=1"
        );
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        let netns = netns::create_named(&name).expect("a fresh network namespace");
        netns
            .run(|| link::set_up(&mut Connection::open()?, "lo"))
            .expect("entering a fresh namespace")
            .expect("its loopback goes up");
        Some(Self { name, netns })
    }

    /// Its name, for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Runs work inside, on a thread of its own.
    ///
    /// # Panics
    ///
    /// If the work panics, or the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).expect("entering a test namespace")
    }

    /// Runs a program inside and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it cannot be started; the message names the program to install.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Output {
        self.run(|| {
            Command::new(program).args(arguments).output().unwrap_or_else(|error| {
                panic!("this test needs the program {program}, please install it: {error}")
            })
        })
    }

    /// Like [`command`](Self::command), for programs that must succeed: returns their output.
    ///
    /// # Panics
    ///
    /// If the program fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} {arguments:?} failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Whether one ping gets an answer within `seconds`.
    ///
    /// # Panics
    ///
    /// Without the program `ping` (Debian package iputils-ping).
    pub fn pings(&self, target: std::net::IpAddr, seconds: u32) -> bool {
        let (target, seconds) = (target.to_string(), seconds.to_string());
        self.command("ping", &["-n", "-c", "1", "-W", &seconds, &target]).status.success()
    }
}

impl Drop for TestNet {
    fn drop(&mut self) {
        if let Err(error) = netns::remove_named(&self.name) {
            eprintln!("{error}");
        }
    }
}

/// Removes the namespaces of test processes that have died.
fn sweep() {
    for name in netns::list_named().unwrap_or_default() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(pid) = owner.and_then(|pid| pid.parse().ok()) else { continue };
        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            // Another test process may sweep at the same time.
            drop(netns::remove_named(&name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_net_is_another_one_and_vanishes() {
        let Some(net) = TestNet::new("itself") else { return };
        assert!(!net.netns().is_same(&Netns::current().unwrap()).unwrap());
        let name = net.name().to_owned();
        assert!(netns::list_named().unwrap().contains(&name));
        drop(net);
        assert!(!netns::list_named().unwrap().contains(&name));
    }

    #[test]
    fn leftovers_of_dead_processes_are_swept() {
        let Some(_net) = TestNet::new("sweeper") else { return };
        // Process numbers end at 4194304 (PID_MAX_LIMIT), so this one is dead.
        let name = format!("{PREFIX}4194999-0-dead");
        netns::create_named(&name).unwrap();
        let _second = TestNet::new("sweeper");
        assert!(!netns::list_named().unwrap().contains(&name));
    }
}
