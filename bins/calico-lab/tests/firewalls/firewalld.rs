//! Debian's firewalld on the nodes of a lab, each with a bus of its own, unpacked where
//! `CALICO_FIREWALLD` says: it is not installed, as it would take over this machine's firewall.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use calico_lab::Lab;

use crate::common::continuity::Stream;
use crate::common::inside::{assert_undisturbed, own_table};
use crate::common::traffic::{ANSWER, answers, assert_pings, programmed};
use crate::common::{assert_gone, eventually, lab_name, turn};

/// A bus on which everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=PATH</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"#;

/// firewalld of a node; it ends with this.
struct Firewalld {
    packages: PathBuf,
    bus: PathBuf,
    programs: Vec<Child>,
}

impl Firewalld {
    fn start(lab: &Lab, node: &str, packages: &Path) -> Self {
        let dir = lab.run_dir(node).join("firewalld");
        fs::create_dir_all(&dir).unwrap();
        let bus = dir.join("bus");
        fs::write(dir.join("bus.conf"), BUS.replace("PATH", bus.to_str().unwrap())).unwrap();
        let mut daemon = Self { packages: packages.to_owned(), bus, programs: Vec::new() };
        let mut buses = daemon.mortal(lab, node, "dbus-daemon");
        buses.arg(format!("--config-file={}", dir.join("bus.conf").display())).arg("--nofork");
        daemon.programs.push(buses.spawn().unwrap());
        eventually("the bus is there", || daemon.bus.exists());
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(packages.join("etc/firewalld")).arg(dir.join("etc"));
        assert!(copy.status().unwrap().success());
        let log = File::create(dir.join("log")).unwrap();
        let mut firewalld = daemon.mortal(lab, node, "/usr/bin/python3");
        firewalld
            .arg(packages.join("usr/sbin/firewalld"))
            .args(["--nofork", "--nopid", "--log-target=console", "--system-config"])
            .arg(dir.join("etc"))
            .arg("--default-config")
            .arg(packages.join("usr/lib/firewalld"))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        daemon.programs.push(firewalld.spawn().unwrap());
        eventually("firewalld runs", || daemon.try_tell(&["--state"]).is_ok());
        daemon
    }

    fn mortal(&self, lab: &Lab, node: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &lab.namespace(node), "setpriv", "--pdeathsig", "KILL"])
            .arg(program)
            .stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.bus.display()))
            .env("PYTHONPATH", self.packages.join("usr/lib/python3/dist-packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
    }

    fn try_tell(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(self.packages.join("usr/bin/firewall-cmd")).args(words);
        self.environment(&mut command);
        let output = command.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said.into()) } else { Err(said.into()) }
    }

    /// As an operator does.
    fn tell(&self, words: &[&str]) {
        self.try_tell(words).unwrap_or_else(|error| panic!("firewall-cmd {words:?}: {error}"));
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            // It may have ended already.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// What docs/install.md tells operators.
const ALLOWED: [&[&str]; 9] = [
    &["--zone=trusted", "--add-source=10.244.0.0/16"],
    &["--zone=trusted", "--add-source=fd00:244::/64"],
    &["--zone=trusted", "--add-source=172.30.0.0/24"],
    &["--zone=trusted", "--add-source=fd30::/64"],
    &["--new-policy=to-pods"],
    &["--policy=to-pods", "--add-ingress-zone=ANY"],
    &["--policy=to-pods", "--add-egress-zone=trusted"],
    &["--policy=to-pods", "--set-target=ACCEPT"],
    &["--add-service=bgp"],
];

#[tokio::test]
#[ignore = "takes Debian's firewalld; run by cargo xtask firewalld"]
async fn firewalld_itself() {
    let Some(_turn) = turn() else { return };
    let packages = std::env::var_os("CALICO_FIREWALLD").expect("cargo xtask firewalld sets it");
    let name = lab_name("firewalld");
    let mut lab = super::up(&name).await;
    lab.apply_text(super::POLICY).await.unwrap();
    programmed(&lab, "node2", "web").await;
    let own = own_table(&lab, "node2");
    let daemons = ["node1", "node2"].map(|node| Firewalld::start(&lab, node, Path::new(&packages)));

    // Pods are in no zone, so the default zone's end refuses what is forwarded.
    let client = lab.pod("client").unwrap().namespace();
    let outcome = calico_lab::probe::tcp(client, (super::near(&lab), 80).into(), ANSWER).await;
    assert!(matches!(outcome.unwrap(), calico_lab::probe::Outcome::Refused(_)));
    for daemon in &daemons {
        ALLOWED.iter().for_each(|words| daemon.tell(&[&["--permanent"], *words].concat()));
        daemon.tell(&["--reload"]);
    }
    super::policy_holds(&lab).await;
    answers(client, (super::near(&lab), 80).into(), "near").await;
    for address in super::addresses(&lab).into_iter().filter(std::net::IpAddr::is_ipv4) {
        assert_pings(&lab.namespace("node1"), address).await;
    }
    let pings = Stream::start(&lab, "client", &super::addresses(&lab)[0].to_string());
    for daemon in &daemons {
        daemon.tell(&["--reload"]);
        daemon.tell(&["--complete-reload"]);
    }
    super::policy_holds(&lab).await;
    assert_eq!(pings.lost(), 0, "packets were lost");
    lab.wait_for_sessions().await.unwrap();
    assert_eq!(own_table(&lab, "node2"), own, "our table");
    assert_undisturbed(&lab);
    drop(daemons);
    lab.remove().unwrap();
    assert_gone(&name);
}
