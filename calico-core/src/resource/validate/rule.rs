//! Rules: each part for itself, and the parts against each other.

use ipnet::IpNet;

use super::{Global, at_most, names, selector};
use crate::resource::{
    Action, Cidr, EntityRule, Errors, HttpMatch, Icmp, Path, PolicyType, Port, Protocol, Rule,
};

/// Most rules in one direction.
const MAX_RULES: usize = 1024;

/// Checks a list of rules. `global` is set for rules without a namespace of their own.
pub(in crate::resource) fn rules(
    rules: &[Rule],
    direction: PolicyType,
    global: bool,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    at_most(rules, MAX_RULES, at, errors);
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        check(rule, &at, errors);
        // Services name what a peer is: the source of ingress, the destination of egress.
        let (peer, peer_name, own, own_name) = match direction {
            PolicyType::Ingress => (&rule.source, "source", &rule.destination, "destination"),
            PolicyType::Egress => (&rule.destination, "destination", &rule.source, "source"),
        };
        errors.require(
            own.services.is_none(),
            &at.key(own_name).key("services"),
            format!("{direction} rules may name services in their {peer_name} only"),
        );
        if let Some(services) = &peer.services {
            errors.require(
                !global || !services.namespace.is_empty(),
                &at.key(peer_name).key("services").key("namespace"),
                "required in a global policy, but missing",
            );
        }
        errors.require(
            rule.http.is_none() || direction == PolicyType::Ingress,
            &at.key("http"),
            "only ingress rules may match HTTP",
        );
    }
}

fn check(rule: &Rule, at: &Path<'_>, errors: &mut Errors) {
    if let Some(version) = rule.ip_version {
        errors.require(
            matches!(version, 4 | 6),
            &at.key("ipVersion"),
            format!("is {version}; allowed are 4 and 6"),
        );
    }
    for (protocol, name) in [(rule.protocol, "protocol"), (rule.not_protocol, "notProtocol")] {
        let Some(protocol) = protocol else { continue };
        let at = at.key(name);
        errors.require(protocol.number() != 0, &at, "is 0; allowed are names and 1 to 255");
        let family = match protocol.number() {
            1 => Some(4),
            58 => Some(6),
            _ => None,
        };
        if let (Some(family), Some(version)) = (family, rule.ip_version) {
            errors.require(
                family == version,
                &at,
                format!("{protocol} exists in IPv{family} only, but ipVersion is {version}"),
            );
        }
    }
    icmp(rule, rule.icmp.as_ref(), &at.key("icmp"), true, errors);
    icmp(rule, rule.not_icmp.as_ref(), &at.key("notICMP"), false, errors);
    entity(&rule.source, rule.protocol, &at.key("source"), errors);
    entity(&rule.destination, rule.protocol, &at.key("destination"), errors);
    families(rule, at, errors);
    if let Some(matched) = &rule.http {
        let at = at.key("http");
        errors.require(
            rule.action == Action::Allow,
            &at,
            format!("only Allow rules may match HTTP, this is {}", rule.action),
        );
        errors.require(
            rule.protocol.is_none_or(|protocol| protocol.number() == 6),
            &at,
            "HTTP needs protocol TCP or none",
        );
        http(matched, &at, errors);
    }
    if let Some(metadata) = &rule.metadata {
        let place = at.key("metadata");
        names::annotations(&metadata.annotations, &place.key("annotations"), errors);
    }
}

fn icmp(
    rule: &Rule,
    icmp: Option<&Icmp>,
    at: &Path<'_>,
    needs_protocol: bool,
    errors: &mut Errors,
) {
    let Some(icmp) = icmp else { return };
    errors.require(
        icmp.icmp_type != Some(u8::MAX),
        &at.key("type"),
        "is 255, which the kernel cannot match; allowed are 0 to 254",
    );
    errors.require(
        icmp.code.is_none() || icmp.icmp_type.is_some(),
        &at.key("code"),
        "needs a type",
    );
    let protocol = rule.protocol.map(Protocol::number);
    errors.require(
        !needs_protocol || matches!(protocol, Some(1 | 58)),
        at,
        "needs protocol ICMP or ICMPv6",
    );
}

fn entity(entity: &EntityRule, protocol: Option<Protocol>, at: &Path<'_>, errors: &mut Errors) {
    selector(&entity.selector, Global::Forbidden, &at.key("selector"), errors);
    selector(&entity.not_selector, Global::Forbidden, &at.key("notSelector"), errors);
    let namespaces = at.key("namespaceSelector");
    selector(&entity.namespace_selector, Global::Alone, &namespaces, errors);
    if let Some(accounts) = &entity.service_accounts {
        let place = at.key("serviceAccounts");
        selector(&accounts.selector, Global::Forbidden, &place.key("selector"), errors);
    }
    at_most(&entity.nets, 256, &at.key("nets"), errors);
    at_most(&entity.not_nets, 256, &at.key("notNets"), errors);
    ports(&entity.ports, protocol, &at.key("ports"), errors);
    ports(&entity.not_ports, protocol, &at.key("notPorts"), errors);
    for (index, net) in entity.not_nets.iter().enumerate() {
        errors.require(
            net.prefix_len() != 0,
            &at.key("notNets").index(index),
            format!("{net} excludes every address, so that the rule matches nothing"),
        );
    }
    if let Some(services) = &entity.services {
        let place = at.key("services");
        errors.require(!services.name.is_empty(), &place.key("name"), "required, but missing");
        for (used, name) in [
            (!entity.selector.is_empty(), "selector"),
            (!entity.not_selector.is_empty(), "notSelector"),
            (!entity.namespace_selector.is_empty(), "namespaceSelector"),
            (!entity.nets.is_empty(), "nets"),
            (!entity.not_nets.is_empty(), "notNets"),
            (entity.service_accounts.is_some(), "serviceAccounts"),
            (!entity.ports.is_empty(), "ports"),
            (!entity.not_ports.is_empty(), "notPorts"),
        ] {
            errors.require(!used, &at.key(name), "cannot be used together with services");
        }
    }
}

fn ports(ports: &[Port], protocol: Option<Protocol>, at: &Path<'_>, errors: &mut Errors) {
    const NEEDED: &str = "needs protocol TCP, UDP or SCTP";
    at_most(ports, 50, at, errors);
    match protocol {
        Some(protocol) if !protocol.has_ports() => {
            errors.require(ports.is_empty(), at, format!("{NEEDED}; {protocol} has no ports"));
        }
        None => errors.require(!ports.iter().any(Port::is_numeric), at, NEEDED),
        Some(_) => {}
    }
    for (index, port) in ports.iter().enumerate() {
        let zero = matches!(port, Port::Range { first: 0, .. });
        errors.require(!zero, &at.index(index), format!("{port}: ports are 1 to 65535"));
    }
}

/// All networks of a rule are of one family, which is that of `ipVersion`.
fn families(rule: &Rule, at: &Path<'_>, errors: &mut Errors) {
    let mut seen: Option<u8> = None;
    for (entity, end) in [(&rule.source, "source"), (&rule.destination, "destination")] {
        for (nets, name) in [(&entity.nets, "nets"), (&entity.not_nets, "notNets")] {
            let place = at.key(end);
            let place = place.key(name);
            let version = |net: &Cidr| if matches!(net.0, IpNet::V4(_)) { 4 } else { 6 };
            for (index, net) in nets.iter().enumerate() {
                let family = version(net);
                if let Some(wanted) = rule.ip_version.filter(|wanted| *wanted != family) {
                    errors.push(
                        &place.index(index),
                        format!("{net} is IPv{family}, but ipVersion is {wanted}"),
                    );
                } else if *seen.get_or_insert(family) != family {
                    errors.push(
                        &place.index(index),
                        format!("{net} is IPv{family}, unlike networks before; use two rules"),
                    );
                }
            }
        }
    }
}

fn http(http: &HttpMatch, at: &Path<'_>, errors: &mut Errors) {
    let (methods, paths) = (at.key("methods"), at.key("paths"));
    at_most(&http.methods, 20, &methods, errors);
    super::unique(&http.methods, &methods, errors);
    at_most(&http.paths, 20, &paths, errors);
    for (index, path) in http.paths.iter().enumerate() {
        let at = paths.index(index);
        let text = match (path.exact.as_str(), path.prefix.as_str()) {
            ("", "") => {
                errors.push(&at, "needs one of exact and prefix");
                continue;
            }
            (text, "") | ("", text) => text,
            _ => {
                errors.push(&at, "has exact and prefix; use one of them");
                continue;
            }
        };
        errors.require(
            text.starts_with('/') && !text.contains(['?', '#', ' ']) && text.len() <= 1024,
            &at,
            format!(
                "{text:?} must begin with `/`, have no `?`, `#` or space, and at most 1024 \
                     characters"
            ),
        );
    }
}
