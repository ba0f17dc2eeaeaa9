//! Metadata: names, namespaces, labels, annotations.

use crate::kind::Kind;
use crate::resource::{Errors, ObjectMeta, Path};

/// Longest name: a DNS subdomain.
const MAX_NAME: usize = 253;

/// Longest name of a tier, which must fit into a label's value.
const MAX_TIER_NAME: usize = 63;

/// Most bytes that annotations may have together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn metadata(kind: Kind, metadata: &ObjectMeta, errors: &mut Errors) {
    let place = Path::Root.key("metadata");
    let at = place.key("name");
    if !metadata.name.is_empty() {
        name(kind, &metadata.name, &at, errors);
    } else if metadata.generate_name.is_empty() {
        errors.push(&at, "required, but missing");
    }
    errors.require(
        kind.is_namespaced() || metadata.namespace.is_empty(),
        &place.key("namespace"),
        format!("{kind} is cluster-wide; remove the namespace"),
    );
    let labels = place.key("labels");
    for (key, value) in &metadata.labels {
        let at = labels.key(key);
        errors.require(is_qualified(key), &at, KEY_RULE);
        errors.require(
            is_label_value(value),
            &at,
            format!("{value:?} is no label value: {VALUE_RULE}"),
        );
    }
    annotations(&metadata.annotations, &place.key("annotations"), errors);
}

pub(super) fn annotations(
    annotations: &std::collections::BTreeMap<String, String>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    for key in annotations.keys() {
        errors.require(is_qualified(&key.to_ascii_lowercase()), &at.key(key), KEY_RULE);
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    errors.require(
        size <= MAX_ANNOTATIONS,
        at,
        format!("{size} bytes in all; at most {MAX_ANNOTATIONS} are allowed"),
    );
}

fn name(kind: Kind, name: &str, at: &Path<'_>, errors: &mut Errors) {
    let dots = name.bytes().filter(|b| *b == b'.').count();
    let from_kubernetes = ["knp.default.", "ossg.default."].iter().any(|p| name.starts_with(p));
    let (max_len, max_dots) = match kind {
        Kind::Tier => (MAX_TIER_NAME, 0),
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy if from_kubernetes => {
            (MAX_NAME, usize::MAX)
        }
        Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => (MAX_NAME, 1),
        _ => (MAX_NAME, usize::MAX),
    };
    errors.require(
        name.len() <= max_len,
        at,
        format!("{} characters; at most {max_len} are allowed", name.len()),
    );
    errors.require(
        name.split('.').all(is_dns_label),
        at,
        format!("{name:?} is no name: lower-case letters, digits and `-`, in parts joined by `.`"),
    );
    errors.require(
        dots <= max_dots,
        at,
        format!("{dots} dots; the name of a {kind} has at most {max_dots}"),
    );
    let only_default = matches!(
        kind,
        Kind::ClusterInformation | Kind::IpamConfiguration | Kind::KubeControllersConfiguration
    );
    errors.require(!only_default || name == "default", at, format!("a {kind} is named `default`"));
    errors.require(
        kind != Kind::BgpConfiguration || name == "default" || name.starts_with("node."),
        at,
        "a BGPConfiguration is named `default` or `node.<node>`",
    );
}

/// Letters, digits and `-`, lower case, ends no `-`. Length is the caller's affair.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        [only] => inner(*only),
        [first, middle @ .., last] => {
            inner(*first) && inner(*last) && middle.iter().all(|b| inner(*b) || *b == b'-')
        }
    }
}

const KEY_RULE: &str = "no valid key: at most 63 letters, digits, `-`, `_` and `.`, \
                        if need be after a DNS name and `/`";

const VALUE_RULE: &str = "at most 63 letters, digits, `-`, `_` and `.`, ends a letter or digit";

/// A Kubernetes qualified name: `[dns.name/]name`.
pub(super) fn is_qualified(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_fits =
        |prefix: &str| prefix.len() <= MAX_NAME && prefix.split('.').all(is_dns_label);
    prefix.is_none_or(prefix_fits) && !name.is_empty() && is_label_value(name)
}

pub(super) fn is_label_value(value: &str) -> bool {
    let end = |b: u8| b.is_ascii_alphanumeric();
    match value.as_bytes() {
        [] => true,
        [only] => end(*only),
        [first, middle @ .., last] => {
            value.len() <= 63
                && end(*first)
                && end(*last)
                && middle.iter().all(|b| end(*b) || b"-_.".contains(b))
        }
    }
}
