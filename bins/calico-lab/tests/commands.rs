//! `up`, `exec`, `list`, `down` and `check`, as a user types them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{Scratch, assert_gone, lab_name, topology, turn};

fn calico_lab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calico-lab")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_lab_stays_until_it_is_taken_down() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("up");
    let scratch = Scratch::new(&name);
    let file = scratch.0.join("lab.yaml");
    fs::write(&file, topology("mesh.yaml", &name).1).unwrap();
    let up = stdout(&calico_lab(&["up", file.to_str().unwrap()]));
    assert!(up.contains("default/web on node2: 10.244.") && up.contains("is up"), "{up}");

    // The builder has ended, and the lab is no leftover.
    stdout(&calico_lab(&["clean"]));
    assert!(stdout(&calico_lab(&["list"])).contains(&format!("{name}: up")));

    let exec = |member: &str, command: &[&str]| {
        let args = ["exec", "--lab", &name, member, "--"];
        calico_lab(&[&args[..], command].concat())
    };
    let routes = stdout(&exec("node1", &["ip", "route"]));
    assert!(routes.contains("blackhole 10.244."), "{routes}");
    let address = up.lines().find_map(|line| line.strip_prefix("default/web on node2: ")).unwrap();
    let address = address.split(' ').next().unwrap();
    for pod in ["client", "default/client"] {
        let ping = stdout(&exec(pod, &["ping", "-n", "-c", "1", "-W", "3", address]));
        assert!(ping.contains(" 0% packet loss"), "{ping}");
    }
    assert_eq!(exec("node1", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    let unknown = String::from_utf8(exec("node9", &["true"]).stderr).unwrap();
    assert!(unknown.contains("no member node9") && unknown.contains("node1"), "{unknown}");

    assert!(stdout(&calico_lab(&["down", &name])).contains(&format!("removed lab {name}: ")));
    assert_gone(&name);
    let again = calico_lab(&["down", &name]);
    assert!(!again.status.success());
    assert!(String::from_utf8(again.stderr).unwrap().contains("there is no lab"));
}

#[test]
fn a_bad_topology_is_refused_with_all_its_faults() {
    let scratch = Scratch::new(&lab_name("check"));
    let file = scratch.0.join("bad.yaml");
    fs::write(
        &file,
        "name: bad\nnodes: [{ name: node1, addresses: [10.0.0.0/8] }]\n\
         pods: [{ name: a, node: node2 }]\n",
    )
    .unwrap();
    let output = calico_lab(&["check", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for fault in ["nodes[0].addresses", "pools: pods need", "pods[0].node: there is no node"] {
        assert!(text.contains(fault), "{fault}: {text}");
    }
    let output = calico_lab(&["check", "rr"]);
    assert!(stdout(&output).contains("rr: sound; 3 nodes, 3 pods, 1 reflectors, 0 routers"));
}
