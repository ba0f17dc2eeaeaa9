//! From the selectors of a policy to one selector over an endpoint's effective labels.
//!
//! An endpoint inherits the labels of its namespace under `pcns.` and those of its service
//! account under `pcsa.`, so that namespace and service account selectors become selectors
//! of the endpoint.

use super::{Expr, Selector};
use crate::resource::{
    EntityRule, FieldError, GlobalNetworkPolicySpec, NAMESPACE_LABEL_PREFIX, NetworkPolicySpec,
    SERVICE_ACCOUNT_LABEL_PREFIX,
};

/// Label that holds an endpoint's namespace.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Label that holds an endpoint's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

/// Label that holds an endpoint's orchestrator.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";

/// The endpoints that a policy of `namespace` applies to.
///
/// # Errors
/// A selector that does not parse, with its path.
pub fn policy_selector(spec: &NetworkPolicySpec, namespace: &str) -> Result<Selector, FieldError> {
    let home = Expr::equal(NAMESPACE_LABEL, namespace);
    let mut expr = match parse(&spec.selector, "spec.selector")? {
        Some(selector) => Expr::And(vec![selector, home]),
        None => home,
    };
    if let Some(accounts) = parse(&spec.service_account_selector, "spec.serviceAccountSelector")? {
        let accounts = accounts.with_label_prefix(SERVICE_ACCOUNT_LABEL_PREFIX);
        expr = Expr::And(vec![expr, accounts]);
    }
    Ok(expr.into())
}

/// The endpoints that a global policy applies to.
///
/// # Errors
/// A selector that does not parse, with its path.
pub fn global_policy_selector(spec: &GlobalNetworkPolicySpec) -> Result<Selector, FieldError> {
    let mut expr = parse(&spec.selector, "spec.selector")?;
    let namespaces = parse(&spec.namespace_selector, "spec.namespaceSelector")?;
    let accounts = parse(&spec.service_account_selector, "spec.serviceAccountSelector")?;
    for (inherited, prefix, label) in [
        (namespaces, NAMESPACE_LABEL_PREFIX, NAMESPACE_LABEL),
        (accounts, SERVICE_ACCOUNT_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL),
    ] {
        if let Some(inherited) = inherited {
            let inherited = inherited.with_label_prefix(prefix);
            let joined = Expr::all_of(expr.into_iter().chain([inherited]).collect());
            // Upstream replaces every all(), also one in the endpoint selector: naming
            // namespaces at all limits the policy to endpoints that have one.
            expr = Some(replace_all(&joined, label));
        }
    }
    Ok(expr.unwrap_or(Expr::All).into())
}

/// The endpoints and network sets that one end of a rule matches, or `None` if its address
/// is not restricted by labels.
///
/// `namespace` is the policy's; empty for global policies and profiles. The rule's
/// `notSelector` is not part of it: see [`entity_not_selector`].
///
/// # Errors
/// A selector that does not parse, with its path below the entity.
pub fn entity_selector(
    entity: &EntityRule,
    namespace: &str,
) -> Result<Option<Selector>, FieldError> {
    let namespaces = parse(&entity.namespace_selector, "namespaceSelector")?.map(|expr| {
        expr.with_label_prefix(NAMESPACE_LABEL_PREFIX).map_leaves(&|leaf| match leaf {
            Expr::All => Expr::has(NAMESPACE_LABEL),
            Expr::Global => Expr::has(NAMESPACE_LABEL).negate(),
            other => other.clone(),
        })
    });
    let mut own = Vec::new();
    if let Some(accounts) = &entity.service_accounts {
        let mut parts = Vec::new();
        if let Some(expr) = parse(&accounts.selector, "serviceAccounts.selector")? {
            parts.push(expr.with_label_prefix(SERVICE_ACCOUNT_LABEL_PREFIX));
        }
        if !accounts.names.is_empty() {
            let names = accounts.names.iter().map(String::as_str);
            parts.push(Expr::one_of(SERVICE_ACCOUNT_LABEL, names));
        }
        if !parts.is_empty() {
            own.push(Expr::all_of(parts));
        }
    }
    own.extend(parse(&entity.selector, "selector")?);
    let restricted = !own.is_empty() || !entity.not_selector.is_empty();
    let place = match namespaces {
        Some(expr) => Some(expr),
        None if !namespace.is_empty() && restricted => {
            Some(Expr::equal(NAMESPACE_LABEL, namespace))
        }
        None => None,
    };
    let own = (!own.is_empty()).then(|| Expr::all_of(own));
    let parts: Vec<Expr> = place.into_iter().chain(own).collect();
    Ok((!parts.is_empty()).then(|| Expr::all_of(parts).into()))
}

/// The endpoints and network sets that one end of a rule must not match.
///
/// # Errors
/// A selector that does not parse, with its path below the entity.
pub fn entity_not_selector(entity: &EntityRule) -> Result<Option<Selector>, FieldError> {
    Ok(parse(&entity.not_selector, "notSelector")?.map(Selector::from))
}

/// The endpoints and network sets that one end of a rule matches, and those that it must not match.
///
/// With both in a rule, the latter are taken out of the former by their labels, as upstream's
/// graph does: who is left may share an address with who is not.
///
/// # Errors
/// A selector that does not parse, with its path below the entity.
pub fn entity_selectors(
    entity: &EntityRule,
    namespace: &str,
) -> Result<(Option<Selector>, Option<Selector>), FieldError> {
    let (selected, excluded) = (entity_selector(entity, namespace)?, entity_not_selector(entity)?);
    Ok(match (selected, excluded) {
        (Some(selected), Some(excluded)) => {
            let parts = vec![selected.expr().clone(), excluded.expr().clone().negate()];
            (Some(Expr::all_of(parts).into()), None)
        }
        either => either,
    })
}

/// The expression of a selector field, if it says anything.
fn parse(text: &str, path: &str) -> Result<Option<Expr>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    super::parse::parse(text).map(Some).map_err(|error| FieldError::new(path, error.to_string()))
}

/// The expression with each `all()` replaced by the demand for `label`.
fn replace_all(expr: &Expr, label: &str) -> Expr {
    expr.map_leaves(&|leaf| match leaf {
        Expr::All => Expr::has(label),
        other => other.clone(),
    })
}
