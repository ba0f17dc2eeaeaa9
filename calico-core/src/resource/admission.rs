//! Validation that needs a look at other objects: what a store's front door checks before a
//! write, after [`Resource::validate`](super::Resource::validate).
//!
//! Pure: the caller asks [`Change::needs`] what to read, reads it, and hands it over.
//!
//! ```
//! use calico_core::resource::admission::Change;
//! use calico_core::resource::{AnyResource, IpPool, IpPoolSpec};
//!
//! let pool = |name: &str, cidr: &str| -> AnyResource {
//!     IpPool::new(name, IpPoolSpec::new(cidr.parse().unwrap())).into()
//! };
//! let (first, second) = (pool("a", "10.0.0.0/16"), pool("b", "10.0.1.0/24"));
//! let errors = Change::Create(&second).check(&[(first.key(), first.to_json())]).unwrap_err();
//! assert_eq!(errors[0].to_string(), "spec.cidr: 10.0.1.0/24 overlaps IP pool a (10.0.0.0/16)");
//! ```

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    AllowedUse, AnyResource, DEFAULT_ALLOW_PROFILE, DEFAULT_TIER, Errors, FieldError, IpPool,
    IpPoolSpec, Path, Tier,
};
use crate::key::{Key, Scope};
use crate::kind::Kind;

/// A write that somebody wants to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change<'a> {
    /// A new object.
    Create(&'a AnyResource),
    /// An object in place of another of the same key.
    Update {
        /// What is stored.
        old: &'a AnyResource,
        /// What shall be stored.
        new: &'a AnyResource,
    },
    /// The end of an object.
    Delete(&'a AnyResource),
}

/// Kinds that stand in a tier.
const POLICIES: [Kind; 4] = [
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
];

const SPEC: Path<'static> = Path::Root.key("spec");
const METADATA: Path<'static> = Path::Root.key("metadata");

impl<'a> Change<'a> {
    /// The objects that [`check`](Self::check) must see; empty for most changes.
    #[must_use]
    pub fn needs(&self) -> Vec<Scope> {
        match self {
            Self::Create(new) if new.kind == Kind::IpPool => {
                vec![Scope::Kind(Kind::IpPool), Scope::Blocks]
            }
            Self::Delete(old) if old.kind == Kind::Tier => {
                POLICIES.iter().map(|kind| Scope::Kind(*kind)).collect()
            }
            // The default tier always exists.
            change => match change.new_tier() {
                Some(tier) if tier != DEFAULT_TIER => vec![Scope::Kind(Kind::Tier)],
                _ => Vec::new(),
            },
        }
    }

    /// Checks the change. `others` are the objects of [`needs`](Self::needs) as stored; further
    /// ones do no harm, and those that cannot be read are passed over.
    ///
    /// # Errors
    /// Everything that stands against the change, each with its path.
    pub fn check(&self, others: &[(Key, Arc<str>)]) -> Result<(), Vec<FieldError>> {
        let mut errors = Errors::default();
        let others = || others.iter().map(|(key, text)| (key, text.as_ref()));
        match self {
            Self::Create(new) => {
                if let Ok(pool) = new.typed::<IpPoolSpec>() {
                    new_pool(&pool, others(), &mut errors);
                }
            }
            Self::Update { old, new } => {
                if let (Ok(old), Ok(new)) = (old.typed::<IpPoolSpec>(), new.typed::<IpPoolSpec>()) {
                    same_pool(&old.spec, &new.spec, &mut errors);
                }
                read_only(new, "changed", &mut errors);
            }
            Self::Delete(old) => {
                if old.kind == Kind::Tier {
                    empty_tier(old.name(), others(), &mut errors);
                }
                read_only(old, "deleted", &mut errors);
            }
        }
        if let Some(tier) = self.new_tier() {
            tier_exists(tier, others(), &mut errors);
        }
        errors.into_result()
    }

    /// The tier that a policy comes into by this change.
    fn new_tier(&self) -> Option<&'a str> {
        let (old, new) = match *self {
            Self::Create(new) => (None, new),
            Self::Update { old, new } => (Some(old), new),
            Self::Delete(_) => return None,
        };
        if !POLICIES.contains(&new.kind) {
            return None;
        }
        let tier = tier_of(&new.fields);
        (old.map(|old| tier_of(&old.fields)) != Some(tier)).then_some(tier)
    }
}

fn tier_of(fields: &serde_json::Map<String, Value>) -> &str {
    let named = fields.get("spec").and_then(|spec| spec["tier"].as_str());
    named.filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER)
}

fn tier_exists<'a>(
    tier: &str,
    mut others: impl Iterator<Item = (&'a Key, &'a str)>,
    errors: &mut Errors,
) {
    let wanted = Key::resource(Kind::Tier, None, tier);
    let exists = Tier::is_built_in(tier) || others.any(|(key, _)| *key == wanted);
    errors.require(
        exists,
        &SPEC.key("tier"),
        format!("there is no tier {tier}; create it first, or use {DEFAULT_TIER}"),
    );
}

fn empty_tier<'a>(
    tier: &str,
    others: impl Iterator<Item = (&'a Key, &'a str)>,
    errors: &mut Errors,
) {
    const SHOWN: usize = 3;
    if Tier::is_built_in(tier) {
        errors.push(&METADATA.key("name"), "is a built-in tier, which must stay");
    }
    let inside = |(key, text): (&Key, &str)| {
        let Key::Resource { kind, namespace, name } = key else { return None };
        if !POLICIES.contains(kind) {
            return None;
        }
        let policy: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
        let namespace = namespace.as_ref().map(|ns| format!("{ns}/")).unwrap_or_default();
        (tier_of(&policy) == tier).then(|| format!("{kind} {namespace}{name}"))
    };
    let policies: Vec<String> = others.filter_map(inside).collect();
    if policies.is_empty() {
        return;
    }
    let mut text = policies[..policies.len().min(SHOWN)].join(", ");
    if policies.len() > SHOWN {
        text.push_str(&format!(" and {} more", policies.len() - SHOWN));
    }
    errors.push(
        &METADATA.key("name"),
        format!("the tier still has {text}; delete or move them first"),
    );
}

fn new_pool<'a>(
    pool: &IpPool,
    others: impl Iterator<Item = (&'a Key, &'a str)>,
    errors: &mut Errors,
) {
    let cidr = pool.spec.cidr;
    let at = SPEC.key("cidr");
    let mut wrong_sizes = Vec::new();
    for (key, text) in others {
        match key {
            Key::Resource { kind: Kind::IpPool, name, .. } if name != pool.name() => {
                let Ok(other) = serde_json::from_str::<IpPool>(text) else { continue };
                let other = other.spec.cidr;
                let apart = !overlaps(&cidr, &other);
                let message = format!("{cidr} overlaps IP pool {name} ({other})");
                errors.require(apart, &at, message);
            }
            Key::Block(block)
                if overlaps(&cidr, block) && block.prefix_len() != pool.spec.block_size() =>
            {
                wrong_sizes.push(*block);
            }
            _ => {}
        }
    }
    if let Some(block) = wrong_sizes.first() {
        errors.push(
            &SPEC.key("blockSize"),
            format!(
                "is {}, but {} block(s) of another size exist in {cidr}, such as {block}; use \
                 blockSize {}, or release them first",
                pool.spec.block_size(),
                wrong_sizes.len(),
                block.prefix_len()
            ),
        );
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn same_pool(old: &IpPoolSpec, new: &IpPoolSpec, errors: &mut Errors) {
    // Another spelling of the same range is no change.
    errors.require(
        old.cidr.trunc() == new.cidr.trunc(),
        &SPEC.key("cidr"),
        format!("cannot change from {}; create another pool and move to it", old.cidr),
    );
    errors.require(
        old.block_size() == new.block_size(),
        &SPEC.key("blockSize"),
        format!("cannot change from {}; create another pool and move to it", old.block_size()),
    );
    let for_balancers = |pool: &IpPoolSpec| pool.allowed_uses().contains(&AllowedUse::LoadBalancer);
    errors.require(
        !for_balancers(old) || for_balancers(new),
        &SPEC.key("allowedUses"),
        "cannot change from LoadBalancer to other uses; create another pool",
    );
}

/// The one object that only the system writes.
fn read_only(resource: &AnyResource, done: &str, errors: &mut Errors) {
    if resource.kind == Kind::Profile && resource.name() == DEFAULT_ALLOW_PROFILE {
        let message = format!("is a built-in profile; it cannot be {done}");
        errors.push(&METADATA.key("name"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Mode;
    use serde_json::json;

    fn resource(kind: &str, name: &str, spec: Value) -> AnyResource {
        let value =
            json!({"kind": kind, "metadata": {"name": name, "namespace": "x"}, "spec": spec});
        AnyResource::from_value(value, Mode::Tolerant).unwrap()
    }

    fn stored(resources: &[&AnyResource]) -> Vec<(Key, Arc<str>)> {
        resources.iter().map(|resource| (resource.key(), resource.to_json())).collect()
    }

    #[track_caller]
    fn check(change: Change<'_>, others: &[&AnyResource], expected: &[&str]) {
        let found = change.check(&stored(others)).err().unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn pools_do_not_overlap_and_fit_the_blocks_there_are() {
        let pool = |name, cidr: &str| resource("IPPool", name, json!({"cidr": cidr}));
        let (a, b) = (pool("a", "10.0.0.0/16"), pool("b", "10.0.0.0/8"));
        let v6 = pool("v6", "fd00::/64");
        check(Change::Create(&b), &[&a, &v6], &["overlaps IP pool a (10.0.0.0/16)"]);
        check(Change::Create(&pool("c", "10.1.0.0/16")), &[&a, &v6], &[]);
        check(Change::Create(&a), &[&a], &[]);
        let block: Key = Key::Block("10.0.0.0/28".parse().unwrap());
        let errors = Change::Create(&a).check(&[(block, "{}".into())]).unwrap_err();
        assert!(errors[0].to_string().contains("use blockSize 28"), "{errors:?}");
        assert_eq!(Change::Create(&a).needs().len(), 2);
    }

    #[test]
    fn a_pool_stays_what_it_is() {
        let spec = |cidr: &str, size: u8, uses: &str| {
            let spec = json!({"cidr": cidr, "blockSize": size, "allowedUses": [uses]});
            resource("IPPool", "a", spec)
        };
        let old = spec("10.0.0.0/16", 26, "LoadBalancer");
        let update = |new: AnyResource, expected: &[&str]| {
            check(Change::Update { old: &old, new: &new }, &[], expected);
        };
        update(spec("10.0.0.0/16", 0, "LoadBalancer"), &[]);
        update(
            spec("10.0.0.0/17", 27, "Workload"),
            &["spec.cidr: cannot change", "spec.blockSize: cannot", "spec.allowedUses: cannot"],
        );
    }

    #[test]
    fn policies_need_their_tier_and_hold_it() {
        let policy = |tier: &str| resource("NetworkPolicy", "p", json!({"tier": tier}));
        let tier = resource("Tier", "security", json!({"order": 5}));
        let (in_tier, unset) = (policy("security"), policy(""));
        check(Change::Create(&in_tier), &[], &["spec.tier: there is no tier security"]);
        check(Change::Create(&in_tier), &[&tier], &[]);
        check(Change::Create(&unset), &[], &[]);
        check(Change::Update { old: &in_tier, new: &in_tier }, &[], &[]);
        check(Change::Update { old: &unset, new: &in_tier }, &[], &["no tier security"]);
        check(Change::Delete(&tier), &[&unset], &[]);
        check(Change::Delete(&tier), &[&unset, &in_tier], &["still has NetworkPolicy x/p"]);
        check(Change::Delete(&resource("Tier", "default", json!({}))), &[], &["built-in"]);
        assert!(Change::Create(&unset).needs().is_empty());
    }

    #[test]
    fn the_built_in_profile_is_read_only() {
        let profile = resource("Profile", DEFAULT_ALLOW_PROFILE, json!({}));
        check(Change::Delete(&profile), &[], &["cannot be deleted"]);
        check(Change::Update { old: &profile, new: &profile }, &[], &["cannot be changed"]);
    }
}
