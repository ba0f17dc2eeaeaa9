//! Resources and packets in a small language, one a line:
//!
//! ```text
//! # A comment. Then a resource: kind, name, labels, spec.
//! NetworkPolicy a/web {} {selector: "app == 'web'", ingress: [{action: Allow}]}
//! # A packet: where from, source, destination, protocol, then ports (or ICMP type and code).
//! # From a pod by its number, `out`, `out1` or `host`:
//! send 1 10.65.0.1 203.0.113.5 6 40000 443
//! send out 203.0.113.5 10.65.0.1 1 8 0
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use calico_core::API_VERSION;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, Mode};
use calico_policy::Object;
use calico_policy::eval::Packet;
use serde_json::{Value, json};

use crate::lab::Port;

/// What is configured, and what is sent then.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Resources; of those with one name the last counts.
    pub objects: Vec<Object>,
    /// Staged policies, which nothing may come of.
    pub staged: Vec<AnyResource>,
    /// Packets, in order.
    pub probes: Vec<Probe>,
    lines: Vec<String>,
}

/// A packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Where it is put on the wire.
    pub from: Port,
    /// What it is.
    pub packet: Packet,
}

impl FromStr for Scenario {
    type Err = String;

    /// Says which line is wrong, and how.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut scenario =
            Self { objects: Vec::new(), staged: Vec::new(), probes: Vec::new(), lines: Vec::new() };
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            scenario.line(line).map_err(|error| format!("{line}\n  {error}"))?;
            scenario.lines.push(line.to_owned());
        }
        Ok(scenario)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Scenario {
    fn line(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix("send ") {
            Some(rest) => self.probes.push(probe(rest)?),
            None => {
                let resource = resource(line)?;
                match Object::from_resource(&resource).map_err(|error| error.to_string())? {
                    Some(object) => self.objects.push(object),
                    None if is_staged(resource.kind) => self.staged.push(resource),
                    None => return Err("resources of this kind have no say in policy".to_owned()),
                }
            }
        }
        Ok(())
    }
}

const fn is_staged(kind: Kind) -> bool {
    matches!(kind, Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy)
}

/// The resource that a line tells of.
///
/// # Errors
///
/// What is wrong with the line.
pub fn resource(line: &str) -> Result<AnyResource, String> {
    let parts = line.split_once(" {").and_then(|(head, rest)| {
        let (labels, spec) = rest.split_once('}')?;
        let (kind, name) = head.split_once(' ')?;
        Some((kind, name, format!("{{{labels}}}"), spec))
    });
    let (kind, name, labels, spec) = parts.ok_or("expected: KIND NAME {LABELS} {SPEC}")?;
    let yaml = |text: &str| -> Result<Value, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    };
    let mut metadata = json!({"name": name, "labels": yaml(&labels)?});
    if let Some((namespace, name)) = name.split_once('/') {
        metadata["name"] = name.into();
        metadata["namespace"] = namespace.into();
    }
    let (version, spec) = (API_VERSION, yaml(spec.trim())?);
    let value = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
    AnyResource::from_value(value, Mode::Strict)
        .map_err(|errors| errors.iter().map(|e| format!("{e}; ")).collect())
}

fn probe(text: &str) -> Result<Probe, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [from, source, destination, protocol, rest @ ..] = &words[..] else {
        return Err("expected: send FROM SOURCE DESTINATION PROTOCOL ...".to_owned());
    };
    let from = match *from {
        "out" => Port::Outside(0),
        "out1" => Port::Outside(1),
        "host" => Port::Host,
        pod => Port::Pod(
            pod.parse()
                .map_err(|error| format!("{pod} is no pod, nor `out`, `out1`, `host`: {error}"))?,
        ),
    };
    let address = |text: &str| text.parse::<IpAddr>().map_err(|error| format!("{text}: {error}"));
    let number = |text: &str| text.parse::<u16>().map_err(|error| format!("{text}: {error}"));
    let byte = |text: &str| text.parse::<u8>().map_err(|error| format!("{text}: {error}"));
    let protocol = byte(protocol)?;
    let (ports, icmp) = match (protocol, rest) {
        (1 | 58, [kind, code]) => (None, Some((byte(kind)?, byte(code)?))),
        (6 | 17 | 132 | 136, [source, destination]) => {
            (Some((number(source)?, number(destination)?)), None)
        }
        (1 | 58 | 6 | 17 | 132 | 136, _) => {
            return Err("two numbers must follow this protocol".to_owned());
        }
        (_, []) => (None, None),
        _ => return Err("nothing must follow this protocol".to_owned()),
    };
    let (source, destination) = (address(source)?, address(destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("the addresses are of two families".to_owned());
    }
    Ok(Probe { from, packet: Packet { source, destination, protocol, ports, icmp } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("Tier t", "expected: KIND"),
            ("Tier t {} {defaultActoin: Pass}", "defaultActoin"),
            ("IPAMConfiguration default {} {}", "no say"),
            ("send 1 10.0.0.1 fd00::1 6 1 2", "two families"),
            ("send 1 10.0.0.1 10.0.0.2 6", "two numbers"),
            ("send x 10.0.0.1 10.0.0.2 6 1 2", "no pod"),
        ] {
            let error = text.parse::<Scenario>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
