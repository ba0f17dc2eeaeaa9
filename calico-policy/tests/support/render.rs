//! Updates as text.

use std::fmt::Write as _;

use calico_core::dataplane::{PolicyId, SetMember, Update};

/// Updates as text, one a line, without the hashes that name sets:
/// `set +10.0.0.1/32 -10.0.0.2/32`, `rules NetworkPolicy a/p`, `endpoint a/x default[a/p|]`.
pub(crate) fn render(updates: &[Update]) -> String {
    let mut out = String::new();
    for update in updates {
        let line = match update {
            Update::Set { members, .. } => format!("set = {}", members_text("", members)),
            Update::SetDelta { added, removed, .. } => {
                let text = [members_text("+", added), members_text("-", removed)];
                format!("set {}", text.join(" ").trim())
            }
            Update::SetRemoved(_) => "no set".to_owned(),
            Update::Rules { owner, rules } => {
                format!("rules {owner} {}+{}", rules.ingress.len(), rules.egress.len())
            }
            Update::RulesRemoved(owner) => format!("no rules {owner}"),
            Update::Endpoint(endpoint) => {
                let names = |list: &[PolicyId]| {
                    let names: Vec<&str> = list.iter().map(|id| &*id.name).collect();
                    names.join(",")
                };
                let tiers = endpoint.tiers.iter().map(|tier| {
                    format!(" {}[{}|{}]", tier.tier, names(&tier.ingress), names(&tier.egress))
                });
                format!("endpoint {}{}", endpoint.id, tiers.collect::<String>())
            }
            Update::EndpointRemoved(id) => format!("no endpoint {id}"),
            Update::Pools(pools) => format!("{} pools", pools.len()),
            Update::Host(_) => "host".to_owned(),
            other => format!("{other:?}"),
        };
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
    out
}

fn members_text(sign: &str, members: &[SetMember]) -> String {
    let texts = members.iter().map(|member| match member {
        SetMember::Net(net) => format!("{sign}{net}"),
        SetMember::Port { address, protocol, port } => format!("{sign}{address}/{protocol}/{port}"),
    });
    texts.collect::<Vec<_>>().join(" ")
}
