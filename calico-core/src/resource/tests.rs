//! Reading and writing of resources.

use serde_json::{Value, json};

use super::*;
use crate::datastore::{Entry, Revision};

fn check(value: Value, expected: Result<(), &[&str]>) {
    let result = AnyResource::from_value(value.clone(), Mode::Strict);
    match (result, expected) {
        (Ok(resource), Ok(())) => {
            let again = resource.normalised().unwrap();
            assert_eq!(again.to_value(), value, "written as read");
        }
        (Err(errors), Err(expected)) => {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{value}");
        }
        (result, _) => panic!("{value}: {result:?}"),
    }
}

fn document(kind: &str, spec: Value) -> Value {
    json!({
        "kind": kind, "apiVersion": API_VERSION,
        "metadata": {"name": "one", "labels": {"a": "b"}},
        "spec": spec,
    })
}

#[test]
fn a_resource_knows_its_place_in_a_datastore() {
    let policy = NetworkPolicy::namespaced("prod", "db", NetworkPolicySpec::default());
    let path = "/calico/resources/v3/projectcalico.org/networkpolicies/prod/db";
    assert_eq!(policy.key().to_string(), path);
    let any = AnyResource::from(policy.clone());
    assert_eq!((any.key(), any.to_json()), (policy.key(), policy.to_json()));
    let tier = Tier::new("default", TierSpec::default());
    assert_eq!(tier.key(), Key::resource(Kind::Tier, None, "default"));

    let entry = Entry { key: policy.key(), value: policy.to_json(), revision: Revision(1) };
    assert_eq!(entry.decode::<NetworkPolicy>(), Ok(policy));
}

#[test]
fn strict_reading_reports_everything_at_once() {
    check(
        document("IPPool", json!({"cidr": "10.0.0.0/16", "natOutgoing": true, "blockSize": 26})),
        Ok(()),
    );
    check(
        document("IPPool", json!({"cidr": "10.0.0.0", "natOutgoin": true, "ipipMode": "always"})),
        Err(&[
            "spec.cidr: the text \"10.0.0.0\" is no CIDR, such as 10.0.0.0/16 or fd00::/64",
            "spec.natOutgoin: unknown field; did you mean `natOutgoing`?",
            "spec.ipipMode: \"always\" is not one of Never, Always, CrossSubnet",
        ]),
    );
    check(document("IPPool", json!({})), Err(&["spec.cidr: required, but missing"]));
    check(
        document("IPpool", json!({})),
        Err(&["kind: \"IPpool\" is no kind of projectcalico.org/v3; did you mean IPPool?"]),
    );
    check(
        document(
            "NetworkPolicy",
            json!({
                "order": 10, "ingress": [{
                    "action": "Allow", "protocol": "TCP",
                    "source": {"nets": ["10.0.0.0/8"]}, "destination": {"ports": [80, "90:100", "http"]},
                }],
            }),
        ),
        Ok(()),
    );
    check(
        document("NetworkPolicy", json!({"ingress": [{"action": "Allow", "source": {"net": []}}]})),
        Err(&["spec.ingress[0].source.net: unknown field; did you mean `nets`?"]),
    );
    check(document("FelixConfiguration", json!({"bpfLogLevel": "Info"})), Ok(()));
}

#[test]
fn tolerant_reading_keeps_what_it_does_not_know() {
    let value = json!({
        "kind": "Tier", "apiVersion": API_VERSION,
        "metadata": {"name": "one", "future": 1},
        "spec": {"order": 1.5, "colour": {"a": [1]}},
        "extra": true,
    });
    let tier: Tier = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(tier.spec.order, Some(1.5));
    assert_eq!(serde_json::to_value(&tier).unwrap(), value);
}

#[test]
fn tolerant_errors_name_the_place() {
    let value = document("NetworkPolicy", json!({"ingress": [{"action": "Alow"}]}));
    let error = serde_json::from_value::<NetworkPolicy>(value).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spec.ingress[0].action: \"Alow\" is not one of Allow, Deny, Log, Pass"
    );
}

#[test]
fn empty_text_of_optional_words_means_unset() {
    let spec = json!({"cidr": "10.0.0.0/16", "ipipMode": ""});
    let pool = AnyResource::from_value(document("IPPool", spec), Mode::Strict).unwrap();
    assert_eq!(pool.typed::<IpPoolSpec>().unwrap().spec.ipip_mode, None);
    let node = json!({"bgp": {"ipv4Address": "", "ipv6Address": "fd00::1/64"}});
    let node: Node = serde_json::from_value(document("Node", node)).unwrap();
    assert_eq!((node.spec.ipv4(), node.spec.ipv6()), (None, "fd00::1".parse().ok()));
}

fn check_defaults(kind: &str, spec: Value, expected: Value) {
    let mut resource = AnyResource::from_value(document(kind, spec), Mode::Strict).unwrap();
    resource.apply_defaults().unwrap();
    assert_eq!(resource.fields["spec"], expected, "{kind}");
    let once = resource.clone();
    resource.apply_defaults().unwrap();
    assert_eq!(resource, once, "defaults change nothing the second time");
}

#[test]
fn defaults() {
    let pool = |cidr: &str, size: u8| {
        json!({"cidr": cidr, "vxlanMode": "Never", "ipipMode": "Never", "blockSize": size,
               "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
               "assignmentMode": "Automatic"})
    };
    check_defaults("IPPool", json!({"cidr": "10.0.0.0/16"}), pool("10.0.0.0/16", 26));
    check_defaults("IPPool", json!({"cidr": "fd00::/64"}), pool("fd00::/64", 122));
    let rule = json!([{"action": "Allow", "source": {}, "destination": {}}]);
    for kind in ["NetworkPolicy", "GlobalNetworkPolicy"] {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"ingress": rule}), json!(["Ingress"])),
            (json!({"egress": rule}), json!(["Egress"])),
            (json!({"ingress": rule, "egress": rule}), json!(["Ingress", "Egress"])),
            (json!({"egress": rule, "types": ["Ingress"]}), json!(["Ingress"])),
        ] {
            let mut expected = json!({"tier": "default"});
            let fields = expected.as_object_mut().unwrap();
            fields.extend(spec.as_object().unwrap().clone());
            fields.insert("types".to_owned(), types);
            check_defaults(kind, spec, expected);
        }
    }
    check_defaults("Tier", json!({"order": 7}), json!({"order": 7, "defaultAction": "Deny"}));
    check_defaults(
        "IPAMConfiguration",
        json!({}),
        json!({"strictAffinity": false, "autoAllocateBlocks": true,
               "kubeVirtVMAddressPersistence": "Enabled"}),
    );
    check_defaults(
        "StagedKubernetesNetworkPolicy",
        json!({"egress": [{}]}),
        json!({"stagedAction": "Set", "egress": [{}], "policyTypes": ["Ingress", "Egress"]}),
    );
}

#[test]
fn slices_say_where_a_service_is() {
    let slice: KubernetesEndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-x", "namespace": "prod",
            "labels": {"kubernetes.io/service-name": "web"}},
        "spec": {
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1", "db.example.org"], "nodeName": "n1"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            ],
            "ports": [{"port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}, {}],
        },
    }))
    .unwrap();
    assert_eq!(slice.service(), Some("web"));
    let ready: Vec<bool> = slice.spec.endpoints.iter().map(SliceEndpoint::is_ready).collect();
    assert_eq!(ready, [true, false]);
    let ip = |last| std::net::IpAddr::from([10, 0, 0, last]);
    assert_eq!(slice.addresses().collect::<Vec<_>>(), [ip(1), ip(2)]);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let expected = [(ip(1), tcp, 80), (ip(1), udp, 53), (ip(2), tcp, 80), (ip(2), udp, 53)];
    assert_eq!(slice.addresses_and_ports().collect::<Vec<_>>(), expected);

    let service = |spec| -> KubernetesServiceSpec { serde_json::from_value(spec).unwrap() };
    let both = service(json!({"clusterIP": "10.9.0.1", "clusterIPs": ["10.9.0.1", "fd00::1"]}));
    assert_eq!(both.cluster_addresses().count(), 2);
    assert_eq!(service(json!({"clusterIP": "10.9.0.1"})).cluster_addresses().count(), 1);
    assert_eq!(service(json!({"clusterIP": "None"})).cluster_addresses().count(), 0);
}

#[test]
fn endpoints_and_profiles_bring_their_labels() {
    let mut endpoint = WorkloadEndpoint::namespaced(
        "blue",
        "n-k8s-p-eth0",
        WorkloadEndpointSpec {
            orchestrator: "k8s".to_owned(),
            service_account_name: "robot".to_owned(),
            ..WorkloadEndpointSpec::default()
        },
    );
    endpoint.metadata = endpoint.metadata.with_label("app", "web").with_label("pcns.team", "x");
    let labels: Vec<(String, String)> = endpoint.selector_labels().into_iter().collect();
    let expected = [
        ("app", "web"),
        ("projectcalico.org/namespace", "blue"),
        ("projectcalico.org/orchestrator", "k8s"),
        ("projectcalico.org/serviceaccount", "robot"),
    ];
    assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));

    let team = std::collections::BTreeMap::from([("team".to_owned(), "x".to_owned())]);
    let profile = Profile::for_namespace("blue", &team);
    assert_eq!(profile.name(), "kns.blue");
    assert_eq!(profile.spec.labels_to_apply["pcns.team"], "x");
    assert_eq!(profile.spec.labels_to_apply["pcns.projectcalico.org/name"], "blue");
    let profile = Profile::for_service_account("blue", "robot", &team);
    assert_eq!(profile.name(), "ksa.blue.robot");
    assert_eq!(profile.spec.labels_to_apply["pcsa.projectcalico.org/name"], "robot");
    assert!(profile.spec.ingress.is_empty());
    assert!(Profile::default_allow().spec.ingress[0].matches_everything());
}

proptest::proptest! {
    /// Whatever a document looks like: no panic, and what strict reading accepts is stable.
    #[test]
    fn documents_never_panic(kind in 0..Kind::ALL.len(), spec in values()) {
        let value = document(Kind::ALL[kind].as_str(), spec);
        for mode in [Mode::Strict, Mode::Tolerant] {
            let Ok(resource) = AnyResource::from_value(value.clone(), mode) else { continue };
            let _ = resource.validate();
            if let Ok(once) = resource.normalised() {
                proptest::prop_assert_eq!(once.normalised(), Ok(once));
            }
        }
    }
}

/// JSON whose field names and words are often those of the model.
fn values() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let words = [
        "all()",
        "Always",
        "Allow",
        "10.0.0.0/8",
        "fd00::1",
        "TCP",
        "1:2",
        "",
        "90s",
        "x",
        "has(a)",
    ];
    let keys = [
        "cidr",
        "ingress",
        "egress",
        "action",
        "source",
        "ports",
        "nets",
        "selector",
        "order",
        "bgp",
        "ipv4Address",
        "http",
        "paths",
        "exact",
        "importV4",
        "communities",
        "values",
        "foo",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let key = proptest::sample::select(keys.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
