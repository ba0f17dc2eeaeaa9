//! Host endpoints where translation of addresses and connection tracking matter, which the
//! differential test leaves out.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use calico_core::dataplane::{
    Failsafe, HostEndpoint, HostInterface, HostSettings, Verdict, VerdictCause,
};

use super::lab::{Host, forward, ip, nft};
use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A host behind `up0`, which it is to be protected from.
fn outside() -> Host {
    forward();
    let outside = Host::new();
    outside.cable("up0", "eth0");
    ip(&format!("addr add {OWN}/24 dev up0"));
    outside.ip(&format!("addr add {PEER}/24 dev eth0"));
    outside.ip(&format!("route add 10.65.0.0/16 via {OWN}"));
    outside
}

fn host_endpoint(interface: HostInterface) -> HostEndpoint {
    HostEndpoint {
        name: "h".into(),
        interface,
        local: Vec::new(),
        forward: Vec::new(),
        pre_dnat: Vec::new(),
        untracked: Vec::new(),
        profiles: vec!["open".into()],
    }
}

fn up0() -> HostEndpoint {
    host_endpoint(HostInterface::Named("up0".into()))
}

fn tier(ingress: &[&str], egress: &[&str]) -> Vec<TierPolicies> {
    vec![TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        ingress: ingress.iter().map(|name| policy(name)).collect(),
        egress: egress.iter().map(|name| policy(name)).collect(),
    }]
}

fn no_failsafe() -> Update {
    let (failsafe_inbound, failsafe_outbound) = (Vec::new(), Vec::new());
    Update::Host(HostSettings { failsafe_inbound, failsafe_outbound, ..HostSettings::default() })
}

fn connects(to: Ipv4Addr, port: u16) -> bool {
    let to = std::net::SocketAddr::new(IpAddr::V4(to), port);
    std::net::TcpStream::connect_timeout(&to, super::lab::PATIENCE).is_ok()
}

fn tracked(needle: &str) -> usize {
    let output = std::process::Command::new("conntrack").args(["-L", "-f", "ipv4"]).output();
    let output = output.expect("conntrack is the oracle: apt-get install conntrack");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(needle)).count()
}

#[test]
fn pre_dnat_policy_sees_the_destination_that_the_sender_chose() {
    in_new_netns(async || {
        let outside = outside();
        let pod = Pod::new(1);
        let _server = pod.host.listen(pod.v4, 8080);
        // A node port, as kube-proxy makes it.
        nft(&["add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority -100; };
            add rule ip proxy pre tcp dport { 30080, 30081 } dnat to 10.65.0.1:8080"]);
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let rules: &[RuleSpec<'_>] = &[(Action::Deny, &|rule| {
            rule.protocol = Some(6);
            rule.destination.ports = ports(30081, 30081);
        })];
        let endpoint = HostEndpoint { pre_dnat: tier(&["pre"], &[]), ..up0() };
        let pod_endpoint = Update::Endpoint(endpoint_of(&pod));
        let updates = vec![
            open_profile(),
            ingress_policy("pre", rules),
            pod_endpoint,
            no_failsafe(),
            Update::HostEndpoint(endpoint),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        assert!(outside.connects(OWN.into(), 30080), "no rule matches it");
        assert!(outside.connects(pod.v4, 8080));
        assert!(!outside.connects(OWN.into(), 30081));
        let event = next(&mut verdicts).await;
        assert_eq!((event.verdict, event.direction), (Verdict::Denied, Direction::Ingress));
        assert_eq!(&*event.interface, "up0", "{event:?}");
        assert_eq!(event.flow.destination_port, Some(30081));
        assert!(matches!(&event.cause, VerdictCause::Rule(id) if id.index == 0), "{event:?}");
    });
}

fn endpoint_of(pod: &Pod) -> WorkloadEndpoint {
    endpoint(pod, &[], &[])
}

#[test]
fn egress_of_the_host_is_judged_by_the_translated_destination() {
    in_new_netns(async || {
        let outside = outside();
        let _server = outside.listen(PEER.into(), 8080);
        nft(&["add table ip proxy; add chain ip proxy out { type nat hook output priority -100; };
            add rule ip proxy out ip daddr 198.51.100.9 tcp dport { 80, 81 } dnat to 192.0.2.2:8080"]);
        // Only up0 leads there, translated or not.
        ip("route add 198.51.100.0/24 via 192.0.2.2");
        let dataplane = open().await;
        let endpoint = |port: u16| {
            let owner = RuleOwner::Policy(policy("out"));
            let mut allow = rule(&owner, Direction::Egress, 0, Action::Allow);
            allow.protocol = Some(6);
            allow.destination.ports = ports(port, port);
            let rules = RuleSet { ingress: Vec::new(), egress: vec![allow] };
            [
                Update::Rules { owner, rules },
                Update::HostEndpoint(HostEndpoint { local: tier(&[], &["out"]), ..up0() }),
            ]
        };
        let mut updates = vec![open_profile(), no_failsafe(), Update::InSync];
        updates.extend(endpoint(8080));
        apply(&dataplane, updates).await;
        assert!(connects([198, 51, 100, 9].into(), 80));
        assert!(connects(PEER, 8080));
        apply(&dataplane, endpoint(80).into()).await;
        assert!(!connects([198, 51, 100, 9].into(), 81), "its destination is port 8080");
    });
}

#[test]
fn untracked_policy_lets_both_ways_through_without_connection_tracking() {
    in_new_netns(async || {
        let outside = outside();
        let dataplane = open().await;
        let owner = RuleOwner::Policy(policy("dns"));
        let allow = |direction, source: bool| {
            let mut allow = rule(&owner, direction, 0, Action::Allow);
            allow.protocol = Some(6);
            let side = if source { &mut allow.source } else { &mut allow.destination };
            side.ports = ports(5353, 5353);
            vec![allow]
        };
        let rules = RuleSet {
            ingress: allow(Direction::Ingress, false),
            egress: allow(Direction::Egress, true),
        };
        // Nothing but the untracked policy lets anything in.
        let endpoint =
            HostEndpoint { untracked: tier(&["dns"], &["dns"]), profiles: Vec::new(), ..up0() };
        let updates = vec![
            Update::Rules { owner: owner.clone(), rules },
            no_failsafe(),
            Update::HostEndpoint(endpoint),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        let _servers = [5353, 5354].map(|port| std::net::TcpListener::bind((OWN, port)).unwrap());
        assert!(outside.connects(OWN.into(), 5353));
        assert_eq!(tracked("port=5353"), 0);
        assert!(!outside.connects(OWN.into(), 5354));
    });
}

#[test]
fn an_endpoint_without_a_name_follows_its_address_and_failsafe_ports_stay_open() {
    in_new_netns(async || {
        let outside = outside();
        let dataplane = open().await;
        let other = IpAddr::from([192, 0, 2, 10]);
        let endpoint = HostEndpoint {
            profiles: Vec::new(),
            ..host_endpoint(HostInterface::Addressed(vec![other]))
        };
        let settings = HostSettings {
            failsafe_inbound: vec![Failsafe { protocol: 6, port: 22, net: None }],
            ..HostSettings::default()
        };
        let updates = vec![Update::Host(settings), Update::HostEndpoint(endpoint), Update::InSync];
        apply(&dataplane, updates).await;
        let [_ssh, web] = [22, 80].map(|port| std::net::TcpListener::bind((OWN, port)).unwrap());
        // A queue of connections that nobody takes would fill up.
        let connects = || outside.connects(OWN.into(), 80) && web.accept().is_ok();
        assert!(connects(), "no interface has the address");
        ip("addr add 192.0.2.10/32 dev up0");
        let started = Instant::now();
        while connects() {
            assert!(started.elapsed() < Duration::from_secs(20), "the address is not noticed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(outside.connects(OWN.into(), 22));
        let up0 = crate::dataplane::Exclusion::new(|name| name == "up0");
        dataplane.exclude_interfaces(up0).await.unwrap();
        assert!(connects(), "the interface is passed over");
        dataplane.exclude_interfaces(<_>::default()).await.unwrap();
        assert!(!connects());
        apply(&dataplane, vec![Update::HostEndpointRemoved("h".into())]).await;
        assert!(connects());
        let table = table().await.unwrap();
        assert!(!table.chains.contains_key("filter-OUTPUT"), "nothing of it is left");
    });
}
