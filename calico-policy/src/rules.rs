//! From the rules of a resource to the rule IR and the sets that it refers to.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use calico_core::dataplane::{
    Action, Direction, IcmpMatch, PortRange, Rule, RuleId, RuleOwner, RuleSet, SetId, Side,
};
use calico_core::key::Family;
use calico_core::resource::{self, EntityRule, FieldError, Icmp, Port, Protocol};
use calico_core::selector::{self, Selector};

use crate::eval;

/// Sort of the sets of addresses with ports behind a service, in upstream's names of sets.
pub(crate) const SERVICE_SET: &str = "svc";
/// Sort of the sets of addresses behind a service.
pub(crate) const SERVICE_ADDRESSES_SET: &str = "svcnoport";

/// Rules, ready for a dataplane, and the sets that it must have before.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) rules: Arc<RuleSet>,
    /// Each once, by id.
    pub(crate) sets: Box<[SetSpec]>,
}

/// A set, described by what is in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SetSpec {
    pub(crate) id: SetId,
    pub(crate) content: Content,
}

/// What is in a set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// Addresses of the endpoints and network sets with these labels.
    Labels {
        selector: Selector,
        /// If given, only their ports of this name and protocol, with the addresses.
        port: Option<(Box<str>, u8)>,
    },
    /// Addresses of what stands behind a service, with its ports or without.
    Service { service: ServiceName, ports: bool },
}

/// `<namespace>/<name>` of a service.
pub(crate) type ServiceName = Arc<str>;

/// The text that stands for a service wherever services are looked up.
pub(crate) fn service_name(namespace: &str, name: &str) -> ServiceName {
    format!("{namespace}/{name}").into()
}

impl fmt::Display for SetSpec {
    /// `app == "web"`, `http/TCP of app == "web"`, or `service prod/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Labels { selector, port } => {
                if let Some((name, protocol)) = port {
                    write!(f, "{name}/{} of ", eval::protocol_name(*protocol))?;
                }
                selector.fmt(f)
            }
            Content::Service { service, .. } => write!(f, "service {service}"),
        }
    }
}

/// Compiles the rules of a policy of `namespace` (empty for a global one or a profile).
///
/// What cannot be enforced but need not stop the rest is noted in `warnings`.
///
/// # Errors
///
/// Everything that is wrong, with its path.
pub(crate) fn compile(
    owner: &RuleOwner,
    namespace: &str,
    [ingress, egress]: [&[resource::Rule]; 2],
    warnings: &mut Vec<FieldError>,
) -> Result<Compiled, Vec<FieldError>> {
    let mut compiler =
        Compiler { owner, namespace, sets: Vec::new(), errors: Vec::new(), warnings };
    let rules = RuleSet {
        ingress: compiler.list(Direction::Ingress, ingress),
        egress: compiler.list(Direction::Egress, egress),
    };
    let Compiler { mut sets, errors, .. } = compiler;
    if !errors.is_empty() {
        return Err(errors);
    }
    sets.sort_by(|a, b| a.id.cmp(&b.id));
    sets.dedup_by(|a, b| a.id == b.id);
    // A set may have been asked for by a rule that was left out.
    let used: BTreeSet<&SetId> = crate::desired::sets_of(&rules).collect();
    sets.retain(|set| used.contains(&set.id));
    Ok(Compiled { sets: sets.into(), rules: Arc::new(rules) })
}

struct Compiler<'a> {
    owner: &'a RuleOwner,
    namespace: &'a str,
    sets: Vec<SetSpec>,
    errors: Vec<FieldError>,
    warnings: &'a mut Vec<FieldError>,
}

impl Compiler<'_> {
    fn list(&mut self, direction: Direction, rules: &[resource::Rule]) -> Vec<Rule> {
        let mut out = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            let Ok(index) = u16::try_from(index) else {
                self.errors.push(FieldError::new(path, "too many rules; at most 65536"));
                break;
            };
            let id = RuleId { owner: self.owner.clone(), direction, index };
            out.push(self.rule(id, rule, &path));
        }
        out
    }

    fn rule(&mut self, id: RuleId, rule: &resource::Rule, path: &str) -> Rule {
        let mut out = Rule::any(id, action(rule.action));
        let protocol = rule.protocol.map(Protocol::number);
        out.family = self.family(rule, protocol, path);
        out.protocol = protocol;
        out.not_protocol = rule.not_protocol.map(Protocol::number);
        out.icmp = self.icmp(rule.icmp.as_ref(), protocol, path, "icmp");
        out.not_icmp = self.icmp(rule.not_icmp.as_ref(), protocol, path, "notICMP");
        out.source = self.side(&rule.source, rule.protocol, &format!("{path}.source"));
        out.destination =
            self.side(&rule.destination, rule.protocol, &format!("{path}.destination"));
        if rule.http.is_some() {
            let message = "not enforced: only addresses, protocol and ports are looked at";
            self.warnings.push(FieldError::new(format!("{path}.http"), message));
        }
        let ends = [(&rule.source, "source", false), (&rule.destination, "destination", true)];
        for (entity, end, ports) in ends {
            if let Some(set) = self.service(entity, ports, &format!("{path}.{end}")) {
                match end {
                    "source" => out.source.sets.push(set),
                    _ => out.destination.port_sets.push(set),
                }
            }
        }
        out
    }

    fn family(
        &mut self,
        rule: &resource::Rule,
        protocol: Option<u8>,
        path: &str,
    ) -> Option<Family> {
        let implied = match protocol {
            Some(1) => Some(Family::V4),
            Some(58) => Some(Family::V6),
            _ => None,
        };
        let stated = match rule.ip_version {
            None => return implied,
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            Some(other) => {
                self.error(path, "ipVersion", format!("is {other}; write 4 or 6"));
                return None;
            }
        };
        if implied.is_some_and(|implied| implied != stated) {
            let message = format!("is {stated}, which the rule's protocol does not exist in");
            self.error(path, "ipVersion", message);
        }
        Some(stated)
    }

    fn icmp(
        &mut self,
        icmp: Option<&Icmp>,
        protocol: Option<u8>,
        path: &str,
        field: &str,
    ) -> Option<IcmpMatch> {
        let icmp = icmp?;
        if !matches!(protocol, Some(1 | 58)) {
            let message = "needs protocol ICMP or ICMPv6 in the same rule".to_owned();
            self.error(path, field, message);
        }
        match (icmp.icmp_type, icmp.code) {
            (Some(kind), code) => Some(IcmpMatch { kind, code }),
            (None, Some(_)) => {
                self.error(path, field, "has a code but no type; add the type".to_owned());
                None
            }
            (None, None) => None,
        }
    }

    fn side(&mut self, entity: &EntityRule, protocol: Option<Protocol>, path: &str) -> Side {
        let parsed = selector::entity_selectors(entity, self.namespace);
        let (selected, excluded) = parsed.unwrap_or_else(|error| {
            self.errors.push(FieldError::new(format!("{path}.{}", error.path), error.message));
            (None, None)
        });
        // Sets of named ports are of the selected endpoints only, which says it all if no port
        // has a number.
        let named = |port: &Port| matches!(port, Port::Named(_));
        let by_ports = !entity.ports.is_empty() && entity.ports.iter().all(named);
        let addresses = selected.iter().filter(|_| !by_ports);
        let sets = addresses.map(|selector| self.set(selector, None)).collect();
        let not_sets = excluded.iter().map(|selector| self.set(selector, None)).collect();
        let (ports, port_sets) =
            self.ports(&entity.ports, selected.as_ref(), protocol, &format!("{path}.ports"));
        let (not_ports, not_port_sets) =
            self.ports(&entity.not_ports, selected.as_ref(), protocol, &format!("{path}.notPorts"));
        let nets = |nets: &[resource::Cidr]| nets.iter().map(|net| net.0.trunc()).collect();
        Side {
            nets: nets(&entity.nets),
            not_nets: nets(&entity.not_nets),
            sets,
            not_sets,
            ports,
            port_sets,
            not_ports,
            not_port_sets,
        }
    }

    /// The set of what stands behind the service that an end of the traffic names: of a
    /// destination addresses with ports, of a source addresses only.
    fn service(&mut self, entity: &EntityRule, ports: bool, path: &str) -> Option<SetId> {
        let service = entity.services.as_ref()?;
        let namespace = match &*service.namespace {
            "" => self.namespace,
            stated => stated,
        };
        if service.name.is_empty() {
            self.error(path, "services.name", "required, but missing".to_owned());
        }
        if namespace.is_empty() {
            let message = "required in a policy of the whole cluster, but missing".to_owned();
            self.error(path, "services.namespace", message);
        }
        // Both would be ports, of which one is enough: more than their author wrote.
        if ports && !entity.ports.is_empty() {
            self.error(path, "ports", "cannot be combined with services".to_owned());
        }
        let name = service_name(namespace, &service.name);
        let sort = if ports { SERVICE_SET } else { SERVICE_ADDRESSES_SET };
        let id = SetId(selector::unique_id(sort, &name).into());
        let content = Content::Service { service: name, ports };
        self.sets.push(SetSpec { id: id.clone(), content });
        Some(id)
    }

    /// Numeric ports as ranges, named ones as sets of the ports of the selected endpoints.
    fn ports(
        &mut self,
        ports: &[Port],
        selected: Option<&Selector>,
        protocol: Option<Protocol>,
        path: &str,
    ) -> (Vec<PortRange>, Vec<SetId>) {
        let (mut ranges, mut sets) = (Vec::new(), Vec::new());
        let has_ports = protocol.is_some_and(Protocol::has_ports);
        for port in ports {
            match port {
                Port::Range { first, last } if has_ports => {
                    ranges.push(PortRange { first: *first, last: *last });
                }
                Port::Named(name) if has_ports || protocol.is_none() => {
                    // Upstream takes TCP where the rule names no protocol.
                    let protocol = protocol.map_or(6, Protocol::number);
                    let all = Selector::all();
                    let id = self.set(selected.unwrap_or(&all), Some((name, protocol)));
                    if !sets.contains(&id) {
                        sets.push(id);
                    }
                }
                _ => {
                    let message =
                        format!("port {port} needs protocol TCP, UDP or SCTP in the rule");
                    self.errors.push(FieldError::new(path, message));
                }
            }
        }
        (ranges, sets)
    }

    fn set(&mut self, selector: &Selector, port: Option<(&str, u8)>) -> SetId {
        let id = match port {
            None => selector.unique_id(),
            Some((name, protocol)) => {
                let protocol = match protocol {
                    17 => "udp",
                    132 => "sctp",
                    _ => "tcp",
                };
                let content = format!("{},{protocol},{name}", selector.unique_id());
                selector::unique_id("n", &content)
            }
        };
        let id = SetId(id.into());
        let port = port.map(|(name, protocol)| (name.into(), protocol));
        let content = Content::Labels { selector: selector.clone(), port };
        self.sets.push(SetSpec { id: id.clone(), content });
        id
    }

    fn error(&mut self, path: &str, field: &str, message: String) {
        self.errors.push(FieldError::new(format!("{path}.{field}"), message));
    }
}

const fn action(action: resource::Action) -> Action {
    match action {
        resource::Action::Allow => Action::Allow,
        resource::Action::Deny => Action::Deny,
        resource::Action::Log => Action::Log,
        resource::Action::Pass => Action::Pass,
    }
}
