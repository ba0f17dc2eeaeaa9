//! From an embedded datastore by way of others to another embedded one, with objects of every
//! kind: nothing is lost on the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::Kind;
use calico_core::key::{Key, Scope};
use calico_core::resource::schema::json_schema;
use calico_core::resource::{AnyResource, Mode};
use calico_datastore::conversion::ApiGroup;
use calico_ipam::{AssignRequest, Ipam, Options};
use calico_test_servers::cluster;
use common::Backend;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

/// Texts that are hard to write down, and texts that many types accept. None has a shorter
/// spelling.
const TEXTS: &[&str] = &[
    "a-name",
    "TCP",
    "10.0.0.0/24",
    "192.0.2.1",
    "30s",
    "Info",
    "all()",
    "fd00::/64",
    "2001:db8::1",
    "192.0.2.1/32",
    "2026-01-01T00:00:00Z",
    "64512:1",
    "app == 'web'",
    "===",
    "---",
    "- a: b",
    "it's \"so\"",
    "true",
    "null",
    "~",
    " space ",
    "tab\there",
    "two\nlines\n",
    "ünï → 🦀",
    "0x1F",
    "1e3",
    "# no comment",
    "{a: b}",
    "[x]",
    "*alias",
    "&anchor",
    "!tag",
    "%",
    "@",
    "a: b",
    "a #b",
    "\u{feff}bom",
    "\u{85}",
    "\\n",
    "...",
    "|",
    ">",
    "",
];

/// Small, seeded, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn text(&mut self) -> String {
        (*self.pick(TEXTS)).to_owned()
    }

    /// Whatever JSON holds.
    fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => self.text().into(),
            1 => json!([0, 1, -1, 1_700_000_000_000_000_001_i64][self.below(4)]),
            2 => json!([0.5, 1e21, -2.25][self.below(3)]),
            3 => json!(self.below(2) == 0),
            4 => (0..=self.below(2)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let pair = |chance: &mut Self| (chance.text(), chance.json(depth - 1));
                let pairs: Map<String, Value> = (0..=self.below(2)).map(|_| pair(self)).collect();
                pairs.into()
            }
        }
    }

    /// A value of a schema, more or less: [`fitted`] puts right what the schema does not say.
    fn value(&mut self, schema: &Value) -> Value {
        if let Some(only) = schema.get("const") {
            return only.clone();
        }
        if let Some(words) = schema["enum"].as_array() {
            let words: Vec<&Value> = words.iter().filter(|word| *word != "").collect();
            return (*self.pick(&words)).clone();
        }
        if schema.get("anyOf").is_some() {
            return if self.below(2) == 0 {
                json!(self.below(100) + 1)
            } else {
                self.text().into()
            };
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
        match kind {
            Some("string") => self.text().into(),
            Some("boolean") => json!(self.below(2) == 0),
            Some("number") => json!([0.5, 100.0, 1e6, -3.25][self.below(4)]),
            Some("integer") => {
                let least = schema["minimum"].as_u64().unwrap_or(0);
                json!(least + self.below(20) as u64)
            }
            Some("array") => {
                let count = self.below(3);
                (0..count).map(|_| self.value(&schema["items"])).collect()
            }
            Some("object") => self.object(schema),
            _ => self.json(2),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut out = Map::new();
        if let Some(properties) = schema["properties"].as_object() {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            for (name, schema) in properties {
                if required.contains(&json!(name)) || self.below(3) == 0 {
                    out.insert(name.clone(), self.value(schema));
                }
            }
        } else {
            for key in ["a", "projectcalico.org~b", "x y"] {
                if self.below(2) == 0 {
                    out.insert(key.to_owned(), self.value(&schema["additionalProperties"]));
                }
            }
        }
        out.into()
    }
}

/// A resource of `kind` that its type can hold, with fields that no type knows.
fn resource(kind: Kind, name: &str, chance: &mut Chance) -> AnyResource {
    let mut value = chance.value(&json_schema(kind));
    value["metadata"]["name"] = name.into();
    value["metadata"].as_object_mut().unwrap().shift_remove("namespace");
    value["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
    value["metadata"].as_object_mut().unwrap().shift_remove("selfLink");
    if kind.is_namespaced() {
        value["metadata"]["namespace"] = "prod".into();
    }
    let mut resource = fitted(value, chance);
    for place in ["spec", "status"] {
        if let Some(Value::Object(fields)) = resource.fields.get_mut(place) {
            fields.insert("zzLater".to_owned(), json!({"text": chance.text(), "n": 1}));
        }
    }
    resource.fields.insert("zzLater".to_owned(), chance.json(3));
    resource
}

/// Replaces what a type refuses, text by text, and at last takes it away.
fn fitted(mut value: Value, chance: &mut Chance) -> AnyResource {
    let mut tries: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..10_000 {
        let errors = match AnyResource::from_value(value.clone(), Mode::Strict) {
            Ok(resource) => return resource,
            Err(errors) => errors,
        };
        for error in errors {
            let tried = tries.entry(error.path.clone()).or_insert_with(|| chance.below(7));
            *tried += 1;
            let pointer = format!("/{}", error.path.replace(['.', '['], "/").replace(']', ""));
            match value.pointer_mut(&pointer) {
                Some(at) if *tried < TEXTS.len() + 7 && !at.is_object() => {
                    *at = TEXTS[*tried % TEXTS.len()].into();
                }
                found => {
                    let there = found.is_some();
                    let (parent, last) = pointer.rsplit_once('/').unwrap();
                    match value.pointer_mut(parent) {
                        Some(Value::Object(fields)) if there => drop(fields.shift_remove(last)),
                        Some(Value::Array(items)) if there => {
                            drop(items.remove(last.parse().unwrap()));
                        }
                        _ => panic!("{error} in {value:#}"),
                    }
                    // The other errors may be about places that have moved.
                    break;
                }
            }
        }
    }
    panic!("nothing fits: {value:#}");
}

/// The one spelling of what has several, without fields that mean the same as none.
fn compact(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().map(|(key, value)| (key.clone(), compact(value)));
            let empty = |value: &Value| {
                matches!(value, Value::Null | Value::Bool(false))
                    || value == ""
                    || value.as_f64() == Some(0.0)
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty)
            };
            kept.filter(|(_, value)| !empty(value)).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(compact).collect(),
        // A list of networks may hold an address, which is a network of one.
        Value::String(text) => match text.parse::<std::net::IpAddr>() {
            Ok(address) => ipnet::IpNet::from(address).to_string().into(),
            Err(_) => value.clone(),
        },
        Value::Number(number) => number.as_f64().map_or_else(
            || value.clone(),
            |n| match value {
                // 100.0 is written as 100.
                Value::Number(number) if number.is_f64() && n.fract() == 0.0 && n.abs() < 9e15 => {
                    json!(n as i64)
                }
                other => other.clone(),
            },
        ),
        other => other.clone(),
    }
}

/// What a store holds, by path.
fn contents(backend: &Backend) -> BTreeMap<String, Value> {
    backend.with_store(async |store| {
        let entries = store.list(&Scope::All).await.unwrap().entries;
        entries.iter().map(|entry| (entry.key.to_string(), entry.decode().unwrap())).collect()
    })
}

/// The kinds that a migration carries over.
fn migrated() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !kind.is_internal())
}

fn fill(backend: &Backend, chance: &mut Chance) {
    let mut resources = Vec::new();
    for kind in migrated() {
        for nth in 0..2 {
            if kind != Kind::ClusterInformation {
                resources.push(resource(kind, &format!("r{nth}"), chance));
            }
        }
    }
    let cluster = json!({"kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "default", "uid": "u"},
        "spec": {"clusterGUID": "g", "datastoreReady": true, "zzLater": chance.json(2)}});
    resources.push(AnyResource::from_value(cluster, Mode::Tolerant).unwrap());
    let pool = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "main"}, "spec": {"cidr": "10.65.0.0/16"}});
    resources.push(AnyResource::from_value(pool, Mode::Tolerant).unwrap());
    backend.with_store(async |store| {
        for resource in resources {
            // Every type gives back what it was given.
            let typed = resource.normalised().unwrap();
            assert_eq!(compact(&typed.to_value()), compact(&resource.to_value()));
            store.create(resource.key(), resource.to_json()).await.unwrap();
        }
        let ipam = Ipam::new(store.clone(), Options::default());
        for node in ["n1", "n2"] {
            let request = AssignRequest::new(node).handle(format!("net.{node}")).v4(2);
            ipam.auto_assign(request.attribute("pod", chance.text())).await.unwrap();
        }
        let config = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"zzLater":1}"#;
        store.create(Key::IpamConfig, config.into()).await.unwrap();
        store.create(Key::IpamHost("n1".into()), "{}".into()).await.unwrap();
    });
}

/// Carries everything from one datastore to another, with the program itself.
fn migrate(from: &Backend, to: &Backend) {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let exported = from.calicoctl(&words("datastore migrate export"), "");
    let error = String::from_utf8_lossy(&exported.stderr);
    assert!(exported.status.success(), "{error}");
    let file = to.dir.path().join("export");
    std::fs::write(&file, exported.stdout).unwrap();
    let line = format!("datastore migrate import -f {}", file.display());
    let imported = to.calicoctl(&words(&line), "");
    let error = String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success(), "{error}");
}

fn cases(count: u32, on_the_way: impl Fn() -> Vec<Backend>) {
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    let seeds = any::<u64>().no_shrink();
    let mut runner = TestRunner::new(config);
    runner
        .run(&seeds, |seed| {
            println!("seed {seed}");
            let first = Backend::embedded();
            fill(&first, &mut Chance(seed));
            let lock = ["datastore", "migrate", "lock"].map(str::to_owned);
            assert!(first.calicoctl(&lock, "").status.success());
            let expected = contents(&first);
            assert!(expected.len() > 2 * (migrated().count() - 1), "{}", expected.len());
            let mut last = first;
            for next in on_the_way().into_iter().chain([Backend::embedded()]) {
                migrate(&last, &next);
                last = next;
            }
            let found = contents(&last);
            for (path, value) in &expected {
                assert_eq!(found.get(path), Some(value), "{path}");
            }
            assert_eq!(found.len(), expected.len());
            Ok(())
        })
        .unwrap();
}

#[test]
fn by_way_of_memory() {
    cases(12, || vec![Backend::memory()]);
}

#[test]
fn by_way_of_etcd() {
    if !common::without_servers() {
        cases(4, || vec![Backend::etcd(), Backend::memory()]);
    }
}

/// Resources that custom resources can hold, with as many fields as go together.
fn samples() -> Vec<Value> {
    let rule = json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "a == 'b'",
        "notNets": ["10.1.0.0/16"]}, "destination": {"ports": [80, "8000:8080", "http"]},
        "metadata": {"annotations": {"note": "x"}}});
    let pass = json!({"action": "Pass", "source": {}, "destination": {"nets": ["10.0.0.0/8"]}});
    let filter = json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In",
        "prefixLength": {"min": 8, "max": 26}, "peerType": "eBGP"});
    let sample = |kind: &str, name: &str, spec: Value| {
        json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
            "spec": spec})
    };
    let of_namespace = |kind: &str, name: &str, spec: Value| {
        let mut sample = sample(kind, name, spec);
        sample["metadata"]["namespace"] = "prod".into();
        sample
    };
    let policy = json!({"tier": "security", "order": 1.5, "selector": "app == 'web'",
        "serviceAccountSelector": "role == 'x'", "types": ["Ingress", "Egress"],
        "ingress": [rule], "egress": [pass], "performanceHints": ["AssumeNeededOnEveryNode"]});
    let staged = |spec: &Value| {
        let mut spec = spec.clone();
        spec["stagedAction"] = "Set".into();
        spec
    };
    let mut global = policy.clone();
    global["namespaceSelector"] = "stage == 'live'".into();
    let kubernetes = json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}], "stagedAction": "Set"});
    let set = json!({"nets": ["10.1.0.0/16", "fd00::/64"]});
    vec![
        sample("Tier", "security", json!({"order": 5, "defaultAction": "Pass"})),
        sample(
            "IPPool",
            "main",
            json!({"cidr": "10.65.0.0/16", "blockSize": 26, "natOutgoing": true,
            "vxlanMode": "CrossSubnet", "ipipMode": "Never", "nodeSelector": "rack == '1'",
            "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Manual"}),
        ),
        sample("IPReservation", "r", json!({"reservedCIDRs": ["10.65.0.0/30"]})),
        sample(
            "BGPConfiguration",
            "default",
            json!({"asNumber": 64513, "listenPort": 1790,
            "nodeToNodeMeshEnabled": false, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "communities": [{"name": "c", "value": "64513:1"}],
            "prefixAdvertisements": [{"cidr": "10.65.0.0/16", "communities": ["c"]}]}),
        ),
        sample("BGPFilter", "f", json!({"exportV4": [filter], "importV4": [filter]})),
        sample(
            "BGPPeer",
            "p",
            json!({"peerIP": "192.0.2.1", "asNumber": 64514, "filters": ["f"],
            "nodeSelector": "rack == '1'", "maxRestartTime": "30s", "numAllowedLocalASNumbers": 1}),
        ),
        sample(
            "FelixConfiguration",
            "node.n1",
            json!({"logSeverityScreen": "Debug",
            "ipv6Support": false, "iptablesRefreshInterval": "1m30s", "bpfEnabled": true,
            "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}]}),
        ),
        sample(
            "HostEndpoint",
            "h",
            json!({"node": "n1", "interfaceName": "eth0",
            "expectedIPs": ["192.0.2.1"], "profiles": ["p"],
            "ports": [{"name": "ssh", "protocol": "TCP", "port": 22}]}),
        ),
        sample("GlobalNetworkSet", "s", set.clone()),
        of_namespace("NetworkSet", "s", set),
        sample(
            "KubeControllersConfiguration",
            "default",
            json!({"logSeverityScreen": "Info",
            "healthChecks": "Enabled", "controllers": {"node": {"reconcilerPeriod": "5m0s"}}}),
        ),
        sample(
            "CalicoNodeStatus",
            "n1",
            json!({"node": "n1", "classes": ["BGP", "Routes"],
            "updatePeriodSeconds": 10}),
        ),
        of_namespace("NetworkPolicy", "web", policy.clone()),
        sample("GlobalNetworkPolicy", "web", global.clone()),
        of_namespace("StagedNetworkPolicy", "web", staged(&policy)),
        sample("StagedGlobalNetworkPolicy", "web", staged(&global)),
        of_namespace("StagedKubernetesNetworkPolicy", "web", kubernetes),
        sample(
            "ClusterInformation",
            "default",
            json!({"clusterGUID": "g", "clusterType": "t",
            "calicoVersion": "v3.32.0", "datastoreReady": true}),
        ),
        sample(
            "Node",
            "n1",
            json!({"bgp": {"ipv4Address": "192.0.2.1/24", "asNumber": 64513,
            "routeReflectorClusterID": "1.0.0.1"}, "ipv4VXLANTunnelAddr": "10.65.0.1",
            "vxlanTunnelMACAddr": "66:00:00:00:00:01", "wireguard": {"interfaceIPv4Address": "10.65.0.2"},
            "interfaces": [{"name": "eth0", "addresses": ["192.0.2.1"]}]}),
        ),
    ]
}

/// Fields without which a sample is not valid.
const NEEDED: &[&str] = &[
    "cidr",
    "node",
    "interfaceName",
    "reservedCIDRs",
    "defaultAction",
    "order",
    "tier",
    "types",
    "clusterGUID",
    "datastoreReady",
    "communities",
    "peerIP",
    "asNumber",
    "controllers",
    "stagedAction",
    "podSelector",
];

/// Fills a datastore with some of every sample: fields, labels and annotations by chance.
fn fill_with_samples(backend: &Backend, chance: &mut Chance) {
    let mut resources = Vec::new();
    for mut sample in samples() {
        let whole = sample["spec"].clone();
        let spec = sample["spec"].as_object_mut().unwrap();
        spec.retain(|field, _| NEEDED.contains(&field.as_str()) || chance.below(3) > 0);
        let metadata = &mut sample["metadata"];
        metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        metadata["annotations"] = json!({"note": chance.text(), "x.org/y": chance.text()});
        let rack = ["r1", "", "R-2_x.y"][chance.below(3)];
        metadata["labels"] = json!({"rack": rack});
        let read = |sample: &Value| AnyResource::from_value(sample.clone(), Mode::Strict).unwrap();
        if read(&sample).validate().is_err() {
            // One of the fields needs another: then all of them.
            sample["spec"] = whole;
        }
        let resource = read(&sample);
        resource.validate().unwrap_or_else(|errors| panic!("{errors:?} in {sample:#}"));
        resources.push(resource);
    }
    backend.with_store(async |store| {
        for resource in resources {
            store.create(resource.key(), resource.to_json()).await.unwrap();
        }
        // The pool of the sample may be for others only.
        let pool = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "open"}, "spec": {"cidr": "10.66.0.0/16"}});
        let pool = AnyResource::from_value(pool, Mode::Strict).unwrap();
        store.create(pool.key(), pool.to_json()).await.unwrap();
        let ipam = Ipam::new(store.clone(), Options::default());
        for node in ["n1", "n2"] {
            let request = AssignRequest::new(node).handle(format!("net.{node}")).v4(2);
            ipam.auto_assign(request.attribute("pod", chance.text())).await.unwrap();
        }
        let config = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":7}"#;
        store.create(Key::IpamConfig, config.into()).await.unwrap();
    });
}

/// Whether everything that `expected` says, `found` says, too. Servers fill in defaults, and
/// Kubernetes gives its objects their own identity.
fn holds(path: &str, expected: &Value, found: &Value) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (field, value) in expected {
                if !matches!(field.as_str(), "uid" | "resourceVersion" | "creationTimestamp") {
                    let found = found.get(field).unwrap_or(&Value::Null);
                    holds(&format!("{path}.{field}"), value, found);
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) => {
            assert_eq!(expected.len(), found.len(), "{path}");
            for (expected, found) in expected.iter().zip(found) {
                holds(path, expected, found);
            }
        }
        (expected, found) => assert_eq!(expected, found, "{path}"),
    }
}

#[test]
fn by_way_of_etcd_and_kubernetes() {
    if common::without_servers() {
        return;
    }
    let cluster = Arc::new(cluster::Cluster::start(cluster::Etcd::Debian));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = json!({"metadata": {"name": "n1"}});
    runtime.block_on(cluster.must("POST", "/api/v1/nodes", node));
    let mut group = ApiGroup::ALL.into_iter().cycle();
    // Set seeds: what the API server accepts is more than these samples try to know.
    for seed in 1..=6 {
        let group = group.next().unwrap();
        println!("seed {seed} by way of {group}");
        let first = Backend::embedded();
        fill_with_samples(&first, &mut Chance(seed));
        let lock = ["datastore", "migrate", "lock"].map(str::to_owned);
        assert!(first.calicoctl(&lock, "").status.success());
        let expected = contents(&first);
        assert!(expected.len() > samples().len() + 5, "{}", expected.len());
        let mut last = first;
        for next in [Backend::etcd(), Backend::kubernetes(&cluster, group), Backend::embedded()] {
            migrate(&last, &next);
            last = next;
        }
        let found = contents(&last);
        for (path, value) in &expected {
            holds(path, &compact(value), &compact(found.get(path).unwrap_or(&Value::Null)));
        }
        // For the next case.
        Backend::kubernetes(&cluster, group).with_store(async |store| {
            for entry in store.list(&Scope::All).await.unwrap().entries {
                // The API server has a service of its own.
                let kept = matches!(
                    entry.key.kind(),
                    Some(
                        Kind::Node
                            | Kind::Profile
                            | Kind::KubernetesService
                            | Kind::KubernetesEndpointSlice
                    )
                );
                if !kept {
                    store.delete(entry.key, None).await.unwrap();
                }
            }
        });
    }
}
