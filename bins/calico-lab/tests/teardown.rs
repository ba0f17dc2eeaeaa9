//! However a lab ends, nothing of it stays. The agents are stand-ins here, so that the lab can be
//! caught in the middle of coming up.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use common::{Scratch, assert_gone, eventually, host_links, lab_name, namespaces, turn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TOPOLOGY: &str = "
nodes:
  - { name: node1, addresses: [172.30.0.11/24, 'fd30::11/64'] }
  - { name: node2, addresses: [172.30.0.12/24, 'fd30::12/64'] }
";

/// Starts `calico-lab up` with this script in the place of calico-agent.
fn up(name: &str, agent: &str, scratch: &Scratch) -> Child {
    for program in ["calico-agent", "calicoctl"] {
        let path = scratch.0.join(program);
        fs::write(&path, format!("#!/bin/sh\n{agent}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let topology = scratch.0.join("lab.yaml");
    fs::write(&topology, format!("name: {name}\n{TOPOLOGY}")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_calico-lab"))
        .arg("up")
        .arg(topology)
        .env("CALICO_BIN_DIR", &scratch.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Until both stand-in agents run.
fn wait_for_agents(name: &str) {
    let directory = format!("/run/calico-lab/{name}/");
    eventually("two agents", || common::processes_with(&directory).len() >= 2);
}

#[test]
fn an_interrupt_removes_the_lab() {
    let Some(_turn) = turn() else { return };
    for (number, kind) in [(2, Signal::SIGINT), (15, Signal::SIGTERM), (1, Signal::SIGHUP)] {
        let name = lab_name(&format!("signal{number}"));
        let scratch = Scratch::new(&name);
        let links = host_links();
        let child = up(&name, "exec sleep 600 # $2", &scratch);
        eventually("three namespaces", || namespaces(&name).len() == 3);
        eventually("a running agent", || {
            calico_lab::record::Record::open(&name).is_ok()
                && fs::read_to_string(format!("/run/calico-lab/{name}/processes"))
                    .is_ok_and(|text| text.lines().count() == 2)
        });
        signal(&child, kind);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + number));
        assert_gone(&name);
        assert_eq!(host_links(), links, "the machine's own interfaces");
    }
}

#[test]
fn what_a_killed_lab_left_is_found_and_removed() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("killed");
    let scratch = Scratch::new(&name);
    // The stand-in keeps its command line, so that it can be looked for.
    let mut child = up(&name, "while :; do sleep 1; done", &scratch);
    wait_for_agents(&name);
    let lab = env!("CARGO_BIN_EXE_calico-lab");

    let output = Command::new(lab).arg("clean").output().unwrap();
    assert!(output.status.success());
    assert_eq!(namespaces(&name).len(), 3, "clean leaves a lab alone whose builder is at work");

    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert_eq!(namespaces(&name).len(), 3, "nobody removed it");
    for expected in [format!("removed lab {name}: "), String::new()] {
        let output = Command::new(lab).arg("clean").output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&expected), "{text}");
        assert_gone(&name);
    }
}

#[test]
fn a_lab_whose_directory_is_lost_is_removed_by_its_namespaces() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("lost");
    let scratch = Scratch::new(&name);
    let mut child = up(&name, "while :; do sleep 1; done", &scratch);
    wait_for_agents(&name);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    fs::remove_dir_all(format!("/run/calico-lab/{name}")).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_calico-lab")).args(["down", &name]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_gone(&name);
}

#[test]
fn an_agent_that_ends_is_named_with_its_last_words() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("ended");
    let scratch = Scratch::new(&name);
    let child = up(&name, "echo 'the datastore is on fire' >&2; exit 3", &scratch);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("calico-agent on node1 ended (exit status: 3)"), "{text}");
    assert!(text.contains("the datastore is on fire"), "{text}");
    assert_gone(&name);
}

#[test]
fn a_lab_in_use_is_not_built_twice() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("twice");
    let scratch = Scratch::new(&name);
    let first = up(&name, "while :; do sleep 1; done", &scratch);
    wait_for_agents(&name);
    let second = up(&name, "while :; do sleep 1; done", &scratch).wait_with_output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && text.contains("is up already"), "{text}");
    assert_eq!(namespaces(&name).len(), 3, "the first lab stays whole");
    signal(&first, Signal::SIGINT);
    first.wait_with_output().unwrap();
    assert_gone(&name);
}
