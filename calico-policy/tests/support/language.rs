//! A small language for scenarios.
//!
//! ```text
//! ns prod team=a                      the namespace's profile, with labels
//! sa prod/api role=x                  a service account's profile, with labels
//! pod prod/web 10.0.0.1 app=web @http=tcp:80 !kns.prod node=n2 sa=api
//! netset prod/ext 203.0.113.0/24 zone=ext
//! gnetset ext 203.0.113.0/24 zone=ext
//! tier sec {order: 10, defaultAction: Pass}
//! np prod/in {selector: "app == 'web'", ingress: [{action: Allow}]}
//! hep n1-eth0 {node: n1, interfaceName: eth0} role=front      a host endpoint, with labels
//! slice prod/dns-x dns 10.0.0.9 @=udp:53      endpoints and ports of service prod/dns; `-` is none
//! gnp all {...}    profile p {...}    pool main {...}    node n1 {...}    felix default {...}
//! drop np prod/in                     removes it again
//! ```
//!
//! A pod is at node `n1` and has the profile of its namespace, unless it names others with `!`
//! (`!` alone is none).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    GlobalNetworkSet, GlobalNetworkSetSpec, HostEndpoint, KubernetesEndpointSlice,
    KubernetesEndpointSliceSpec, NetworkSet, NetworkSetSpec, ObjectMeta, Profile, Resource,
    SERVICE_NAME_LABEL, SliceEndpoint, SlicePort, Spec, WorkloadEndpoint, WorkloadEndpointPort,
    WorkloadEndpointSpec,
};
use calico_policy::{Input, Object};

/// The node that graphs under test are for.
pub(crate) const NODE: &str = "n1";

/// Reads a scenario, one input a line; `#` begins a comment.
pub(crate) fn inputs(text: &str) -> Vec<Input> {
    let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim());
    // An indented continuation of braces: lines are joined until they balance.
    let mut statements: Vec<String> = Vec::new();
    let mut depth = 0i32;
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if depth > 0 {
            let last = statements.last_mut().expect("an open brace has a line");
            write!(last, " {line}").unwrap();
        } else {
            statements.push(line.to_owned());
        }
        depth += line.chars().fold(0, |sum, c| sum + i32::from(c == '{') - i32::from(c == '}'));
    }
    statements.iter().map(|statement| input(statement)).collect()
}

fn input(line: &str) -> Input {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word == "drop" {
        let (word, name) = rest.split_once(' ').expect("what to drop");
        return Input::Remove(key(word, name.trim()));
    }
    Input::Put(object(word, rest.trim()))
}

fn key(word: &str, name: &str) -> Key {
    let kind = match word {
        "ns" | "sa" | "profile" => Kind::Profile,
        "pod" => Kind::WorkloadEndpoint,
        "netset" => Kind::NetworkSet,
        "gnetset" => Kind::GlobalNetworkSet,
        "np" => Kind::NetworkPolicy,
        "gnp" => Kind::GlobalNetworkPolicy,
        "tier" => Kind::Tier,
        "pool" => Kind::IpPool,
        "slice" => Kind::KubernetesEndpointSlice,
        "hep" => Kind::HostEndpoint,
        "node" => Kind::Node,
        "felix" => Kind::FelixConfiguration,
        other => panic!("unknown word {other:?}"),
    };
    match word {
        "ns" => Key::resource(kind, None, &format!("kns.{name}")),
        "sa" => Key::resource(kind, None, &format!("ksa.{}", name.replace('/', "."))),
        _ => match name.split_once('/') {
            Some((namespace, name)) => Key::resource(kind, Some(namespace), name),
            None => Key::resource(kind, None, name),
        },
    }
}

fn object(word: &str, rest: &str) -> Object {
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (namespace, local) = name.split_once('/').unwrap_or(("", name));
    match word {
        "ns" => Profile::for_namespace(name, &words(rest).labels).into(),
        "sa" => Profile::for_service_account(namespace, local, &words(rest).labels).into(),
        "pod" => pod(namespace, local, &words(rest)).into(),
        "netset" => {
            let (nets, labels) = nets(rest);
            let mut set = NetworkSet::namespaced(
                namespace,
                local,
                NetworkSetSpec { nets, ..Default::default() },
            );
            set.metadata.labels = labels;
            set.into()
        }
        "gnetset" => {
            let (nets, labels) = nets(rest);
            let mut set =
                GlobalNetworkSet::new(name, GlobalNetworkSetSpec { nets, ..Default::default() });
            set.metadata.labels = labels;
            set.into()
        }
        "slice" => slice(namespace, local, rest).into(),
        "np" => Object::NetworkPolicy(yaml(namespace, local, rest)),
        "gnp" => Object::GlobalNetworkPolicy(yaml("", name, rest)),
        "tier" => Object::Tier(yaml("", name, rest)),
        "profile" => Object::Profile(yaml("", name, rest)),
        "hep" => {
            let (spec, labels) = rest.rsplit_once('}').expect("{spec} labels");
            let mut endpoint: Box<HostEndpoint> = yaml("", name, &format!("{spec}}}"));
            endpoint.metadata.labels = words(labels).labels;
            Object::HostEndpoint(endpoint)
        }
        "pool" => Object::IpPool(yaml("", name, rest)),
        "node" => Object::Node(yaml("", name, rest)),
        "felix" => Object::FelixConfiguration(yaml("", name, rest)),
        other => panic!("unknown word {other:?}"),
    }
}

fn yaml<S: Spec>(namespace: &str, name: &str, text: &str) -> Box<Resource<S>> {
    let spec = if text.is_empty() {
        S::default()
    } else {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    let metadata = ObjectMeta::namespaced(namespace, name);
    Box::new(Resource::with_metadata(metadata, spec))
}

#[derive(Default)]
struct Words {
    labels: BTreeMap<String, String>,
    addresses: Vec<String>,
    ports: Vec<WorkloadEndpointPort>,
    profiles: Option<Vec<String>>,
}

fn words(text: &str) -> Words {
    let mut out = Words::default();
    for word in text.split_whitespace() {
        if let Some(port) = word.strip_prefix('@') {
            let (name, port) = port.split_once('=').expect("@name=proto:port");
            let (protocol, port) = port.split_once(':').expect("@name=proto:port");
            out.ports.push(WorkloadEndpointPort {
                name: name.to_owned(),
                protocol: Some(protocol.parse().unwrap()),
                port: port.parse().unwrap(),
                ..Default::default()
            });
        } else if let Some(profile) = word.strip_prefix('!') {
            let profiles = out.profiles.get_or_insert_default();
            profiles.extend((!profile.is_empty()).then(|| profile.to_owned()));
        } else if let Some((key, value)) = word.split_once('=') {
            out.labels.insert(key.to_owned(), value.to_owned());
        } else {
            out.addresses.push(word.to_owned());
        }
    }
    out
}

fn pod(namespace: &str, name: &str, words: &Words) -> WorkloadEndpoint {
    let mut labels = words.labels.clone();
    let node = labels.remove("node").unwrap_or_else(|| NODE.to_owned());
    let account = labels.remove("sa").unwrap_or_default();
    let profiles = words.profiles.clone().unwrap_or_else(|| {
        let account = (!account.is_empty()).then(|| format!("ksa.{namespace}.{account}"));
        std::iter::once(format!("kns.{namespace}")).chain(account).collect()
    });
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node,
        service_account_name: account,
        ip_networks: words.addresses.iter().map(|text| text.parse().unwrap()).collect(),
        profiles,
        interface_name: format!("cali{name}"),
        ports: words.ports.clone(),
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced(namespace, name, spec);
    endpoint.metadata.labels = labels;
    endpoint
}

fn slice(namespace: &str, name: &str, text: &str) -> KubernetesEndpointSlice {
    let (service, rest) = text.split_once(' ').unwrap_or((text, ""));
    let words = words(rest);
    let port = |port: WorkloadEndpointPort| SlicePort {
        protocol: port.protocol,
        port: Some(port.port),
        ..Default::default()
    };
    let endpoint =
        |address: &String| SliceEndpoint { addresses: vec![address.clone()], ..Default::default() };
    let spec = KubernetesEndpointSliceSpec {
        endpoints: words.addresses.iter().map(endpoint).collect(),
        ports: words.ports.into_iter().map(port).collect(),
        ..Default::default()
    };
    let mut slice = KubernetesEndpointSlice::namespaced(namespace, name, spec);
    if service != "-" {
        slice.metadata.labels.insert(SERVICE_NAME_LABEL.to_owned(), service.to_owned());
    }
    slice
}

fn nets(text: &str) -> (Vec<calico_core::resource::Cidr>, BTreeMap<String, String>) {
    let words = words(text);
    (words.addresses.iter().map(|net| net.parse().unwrap()).collect(), words.labels)
}
