//! Policies and tiers.

use super::{Global, SPEC, names, rules, selector, unique};
use crate::resource::{
    Errors, GlobalNetworkPolicySpec, NetworkPolicySpec, ObjectMeta, PolicyType, Tier, TierAction,
    TierSpec,
};

pub(in crate::resource) fn policy(spec: &NetworkPolicySpec, errors: &mut Errors) {
    tier_name(spec.tier(), errors);
    unique(&spec.types, &SPEC.key("types"), errors);
    selector(&spec.selector, Global::Forbidden, &SPEC.key("selector"), errors);
    let accounts = SPEC.key("serviceAccountSelector");
    selector(&spec.service_account_selector, Global::Forbidden, &accounts, errors);
    rules(&spec.ingress, PolicyType::Ingress, false, &SPEC.key("ingress"), errors);
    rules(&spec.egress, PolicyType::Egress, false, &SPEC.key("egress"), errors);
}

pub(in crate::resource) fn global_policy(spec: &GlobalNetworkPolicySpec, errors: &mut Errors) {
    tier_name(spec.tier(), errors);
    unique(&spec.types, &SPEC.key("types"), errors);
    for (text, name) in [
        (&spec.selector, "selector"),
        (&spec.namespace_selector, "namespaceSelector"),
        (&spec.service_account_selector, "serviceAccountSelector"),
    ] {
        selector(text, Global::Forbidden, &SPEC.key(name), errors);
    }
    rules(&spec.ingress, PolicyType::Ingress, true, &SPEC.key("ingress"), errors);
    rules(&spec.egress, PolicyType::Egress, true, &SPEC.key("egress"), errors);

    errors.require(
        !(spec.pre_dnat && spec.do_not_track),
        &SPEC.key("preDNAT"),
        "cannot be used together with doNotTrack",
    );
    errors.require(
        spec.apply_on_forward || !(spec.pre_dnat || spec.do_not_track),
        &SPEC.key("applyOnForward"),
        "must be true with preDNAT or doNotTrack",
    );
    if spec.pre_dnat {
        errors.require(
            spec.egress.is_empty(),
            &SPEC.key("egress"),
            "a preDNAT policy has ingress rules only",
        );
        errors.require(
            !spec.types.contains(&PolicyType::Egress),
            &SPEC.key("types"),
            "a preDNAT policy has type Ingress only",
        );
    }
}

/// A staged policy that deletes says nothing but its tier.
pub(in crate::resource) fn staged_delete(empty: bool, errors: &mut Errors) {
    errors.require(
        empty,
        &SPEC,
        "with stagedAction Delete only the tier may be given; remove the other fields",
    );
}

pub(in crate::resource) fn tier(spec: &TierSpec, metadata: &ObjectMeta, errors: &mut Errors) {
    let built_in = Tier::built_in().into_iter().find(|tier| tier.name() == metadata.name);
    let Some(built_in) = built_in else { return };
    let action = built_in.spec.default_action.unwrap_or(TierAction::Deny);
    errors.require(
        spec.default_action() == action,
        &SPEC.key("defaultAction"),
        format!("must be {action} in the built-in tier {}", metadata.name),
    );
    let order = built_in.spec.order();
    errors.require(
        spec.order == Some(order),
        &SPEC.key("order"),
        format!("must be {order} in the built-in tier {}", metadata.name),
    );
}

fn tier_name(tier: &str, errors: &mut Errors) {
    errors.require(
        tier.len() <= 63 && names::is_dns_label(tier),
        &SPEC.key("tier"),
        format!("{tier:?} is no tier: at most 63 lower-case letters, digits and `-`"),
    );
}
