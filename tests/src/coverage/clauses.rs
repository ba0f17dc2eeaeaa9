//! The clauses of a rule, as written and as compiled.

use calico_core::dataplane::{Rule, Side};
use calico_core::resource::{self, EntityRule, Port, Protocol};
use calico_policy::eval::{Packet, SetLookup, mismatch};

/// A clause about the packet as a whole.
struct Header {
    name: &'static str,
    /// As the evaluator calls it; empty if it never keeps anything away.
    clause: &'static str,
    is_in: fn(&resource::Rule) -> bool,
    relax: fn(&mut Rule),
}

/// A clause about one end of the traffic.
struct End {
    name: &'static str,
    clause: &'static str,
    is_in: fn(&EntityRule) -> bool,
    relax: fn(&mut Side),
}

const HEADER: [Header; 11] = [
    Header {
        name: "protocol by name",
        clause: "protocol",
        is_in: |rule| matches!(rule.protocol, Some(p) if !matches!(p, Protocol::Number(_))),
        relax: |rule| rule.protocol = None,
    },
    Header {
        name: "protocol by number",
        clause: "protocol",
        is_in: |rule| matches!(rule.protocol, Some(Protocol::Number(_))),
        relax: |rule| rule.protocol = None,
    },
    Header {
        name: "notProtocol",
        clause: "notProtocol",
        is_in: |rule| rule.not_protocol.is_some(),
        relax: |rule| rule.not_protocol = None,
    },
    Header {
        name: "ipVersion",
        clause: "ipVersion",
        is_in: |rule| rule.ip_version.is_some(),
        relax: |rule| rule.family = None,
    },
    Header {
        name: "icmp type",
        clause: "icmp",
        is_in: |rule| rule.icmp.as_ref().is_some_and(|icmp| icmp.code.is_none()),
        relax: |rule| rule.icmp = None,
    },
    Header {
        name: "icmp type and code",
        clause: "icmp",
        is_in: |rule| rule.icmp.as_ref().is_some_and(|icmp| icmp.code.is_some()),
        relax: |rule| rule.icmp = None,
    },
    Header {
        name: "notICMP type",
        clause: "notICMP",
        is_in: |rule| rule.not_icmp.as_ref().is_some_and(|icmp| icmp.code.is_none()),
        relax: |rule| rule.not_icmp = None,
    },
    Header {
        name: "notICMP type and code",
        clause: "notICMP",
        is_in: |rule| rule.not_icmp.as_ref().is_some_and(|icmp| icmp.code.is_some()),
        relax: |rule| rule.not_icmp = None,
    },
    Header {
        name: "icmp of IPv6",
        clause: "icmp",
        is_in: |rule| rule.protocol.map(Protocol::number) == Some(58) && rule.icmp.is_some(),
        relax: |rule| rule.icmp = None,
    },
    Header {
        name: "notICMP of IPv6",
        clause: "notICMP",
        is_in: |rule| rule.protocol.map(Protocol::number) == Some(58) && rule.not_icmp.is_some(),
        relax: |rule| rule.not_icmp = None,
    },
    Header { name: "http", clause: "", is_in: |rule| rule.http.is_some(), relax: |_| {} },
];

const END: [End; 19] = [
    End {
        name: "nets",
        clause: "nets",
        is_in: |end| !end.nets.is_empty(),
        relax: |side| side.nets.clear(),
    },
    End {
        name: "notNets",
        clause: "notNets",
        is_in: |end| !end.not_nets.is_empty(),
        relax: |side| side.not_nets.clear(),
    },
    End { is_in: |end| !end.selector.is_empty(), ..selected("selector") },
    End {
        name: "notSelector",
        clause: "notSelector",
        is_in: |end| !end.not_selector.is_empty(),
        relax: |side| side.not_sets.clear(),
    },
    End { is_in: |end| end.selector.contains("contains"), ..selected("selector contains") },
    End { is_in: |end| end.selector.contains("starts"), ..selected("selector starts with") },
    End { is_in: |end| end.selector.contains("ends"), ..selected("selector ends with") },
    End { is_in: |end| end.selector.contains("not in"), ..selected("selector not in") },
    End { is_in: |end| !end.namespace_selector.is_empty(), ..selected("namespaceSelector") },
    End {
        is_in: |end| end.namespace_selector == "global()",
        ..selected("namespaceSelector global()")
    },
    End {
        is_in: |end| end.service_accounts.as_ref().is_some_and(|it| !it.names.is_empty()),
        ..selected("serviceAccounts.names")
    },
    End {
        is_in: |end| end.service_accounts.as_ref().is_some_and(|it| !it.selector.is_empty()),
        ..selected("serviceAccounts.selector")
    },
    End {
        name: "services",
        clause: "services",
        is_in: |end| end.services.is_some(),
        relax: |side| {
            side.sets.clear();
            side.port_sets.clear();
        },
    },
    End { is_in: |end| end.ports.iter().any(is_number), ..ports("port by number") },
    End { is_in: |end| end.ports.iter().any(is_range), ..ports("range of ports") },
    End { is_in: |end| end.ports.iter().any(is_name), ..ports("port by name") },
    End {
        name: "notPorts by number",
        clause: "notPorts",
        is_in: |end| end.not_ports.iter().any(is_number),
        relax: |side| side.not_ports.clear(),
    },
    End {
        name: "notPorts by range",
        clause: "notPorts",
        is_in: |end| end.not_ports.iter().any(is_range),
        relax: |side| side.not_ports.clear(),
    },
    End {
        name: "notPorts by name",
        clause: "notPorts",
        is_in: |end| end.not_ports.iter().any(is_name),
        relax: |side| side.not_port_sets.clear(),
    },
];

/// A clause that is part of the set of who is meant.
const fn selected(name: &'static str) -> End {
    End { name, clause: "selector", is_in: |_| false, relax: |side| side.sets.clear() }
}

/// One of several ways to name ports, of which one is enough.
const fn ports(name: &'static str) -> End {
    End {
        name,
        clause: "ports",
        is_in: |_| false,
        relax: |side| {
            side.ports.clear();
            side.port_sets.clear();
        },
    }
}

const fn is_number(port: &Port) -> bool {
    matches!(port, Port::Range { first, last } if *first == *last)
}

const fn is_range(port: &Port) -> bool {
    matches!(port, Port::Range { first, last } if *first != *last)
}

const fn is_name(port: &Port) -> bool {
    matches!(port, Port::Named(_))
}

/// The two ends, by the name that the evaluator's clauses begin with.
const ENDS: [&str; 2] = ["source", "destination"];

const fn entity(rule: &resource::Rule, end: usize) -> &EntityRule {
    if end == 0 { &rule.source } else { &rule.destination }
}

const fn side(rule: &mut Rule, end: usize) -> &mut Side {
    if end == 0 { &mut rule.source } else { &mut rule.destination }
}

fn on_match(name: &str) -> String {
    format!("{name} matched")
}

fn on_mismatch(name: &str) -> String {
    format!("{name} kept away")
}

/// The names of everything that can happen with clauses.
pub(super) fn names() -> Vec<String> {
    let header = HEADER.iter().flat_map(|it| {
        let away = (!it.clause.is_empty()).then(|| on_mismatch(it.name));
        std::iter::once(on_match(it.name)).chain(away)
    });
    let ends = END.iter().flat_map(|it| {
        ENDS.iter().flat_map(|end| {
            let name = format!("{end} {}", it.name);
            [on_match(&name), on_mismatch(&name)]
        })
    });
    header.chain(ends).collect()
}

/// The clauses of a rule that matched.
pub(super) fn matched(
    source: &resource::Rule,
    rule: &Rule,
    packet: &Packet,
    sets: &dyn SetLookup,
) -> Vec<String> {
    let mut names = Vec::new();
    let header = HEADER.iter().filter(|it| (it.is_in)(source));
    names.extend(header.map(|it| on_match(it.name)));
    for (number, end) in ENDS.iter().enumerate() {
        for it in END.iter().filter(|it| (it.is_in)(entity(source, number))) {
            // Of ports, one is enough: which was it?
            let only = |keep: fn(&mut Side)| {
                let mut only = rule.clone();
                keep(side(&mut only, number));
                or_nothing(side(&mut only, number));
                mismatch(&only, packet, sets).is_none()
            };
            let took_part = match it.name {
                "port by number" => only(|side| {
                    side.port_sets.clear();
                    side.ports.retain(|range| range.first == range.last);
                }),
                "range of ports" => only(|side| {
                    side.port_sets.clear();
                    side.ports.retain(|range| range.first != range.last);
                }),
                "port by name" => only(|side| side.ports.clear()),
                _ => true,
            };
            if took_part {
                names.push(on_match(&format!("{end} {}", it.name)));
            }
        }
    }
    names
}

/// A side without any port would match all.
fn or_nothing(side: &mut Side) {
    if side.ports.is_empty() && side.port_sets.is_empty() {
        side.port_sets.push("of nothing".into());
    }
}

/// The clauses without which a rule would match, given the first one that did not hold.
pub(super) fn keeping_away(
    source: &resource::Rule,
    clause: &str,
    rule: &Rule,
    matches: impl Fn(&Rule) -> bool,
) -> Vec<String> {
    let mut names = Vec::new();
    let without = |relax: &dyn Fn(&mut Rule)| {
        let mut relaxed = rule.clone();
        relax(&mut relaxed);
        matches(&relaxed)
    };
    for it in HEADER.iter().filter(|it| it.clause == clause && (it.is_in)(source)) {
        if without(&|rule| (it.relax)(rule)) {
            names.push(on_mismatch(it.name));
        }
    }
    for (number, end) in ENDS.iter().enumerate() {
        let Some(of_end) = clause.strip_prefix(end).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        let written = END.iter().filter(|it| (it.is_in)(entity(source, number)));
        for it in written.filter(|it| it.clause == of_end) {
            if without(&|rule| (it.relax)(side(rule, number))) {
                names.push(on_mismatch(&format!("{end} {}", it.name)));
            }
        }
    }
    names
}
