//! Validation: what upstream's schemas and validators check, all problems at once.
//!
//! The files below hold the rules per group of kinds; the `Spec` implementations call them.

mod bgp;
mod endpoints;
mod names;
mod policy;
mod pools;
mod rule;
#[cfg(test)]
mod tests;

pub(super) use self::bgp::{bgp_configuration, bgp_filter, bgp_peer};
pub(super) use self::endpoints::{host_endpoint, live_migration, node, workload_endpoint};
pub(super) use self::policy::{global_policy, policy, staged_delete, tier};
pub(super) use self::pools::{felix, ip_pool, ipam_configuration, network_set};
pub(super) use self::rule::rules;
use super::{Errors, FieldError, ObjectMeta, Path, Resource, Spec};
use crate::selector::{Expr, Selector};

impl<S: Spec> Resource<S> {
    /// Checks everything that upstream's validation checks, short of what needs a look at
    /// other resources.
    ///
    /// # Errors
    /// Everything that is wrong, each with its path.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Errors::default();
        names::metadata(S::KIND, &self.metadata, &mut errors);
        self.spec.validate(&self.metadata, &mut errors);
        errors.into_result()
    }
}

/// The place of the spec.
const SPEC: Path<'static> = Path::Root.key("spec");

/// Where `global()` may stand in a selector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Global {
    /// Nowhere.
    Forbidden,
    /// It may be the whole selector.
    Alone,
}

/// A selector field: not too long, parses, and has `global()` only where that means something.
fn selector(text: &str, global: Global, at: &Path<'_>, errors: &mut Errors) {
    const MAX: usize = 1024;
    errors.require(
        text.chars().count() <= MAX,
        at,
        format!("longer than {MAX} characters; shorten the selector"),
    );
    match text.parse::<Selector>() {
        Err(error) => errors.push(at, error.to_string()),
        Ok(parsed) if !has_global(parsed.expr()) => {}
        Ok(parsed) if global == Global::Alone => {
            let alone = *parsed.expr() == Expr::Global;
            errors.require(alone, at, "global() cannot be combined; let it stand alone");
        }
        Ok(_) => {
            errors.push(at, "global() may stand only in the namespaceSelector of a rule");
        }
    }
}

fn has_global(expr: &Expr) -> bool {
    match expr {
        Expr::Global => true,
        Expr::Not(operand) => has_global(operand),
        Expr::And(operands) | Expr::Or(operands) => operands.iter().any(has_global),
        _ => false,
    }
}

/// A list that is not too long.
fn at_most<T>(list: &[T], max: usize, at: &Path<'_>, errors: &mut Errors) {
    errors.require(
        list.len() <= max,
        at,
        format!("{} entries; at most {max} are allowed", list.len()),
    );
}

/// A list without repetitions.
fn unique<T: PartialEq>(list: &[T], at: &Path<'_>, errors: &mut Errors) {
    for (index, item) in list.iter().enumerate() {
        if list[..index].contains(item) {
            errors.push(&at.index(index), "stands in the list already; remove it");
        }
    }
}

/// The name of an interface; `extra` lists further characters, such as `*`.
fn interface(name: &str, extra: &str, at: &Path<'_>, errors: &mut Errors) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c) || extra.contains(c);
    errors.require(
        (1..=15).contains(&name.len()) && name.chars().all(fits),
        at,
        format!(
            "{name:?} is no interface name: 1 to 15 of letters, digits, `_`, `.`, `-`{}",
            extra.chars().map(|c| format!(", `{c}`")).collect::<String>()
        ),
    );
}

/// Name of a configuration that exists once, or once per node.
fn is_global_configuration(metadata: &ObjectMeta) -> bool {
    metadata.name == "default"
}
