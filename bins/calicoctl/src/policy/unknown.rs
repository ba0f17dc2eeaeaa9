//! What to say about names that nobody has.

use std::net::IpAddr;

use calico_core::resource::nearest;

use super::state::State;
use crate::failure::Failure;

/// How many names are suggested.
const MOST: usize = 3;

/// Nobody has this name; says who was meant, perhaps.
pub(super) fn end(state: &State, text: &str) -> Failure {
    if let Some(name) = text.strip_prefix("hep/").or_else(|| text.strip_prefix("hostendpoint/")) {
        let names = state.hosts.iter().map(|host| host.name());
        let meant = suggestion(nearest(name, names).into_iter().map(|name| format!("hep/{name}")));
        return Failure::Usage(format!(
            "no HostEndpoint {name}{meant}; `calicoctl get hep` lists them"
        ));
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let pods: Vec<String> = state
        .endpoints
        .iter()
        .map(|endpoint| {
            let pod = &endpoint.spec.pod;
            let name = if pod.is_empty() { endpoint.name() } else { pod };
            format!("{}/{name}", endpoint.namespace())
        })
        .collect();
    let elsewhere =
        pods.iter().filter(|pod| pod.rsplit_once('/').is_some_and(|(_, it)| it == name));
    let mut meant: Vec<String> = elsewhere.cloned().collect();
    if meant.is_empty() {
        let wanted = format!("{namespace}/{name}");
        let names = pods.iter().map(String::as_str);
        meant.extend(nearest(&wanted, names).map(str::to_owned));
    }
    if meant.is_empty() && state.nodes.iter().any(|node| node.name() == text) {
        meant.push(format!("node/{text}"));
    }
    let meant = suggestion(meant.into_iter());
    Failure::Usage(format!(
        "no pod and no WorkloadEndpoint {namespace}/{name}{meant}; `calicoctl get wep -A` lists them"
    ))
}

/// No slice is of this service.
pub(super) fn service(state: &State, namespace: &str, name: &str) -> Failure {
    let names: Vec<String> = state
        .slices
        .iter()
        .filter_map(|slice| Some(format!("{}/{}", slice.namespace(), slice.service()?)))
        .collect();
    let wanted = format!("{namespace}/{name}");
    let mut meant: Vec<String> =
        names.iter().filter(|it| it.ends_with(&format!("/{name}"))).cloned().collect();
    meant.extend(nearest(&wanted, names.iter().map(String::as_str)).map(str::to_owned));
    meant.dedup();
    let meant = suggestion(meant.into_iter().map(|name| format!("svc/{name}")));
    Failure::Usage(format!("no endpoints of a service {wanted}{meant}"))
}

/// An address of the node of this name.
pub(super) fn node(state: &State, name: &str) -> Result<IpAddr, Failure> {
    if let Some(address) = state.addresses_of_node(name).first() {
        return Ok(*address);
    }
    if state.nodes.iter().any(|node| node.name() == name) {
        return Err(Failure::Usage(format!("node {name} has told no address yet")));
    }
    let names = state.nodes.iter().map(|node| node.name());
    let meant = suggestion(nearest(name, names).into_iter().map(|name| format!("node/{name}")));
    Err(Failure::Usage(format!("no node {name}{meant}; `calicoctl get nodes` lists them")))
}

fn suggestion(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(MOST).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}
