//! Which flows a change of policy touches.

mod support;

use calico_policy::desired::Desired;
use calico_policy::diff::{Change, diff};
use calico_policy::eval::Packet;
use support::{Rig, inputs};

/// Compares the scenario with itself and `change` after it.
fn check(scenario: &str, change: &str, expected: &str) {
    let (before, after) = states(scenario, change);
    let changes = diff(&before, &after);
    let found: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let lines = |text: &str| {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(lines(&found.join("\n")), lines(expected));
    check_promise(&before, &after, &changes);
}

fn states(scenario: &str, change: &str) -> (Desired, Desired) {
    let mut rig = Rig::of(&inputs(scenario));
    let before = rig.desired.clone();
    inputs(change).iter().for_each(|input| rig.handle(input));
    rig.flush();
    (before, rig.desired)
}

/// A flow between two workloads changes if, and only if, the diff says so. What a workload sends to
/// itself meets no policy.
fn check_promise(before: &Desired, after: &Desired, changes: &[Change]) {
    for from in before.endpoints.values() {
        for to in before.endpoints.values().filter(|to| to.id != from.id) {
            for port in [1, 52, 53, 54, 80, 81, 443, 5432, 65535] {
                let (source, destination) = (from.addresses[0].addr(), to.addresses[0].addr());
                let packet = Packet::to_port(source, destination, 6, port);
                let of = |state: &Desired| {
                    state.explain(Some(&from.id), Some(&to.id), &packet).is_allowed()
                };
                let told = changes.iter().any(|change| {
                    let has = |ends: &[calico_policy::diff::End], id: &_| {
                        ends.iter().any(|end| end.to_string() == format!("{id}"))
                    };
                    let in_ports = change.traffic.iter().any(|traffic| {
                        let text = traffic.to_string();
                        let Some(ports) = text.strip_prefix("TCP") else { return false };
                        let (first, last) = match ports.trim().split_once('-') {
                            Some((first, last)) => (first.to_owned(), last.to_owned()),
                            None if ports.is_empty() => ("1".into(), "65535".into()),
                            None => (ports.trim().to_owned(), ports.trim().to_owned()),
                        };
                        let number = |text: String| text.parse::<u16>().expect("a port");
                        (number(first)..=number(last)).contains(&port)
                    });
                    has(&change.from, &from.id) && has(&change.to, &to.id) && in_ports
                });
                assert_eq!(of(before) != of(after), told, "{packet}");
            }
        }
    }
}

const CLUSTER: &str = "
    ns prod
    ns test
    pod prod/web 10.0.0.1 app=web
    pod prod/web2 10.0.0.2 app=web
    pod prod/db 10.0.0.3 app=db @sql=tcp:5432
    pod test/tool 10.0.1.1
";

#[test]
fn nothing_changes_without_a_change() {
    check(CLUSTER, "ns prod", "");
    check(CLUSTER, "np prod/idle {selector: \"app == 'nobody'\", ingress: [{action: Deny}]}", "");
}

#[test]
fn alike_flows_are_told_together() {
    check(
        CLUSTER,
        // Workloads may not send VXLAN, neither before nor after.
        "np prod/db {selector: \"app == 'db'\", ingress: [{action: Allow, protocol: TCP,
            source: {selector: \"app == 'web'\"}, destination: {ports: [sql]}}]}",
        "
        prod/web, prod/web2 -> prod/db: TCP 1-5431, TCP 5433-65535, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        test/tool -> prod/db: TCP, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        elsewhere (IPv4) -> prod/db: TCP, UDP, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        ",
    );
}

#[test]
fn networks_outside_and_new_allowances() {
    check(
        &format!(
            "{CLUSTER}
            gnetset ext 203.0.113.0/24 zone=ext
            np prod/out {{selector: \"app == 'db'\", egress: [{{action: Deny}}]}}"
        ),
        "np prod/out {selector: \"app == 'db'\", egress: [{action: Allow, protocol: UDP,
            destination: {selector: \"zone == 'ext'\", namespaceSelector: global(), ports: [53]}}]}",
        "
        prod/db -> 203.0.113.0/24: UDP 53
        denied by NetworkPolicy prod/out egress rule 0
        now allowed by NetworkPolicy prod/out egress rule 0
        ",
    );
}
