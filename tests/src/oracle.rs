//! What Kubernetes' documentation says a NetworkPolicy means, read from its YAML word by word.
//!
//! It shares no code with the conversion, the engine or the evaluator.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::cluster::{Cluster, Labels};

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Namespace and name, if it is a pod.
    pub pod: Option<(&'a str, &'a str)>,
}

/// Whether a connection to `port` of `protocol` (by its name) is allowed, at both of its ends.
///
/// "For a connection from a source pod to a destination pod to be allowed, both the egress policy
/// on the source pod and the ingress policy on the destination pod need to allow it."
#[must_use]
pub fn allows(cluster: &Cluster, from: End<'_>, to: End<'_>, protocol: &str, port: u16) -> bool {
    let port = (protocol, port);
    one_end(cluster, from, to, "Egress", port, to)
        && one_end(cluster, to, from, "Ingress", port, to)
}

/// Whether the policies for `own` in this direction let it talk with `other`.
fn one_end(
    cluster: &Cluster,
    own: End<'_>,
    other: End<'_>,
    direction: &str,
    port: (&str, u16),
    destination: End<'_>,
) -> bool {
    let Some((namespace, pod)) = own.pod else { return true };
    // Nobody talks with a pod that is gone.
    let Some(labels) = cluster.pods.get(&(namespace.to_owned(), pod.to_owned())) else {
        return false;
    };
    let mut isolated = false;
    for ((home, _), spec) in &cluster.policies {
        if home != namespace || !selects(&spec["podSelector"], labels) || !covers(spec, direction) {
            continue;
        }
        // By default a pod is not isolated; what policies allow adds up.
        isolated = true;
        let (rules, peers) =
            if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        for rule in list(&spec[rules]) {
            let peers = list(&rule[peers]);
            let from_anybody = peers.is_empty();
            let ports = list(&rule["ports"]);
            if (from_anybody || peers.iter().any(|peer| is_peer(cluster, home, peer, other)))
                && (ports.is_empty()
                    || ports.iter().any(|wanted| is_port(wanted, port, destination)))
            {
                return true;
            }
        }
    }
    !isolated
}

/// "If no policyTypes are specified then by default Ingress will always be set and Egress will be
/// set if the NetworkPolicy has any egress rules."
fn covers(spec: &Value, direction: &str) -> bool {
    let types = list(&spec["policyTypes"]);
    match types.is_empty() {
        false => types.iter().any(|kind| kind == direction),
        true => direction == "Ingress" || !list(&spec["egress"]).is_empty(),
    }
}

fn is_peer(cluster: &Cluster, home: &str, peer: &Value, other: End<'_>) -> bool {
    if let Some(block) = peer.get("ipBlock") {
        let within = |net: &Value| {
            let net: IpNet = net.as_str().expect("a range").parse().expect("a range");
            net.contains(&other.address)
        };
        return within(&block["cidr"]) && !list(&block["except"]).iter().any(within);
    }
    let Some((namespace, pod)) = other.pod else { return false };
    let of_namespace = match peer.get("namespaceSelector") {
        Some(selector) => selects(selector, &cluster.namespaces[namespace]),
        None => namespace == home,
    };
    let Some(labels) = cluster.pods.get(&(namespace.to_owned(), pod.to_owned())) else {
        return false;
    };
    of_namespace && peer.get("podSelector").is_none_or(|selector| selects(selector, labels))
}

/// "The port can be a name of a port of the pods."
fn is_port(wanted: &Value, (protocol, port): (&str, u16), destination: End<'_>) -> bool {
    let protocol_is = wanted.get("protocol").map_or("TCP", |p| p.as_str().expect("a name"));
    let number = |value: &Value| value.as_u64().map(|n| u16::try_from(n).expect("a port"));
    protocol_is == protocol
        && match (wanted.get("port"), wanted.get("endPort")) {
            (None, _) => true,
            (Some(Value::String(name)), _) => {
                destination.pod.is_some()
                    && *name == format!("serve-{port}-{}", protocol.to_lowercase())
                    && crate::cluster::PORTS.contains(&port)
            }
            (Some(first), None) => number(first) == Some(port),
            (Some(first), Some(last)) => (number(first)..=number(last)).contains(&Some(port)),
        }
}

/// "An empty label selector matches all objects."
fn selects(selector: &Value, labels: &Labels) -> bool {
    let empty = serde_json::Map::new();
    let equal = selector.get("matchLabels").and_then(Value::as_object).unwrap_or(&empty);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let equal: BTreeMap<String, String> =
        equal.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    equal.iter().all(|(key, value)| labels.get(key) == Some(value))
        && list(&selector["matchExpressions"]).iter().all(|requirement| {
            let found = labels.get(&text(&requirement["key"]));
            let listed = found.is_some_and(|found| {
                list(&requirement["values"]).iter().any(|value| text(value) == *found)
            });
            match requirement["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                other => panic!("operator {other:?}"),
            }
        })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
