//! Other firewalls on a node, beside the agent's table: what they drop is dropped whatever policy
//! says, what they accept still meets policy, and their reloads cost nothing.
//!
//! Rules are written as Docker, ufw and firewalld write theirs. firewalld itself runs in
//! `cargo xtask firewalld`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
#[path = "firewalls/firewalld.rs"]
mod firewalld;

use std::net::{IpAddr, SocketAddr};

use calico_lab::topology::Topology;
use calico_lab::{Lab, probe};
use common::continuity::Stream;
use common::inside::{assert_undisturbed, nft, nft_file, own_table, run};
use common::traffic::{SILENCE, answers, programmed};
use common::{assert_gone, lab_name, turn};

const TOPOLOGY: &str = r#"
nodes:
  - { name: node1, addresses: [172.30.0.11/24, "fd30::11/64"] }
  - { name: node2, addresses: [172.30.0.12/24, "fd30::12/64"] }
pools:
  - { name: pods-v4, cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true }
  - { name: pods-v6, cidr: "fd00:244::/64", blockSize: 122 }
pods:
  - { name: client, node: node1, labels: { role: client } }
  - { name: near, node: node1, labels: { role: near }, tcp: [80] }
  - { name: web, node: node2, labels: { role: web }, tcp: [80, 8080] }
"#;

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - { action: Allow, protocol: TCP, source: { selector: role == 'client' }, destination: { ports: [80] } }
  - { action: Allow, protocol: ICMP }
";

/// Docker's daemon makes FORWARD drop, and leaves a chain for others' rules.
const DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
";

/// ufw denies what comes in, but for what is related to something, and what a rule names.
const UFW: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-user-input - [0:0]
:ufw-user-forward - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -j ufw-user-input
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j ufw-user-forward
-A ufw-user-input -p tcp --dport 179 -j ACCEPT
-A ufw-user-forward -s POOL -j ACCEPT
-A ufw-user-forward -d POOL -j ACCEPT
COMMIT
";

/// What `/etc/nftables.conf` of Debian is like: it begins by removing everything.
const NFTABLES_CONF: &str = "flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; }
    chain forward { type filter hook forward priority filter; policy accept; accept; }
    chain output { type filter hook output priority filter; }
}
";

#[tokio::test]
async fn other_firewalls_drop_but_do_not_open() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("firewalls");
    let lab = up(&name).await;
    lab.apply_text(POLICY).await.unwrap();
    programmed(&lab, "node2", "web").await;
    policy_holds(&lab).await;
    let own = own_table(&lab, "node2");

    docker(&lab).await;
    // By now everything passes that policy allows: from here on no packet may be lost.
    let web = addresses(&lab)[0].to_string();
    let pings = Stream::start(&lab, "client", &web);
    for _ in 0..2 {
        load_tables(&lab, UFW);
        policy_holds(&lab).await;
    }
    for _ in 0..2 {
        on_both(&lab, |node| nft_file(&lab, node, NFTABLES_CONF));
        policy_holds(&lab).await;
    }
    assert_eq!(pings.lost(), 0, "packets were lost");
    assert_eq!(own_table(&lab, "node2"), own, "our table");
    assert_undisturbed(&lab);
    let others = nft(&lab, "node2", &["list", "tables"]);
    assert!(!others.contains("table ip filter"), "flushed: {others}");
    lab.remove().unwrap();
    assert_gone(&name);
}

async fn up(name: &str) -> Lab {
    let text = format!("name: {name}\n{TOPOLOGY}");
    Lab::up(Topology::parse("firewalls.yaml", &text).unwrap(), &text).await.unwrap()
}

/// What its FORWARD drops is dropped, until it is told of the pods.
async fn docker(lab: &Lab) {
    load_tables(lab, DOCKER);
    let client = lab.pod("client").unwrap().namespace();
    let (web, near) = (addresses(lab), near(lab));
    for address in [web[0], web[1], near] {
        let to: SocketAddr = (address, 80).into();
        assert!(!probe::tcp(client, to, SILENCE).await.unwrap().is_answered(), "{to}");
    }
    on_both(lab, |node| {
        for (program, pool) in [("iptables", "10.244.0.0/16"), ("ip6tables", "fd00:244::/64")] {
            for side in ["-s", "-d"] {
                let words = [program, "-I", "DOCKER-USER", side, pool, "-j", "ACCEPT"];
                run(lab, node, &words, "").unwrap();
            }
        }
    });
    policy_holds(lab).await;
    answers(client, (near, 80).into(), "near").await;
}

/// What policy allows passes, and what it denies does not, whatever another table accepts.
async fn policy_holds(lab: &Lab) {
    let client = lab.pod("client").unwrap().namespace();
    let near = lab.pod("near").unwrap().namespace();
    for address in addresses(lab) {
        answers(client, (address, 80).into(), "web").await;
        for (from, port) in [(client, 8080), (near, 80)] {
            let to: SocketAddr = (address, port).into();
            let outcome = probe::tcp(from, to, SILENCE / 2).await.unwrap();
            assert!(!outcome.is_answered(), "{from} to {to}: {outcome}");
        }
    }
}

fn addresses(lab: &Lab) -> [IpAddr; 2] {
    common::traffic::addresses(lab, "web")
}

fn near(lab: &Lab) -> IpAddr {
    lab.pod("near").unwrap().address(false).unwrap()
}

fn on_both(lab: &Lab, work: impl Fn(&str)) {
    lab.topology().nodes.iter().for_each(|node| work(&node.name));
}

/// As a start of the firewall does: all of its tables anew, for both families.
fn load_tables(lab: &Lab, tables: &str) {
    on_both(lab, |node| {
        for (program, pool) in
            [("iptables-restore", "10.244.0.0/16"), ("ip6tables-restore", "fd00:244::/64")]
        {
            let mut tables = tables.replace("POOL", pool);
            if program.starts_with("ip6") {
                tables = tables.replace("172.17.0.0/16", "fd17::/64");
                // Neighbours are found by packets that belong to no connection.
                let neighbours = ":ufw-user-forward - [0:0]\n-A INPUT -p ipv6-icmp -j ACCEPT\n";
                tables = tables.replace(":ufw-user-forward - [0:0]\n", neighbours);
            }
            let loaded = run(lab, node, &[program], &tables);
            loaded.unwrap_or_else(|error| panic!("{program}: {error}"));
        }
    });
}
