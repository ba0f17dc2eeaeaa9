//! Is a transaction one that can be brought into force? Asked before anything of it is taken
//! over, so that a refused one leaves no trace.

use std::collections::BTreeMap;

use calico_core::dataplane::{
    DataplaneError, RuleSet, SetId, SetKind, SetMember, Transaction, Update,
};
use calico_core::key::Family;

/// `IFNAMSIZ` without its NUL.
const INTERFACE_MAX: usize = 15;

/// Checks `transaction` against the sets that are known before it.
pub(super) fn transaction(
    transaction: &Transaction,
    known: &BTreeMap<SetId, SetKind>,
) -> Result<(), DataplaneError> {
    // `None`: removed by this transaction.
    let mut changed: BTreeMap<&SetId, Option<SetKind>> = BTreeMap::new();
    let mut result = Ok(());
    for update in &transaction.updates {
        let kind_of =
            |id: &SetId| changed.get(id).copied().unwrap_or_else(|| known.get(id).copied());
        let checked = match update {
            Update::Set { id, kind, members: of } => members(id, *kind, of),
            Update::SetDelta { id, added, removed } => match kind_of(id) {
                None => Err(format!("set {id} changes but was not described")),
                Some(kind) => members(id, kind, added).and_then(|()| members(id, kind, removed)),
            },
            Update::Rules { owner, rules } => {
                references(rules, kind_of).map_err(|reason| format!("{owner}: {reason}"))
            }
            Update::Endpoint(endpoint) => {
                interface(&endpoint.interface).map_err(|e| format!("endpoint {}: {e}", endpoint.id))
            }
            Update::Host(host) => interface(&host.interface_prefix),
            _ => Ok(()),
        };
        if result.is_ok() {
            result = checked;
        }
        match update {
            Update::Set { id, kind, .. } => {
                changed.insert(id, Some(*kind));
            }
            Update::SetRemoved(id) => {
                changed.insert(id, None);
            }
            _ => {}
        }
    }
    result.map_err(|reason| DataplaneError::Invalid { reason })
}

fn members(id: &SetId, kind: SetKind, members: &[SetMember]) -> Result<(), String> {
    let fits = |member: &SetMember| match (kind, member) {
        (SetKind::Address, SetMember::Net(net)) => net.prefix_len() == Family::of_net(net).bits(),
        (SetKind::Net, SetMember::Net(_)) | (SetKind::AddressPort, SetMember::Port { .. }) => true,
        _ => false,
    };
    match members.iter().find(|member| !fits(member)) {
        None => Ok(()),
        Some(member) => Err(format!("set {id} is of kind {kind:?} and cannot hold {member:?}")),
    }
}

fn references(rules: &RuleSet, kind_of: impl Fn(&SetId) -> Option<SetKind>) -> Result<(), String> {
    let sets = |of_ports: bool, sets: &[SetId]| {
        for id in sets {
            match kind_of(id) {
                None => return Err(format!("a rule names set {id}, which was not described")),
                Some(kind) if (kind == SetKind::AddressPort) != of_ports => {
                    return Err(format!("a rule uses set {id} of kind {kind:?} as another kind"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    };
    for rule in rules.ingress.iter().chain(&rules.egress) {
        for side in [&rule.source, &rule.destination] {
            sets(false, &side.sets)?;
            sets(false, &side.not_sets)?;
            sets(true, &side.port_sets)?;
            sets(true, &side.not_port_sets)?;
        }
    }
    Ok(())
}

fn interface(name: &str) -> Result<(), String> {
    let valid = !name.is_empty()
        && name.len() <= INTERFACE_MAX
        && !name.bytes().any(|b| b == 0 || b == b'/' || b.is_ascii_whitespace());
    if valid {
        Ok(())
    } else {
        Err(format!("{name:?} is no interface name (1 to {INTERFACE_MAX} bytes, no blank, no /)"))
    }
}
