//! What is refused, what is warned of, and what stays in force meanwhile.

mod support;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use calico_core::resource::AnyResource;
use calico_policy::{Graph, Input, Object, Rejected};
use support::{NODE, Rig, explain, inputs, outcome};

/// The problem that a statement is refused for; what comes after `...` is somebody else's text.
fn refused(statement: &str, problem: &str) {
    let mut graph = Graph::for_node(NODE);
    let [input]: [Input; 1] = inputs(statement).try_into().expect("one statement");
    let error = graph.handle(input).expect_err(statement);
    let Rejected::Invalid { errors, .. } = &error else { panic!("{error}") };
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let found = errors.join("; ");
    match problem.strip_suffix("...") {
        Some(start) => assert!(found.starts_with(start), "{statement}: {found}"),
        None => assert_eq!(found, problem, "{statement}"),
    }
    assert_eq!(graph.stats(), Graph::for_node(NODE).stats(), "nothing has changed");
}

#[test]
fn nonsense_is_refused_with_its_place() {
    refused("np a/p {selector: \"app = 'x'\"}", "spec.selector: column 5: expected ...");
    refused(
        "np a/p {ingress: [{action: Deny}, {action: Allow, source: {notSelector: '&&'}}]}",
        "spec.ingress[1].source.notSelector: column 1: expected ...",
    );
    refused(
        "gnp p {egress: [{action: Allow, destination: {ports: [80]}}]}",
        "spec.egress[0].destination.ports: port 80 needs protocol TCP, UDP or SCTP in the rule",
    );
    refused(
        "profile p {egress: [{action: Allow, protocol: 47, destination: {notPorts: [http]}}]}",
        "spec.egress[0].destination.notPorts: port http needs protocol TCP, UDP or SCTP in the rule",
    );
    refused(
        "gnp p {egress: [{action: Allow, ipVersion: 5, icmp: {code: 1}}]}",
        "spec.egress[0].ipVersion: is 5; write 4 or 6; \
         spec.egress[0].icmp: needs protocol ICMP or ICMPv6 in the same rule; \
         spec.egress[0].icmp: has a code but no type; add the type",
    );
    refused(
        "gnp p {egress: [{action: Allow, ipVersion: 6, protocol: ICMP}]}",
        "spec.egress[0].ipVersion: is IPv6, which the rule's protocol does not exist in",
    );
    refused(
        "pod a/a-name-too-long-for-linux 10.0.0.1",
        "spec.interfaceName: must have 1 to 15 bytes",
    );
}

#[test]
fn the_last_good_version_stays_in_force() {
    let mut rig = Rig::of(&inputs(
        "
        ns a
        pod a/x 10.0.0.1
        np a/p {ingress: [{action: Allow, protocol: TCP}]}
        ",
    ));
    let bad = inputs("np a/p {ingress: [{action: Allow, source: {selector: '('}}]}");
    for input in bad {
        let error = rig.graph.handle(input).unwrap_err().to_string();
        let start = "/calico/resources/v3/projectcalico.org/networkpolicies/a/p was refused, \
                     its last good version stays in force: spec.ingress[0].source.selector: ";
        assert!(error.starts_with(start), "{error}");
    }
    assert_eq!(rig.flush(), []);
    let found = outcome(&explain(&rig.desired, "9.9.9.9 -> a/x tcp/1"));
    assert_eq!(found, "allowed by NetworkPolicy a/p ingress rule 0");
}

#[test]
fn what_is_not_enforced_is_warned_of_once() {
    let mut rig = Rig::of(&inputs("np a/p {egress: [{action: Allow, http: {methods: [GET]}}]}"));
    let warnings: Vec<String> = rig.graph.take_warnings().iter().map(|w| w.to_string()).collect();
    assert_eq!(
        warnings,
        ["/calico/resources/v3/projectcalico.org/networkpolicies/a/p: spec.egress[0].http: \
          not enforced: only addresses, protocol and ports are looked at"]
    );
    assert!(rig.graph.take_warnings().is_empty());
}

#[test]
fn services_that_cannot_be_meant_are_refused() {
    for (policy, expected) in [
        (
            "gnp p {egress: [{action: Allow, destination: {services: {name: dns}}}]}",
            "spec.egress[0].destination.services.namespace: required in a policy of the whole cluster",
        ),
        (
            "np a/p {ingress: [{action: Allow, source: {services: {namespace: b}}}]}",
            "spec.ingress[0].source.services.name: required",
        ),
        (
            "np a/p {egress: [{action: Allow, protocol: TCP,
                destination: {services: {name: dns}, ports: [1]}}]}",
            "spec.egress[0].destination.ports: cannot be combined with services",
        ),
    ] {
        let mut rig = Rig::of(&[]);
        let input = inputs(policy).remove(0);
        let error = rig.graph.handle(input).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(rig.flush(), []);
    }
}

fn entry(path: &str, value: &str) -> Entry {
    Entry { key: path.parse().expect("a path"), value: value.into(), revision: Revision(1) }
}

const WEPS: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints";

#[test]
fn stored_objects_are_read_and_others_passed_over() {
    let mut rig = Rig::of(&[]);
    let endpoint = r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3",
        "metadata":{"name":"x","namespace":"a","labels":{"app":"x"}},
        "spec":{"node":"n1","interfaceName":"cali1","ipNetworks":["10.0.0.1/32"],"novel":1}}"#;
    rig.graph.handle_entry(&entry(&format!("{WEPS}/a/x"), endpoint)).unwrap();
    rig.graph.handle_entry(&entry(&format!("{WEPS}/a/y"), endpoint)).unwrap();
    let staged = "/calico/resources/v3/projectcalico.org/stagednetworkpolicies/a/s";
    let spec = r#"{"spec":{"ingress":[{"action":"Deny"}]}}"#;
    rig.graph.handle_entry(&entry(staged, spec)).unwrap();
    rig.graph.handle_entry(&entry("/calico/ipam/v2/handle/h", "not even JSON")).unwrap();
    rig.flush();
    let names: Vec<String> = rig.desired.endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a/x", "a/y"], "the key counts, not the name in the text");
    assert!(rig.desired.rules.is_empty());

    let bad = entry(&format!("{WEPS}/a/x"), r#"{"spec":{"ipNetworks":["10.0.0.300"]}}"#);
    let error = rig.graph.handle_entry(&bad).unwrap_err().to_string();
    assert!(error.contains("a/x holds a malformed object: spec.ipNetworks[0]: "), "{error}");
    assert_eq!(rig.flush(), []);

    let gone: Key = format!("{WEPS}/a/x").parse().unwrap();
    rig.graph.handle_gone(&gone);
    rig.graph.handle_gone(&gone);
    rig.flush();
    assert_eq!(rig.desired.endpoints.len(), 1);
}

#[test]
fn an_explanation_says_why_each_rule_did_not_match() {
    let rig = Rig::of(&inputs(
        "
        pod a/x 10.0.0.1 app=x !
        pod a/y 10.0.0.2 !projectcalico-default-allow
        np a/p {selector: has(app), order: 1, ingress: [
            {action: Log, protocol: TCP},
            {action: Allow, protocol: UDP},
            {action: Allow, ipVersion: 6},
            {action: Allow, protocol: TCP, destination: {ports: [443, '8000:8010']}},
            {action: Allow, source: {nets: [192.0.2.0/24]}},
            {action: Allow, notProtocol: TCP}]}
        gnp g {selector: has(app), ingress: [{action: Pass}]}
        ",
    ));
    let found = explain(&rig.desired, "a/y -> a/x tcp/80").to_string();
    let expected = "\
10.0.0.2 -> 10.0.0.1 TCP/80: denied
egress:
  profiles
    Profile projectcalico-default-allow egress rule 0: Allow, matches
  => allowed by Profile projectcalico-default-allow egress rule 0
ingress:
  tier default
    NetworkPolicy a/p ingress rule 0: Log, matches
    NetworkPolicy a/p ingress rule 1: Allow, no match: protocol wants UDP, the packet has TCP
    NetworkPolicy a/p ingress rule 2: Allow, no match: ipVersion wants IPv6, the packet has IPv4
    NetworkPolicy a/p ingress rule 3: Allow, no match: destination.ports wants 443, 8000:8010, the packet has 80
    NetworkPolicy a/p ingress rule 4: Allow, no match: source.nets wants 192.0.2.0/24, the packet has 10.0.0.2
    NetworkPolicy a/p ingress rule 5: Allow, no match: notProtocol wants anything but TCP, the packet has TCP
    GlobalNetworkPolicy g ingress rule 0: Pass, matches
  profiles
    nothing matched: Deny
  => denied by default: no profile allowed it
";
    assert_eq!(found, expected);
}

#[test]
fn sets_are_explained_by_their_selectors() {
    let mut rig = Rig::of(&inputs(
        "
        pod a/x 10.0.0.1 app=x @http=tcp:8080 !
        gnp g {selector: has(app), ingress: [
            {action: Allow, source: {selector: \"app == 'y'\"}},
            {action: Allow, source: {notSelector: \"app != 'y'\"}},
            {action: Allow, protocol: TCP, destination: {selector: has(app), ports: [http, 22]}}]}
        ",
    ));
    let flow = "10.0.0.1 -> a/x tcp/80";
    let wanted = |rig: &Rig| {
        let explanation = explain(&rig.desired, flow);
        let json = serde_json::to_value(&explanation).expect("plain data");
        let steps = json["ingress"]["steps"].as_array().cloned().unwrap_or_default();
        let texts = steps.iter().filter_map(|step| step["rule"]["mismatch"]["wanted"].as_str());
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(wanted(&rig)[0].starts_with("a member of s:"), "{:?}", wanted(&rig));
    rig.desired = rig.graph.desired();
    assert_eq!(
        wanted(&rig),
        [r#"app == "y""#, r#"anything but app != "y""#, "22, http/TCP of has(app)"],
    );
}

#[test]
fn resources_of_manifests_are_typed() {
    let text = r#"{"kind": "Tier", "metadata": {"name": "t"}, "spec": {"order": 5}}"#;
    let any: AnyResource = serde_json::from_str(text).expect("a resource");
    let object = Object::from_resource(&any).expect("a tier").expect("tiers have a say");
    assert_eq!(object.key().to_string(), "/calico/resources/v3/projectcalico.org/tiers/t");
    let text = r#"{"kind": "BGPPeer", "metadata": {"name": "p"}, "spec": {}}"#;
    let any: AnyResource = serde_json::from_str(text).expect("a resource");
    assert_eq!(Object::from_resource(&any), Ok(None));
    let mut graph = Graph::for_node("n1");
    assert_eq!(graph.handle_resource(&any), Ok(()));

    let text = r#"{"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"order": "x"}}"#;
    let any: AnyResource = serde_json::from_str(text).expect("a resource");
    let refused = graph.handle_resource(&any).expect_err("an order is a number").to_string();
    assert!(refused.contains("/default/p was refused"), "{refused}");
}

#[test]
fn every_endpoint_is_local_to_a_graph_without_a_node() {
    let mut graph = Graph::for_every_node();
    for input in inputs("pod a/x 10.0.0.1 node=n1\npod a/y 10.0.0.2 node=n2") {
        graph.handle(input).unwrap();
    }
    assert_eq!(graph.stats().local_endpoints, 2);
}
