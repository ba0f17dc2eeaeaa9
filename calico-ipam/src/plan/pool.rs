//! Pools, and which of them may serve a request.

use std::collections::BTreeMap;
use std::fmt;

use calico_core::key::Family;
use calico_core::resource::{AllowedUse, AssignmentMode, IpPool};
use calico_core::selector::Selector;
use ipnet::IpNet;

use super::geometry::Geometry;

/// Labels of a node or of a namespace.
pub type Labels = BTreeMap<String, String>;

/// An IP pool, ready to choose from.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub cidr: IpNet,
    /// How it is cut into blocks.
    pub geometry: Geometry,
    /// Why it serves nobody now, if so.
    pub closed: Option<Closed>,
    uses: Vec<AllowedUse>,
    mode: AssignmentMode,
    nodes: Option<Selector>,
    namespaces: Option<Selector>,
}

/// Why a pool serves nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// `spec.disabled` is set.
    Disabled,
    /// It is being deleted.
    Deleting,
    /// Its condition `Allocatable` is false.
    NotAllocatable,
}

/// Why a pool does not serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// It serves nobody now.
    Closed(Closed),
    /// It must be asked for by name.
    Manual,
    /// Its node selector leaves this node out.
    Node,
    /// Its namespace selector leaves this namespace out.
    Namespace,
    /// It is for other uses.
    Use(AllowedUse),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(Closed::Disabled) => f.write_str("is disabled"),
            Self::Closed(Closed::Deleting) => f.write_str("is being deleted"),
            Self::Closed(Closed::NotAllocatable) => f.write_str("is not allocatable"),
            Self::Manual => f.write_str("has assignmentMode Manual"),
            Self::Node => f.write_str("has a nodeSelector that leaves out this node"),
            Self::Namespace => {
                f.write_str("has a namespaceSelector that leaves out this namespace")
            }
            Self::Use(wanted) => write!(f, "does not allow use {wanted}"),
        }
    }
}

/// A pool that cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("IP pool {name} cannot be used: {reason}")]
pub struct BadPool {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// For whom and what a pool is sought.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// Address family.
    pub family: Family,
    /// What the address is for.
    pub intended_use: AllowedUse,
    /// Labels of the node.
    pub node: &'a Labels,
    /// Labels of the namespace; `None` outside of Kubernetes.
    pub namespace: Option<&'a Labels>,
}

impl Pool {
    /// Reads the resource.
    ///
    /// # Errors
    ///
    /// A block size that does not fit, or a selector that cannot be read.
    pub fn new(pool: &IpPool) -> Result<Self, BadPool> {
        let spec = &pool.spec;
        let bad = |reason: String| BadPool { name: pool.name().to_owned(), reason };
        let selector = |text: &str, field: &str| {
            let text = text.trim();
            let parsed = (!text.is_empty()).then(|| text.parse::<Selector>()).transpose();
            parsed.map_err(|error| bad(format!("{field}: {error}")))
        };
        let refused = pool
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|condition| condition.kind == "Allocatable" && condition.status == "False");
        let closed = if pool.metadata.is_being_deleted() {
            Some(Closed::Deleting)
        } else if spec.disabled {
            Some(Closed::Disabled)
        } else {
            refused.then_some(Closed::NotAllocatable)
        };
        Ok(Self {
            name: pool.name().to_owned(),
            cidr: spec.cidr.trunc(),
            geometry: Geometry::new(spec.cidr, spec.block_size()).ok_or_else(|| {
                bad(format!("blocks of size /{} do not fit into {}", spec.block_size(), spec.cidr))
            })?,
            closed,
            uses: spec.allowed_uses().to_vec(),
            mode: spec.assignment_mode(),
            nodes: selector(&spec.node_selector, "nodeSelector")?,
            namespaces: selector(&spec.namespace_selector, "namespaceSelector")?,
        })
    }

    /// Address family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of_net(&self.cidr)
    }

    /// Whether addresses may be used so.
    #[must_use]
    pub fn allows(&self, intended_use: AllowedUse) -> bool {
        self.uses.contains(&intended_use)
    }

    /// Whether it serves those, too, that do not ask for it.
    #[must_use]
    pub const fn mode(&self) -> AssignmentMode {
        self.mode
    }

    /// Whether nodes with these labels may take blocks.
    #[must_use]
    pub fn selects_node(&self, labels: &Labels) -> bool {
        self.nodes.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// Why the pool does not serve `purpose` without being asked for; `None` if it does.
    #[must_use]
    pub fn mismatch(&self, purpose: &Purpose<'_>) -> Option<Mismatch> {
        let in_namespace = self.namespaces.as_ref().is_none_or(|selector| {
            purpose.namespace.is_some_and(|labels| selector.matches(labels))
        });
        if let Some(closed) = self.closed {
            Some(Mismatch::Closed(closed))
        } else if self.mode == AssignmentMode::Manual {
            Some(Mismatch::Manual)
        } else if !self.selects_node(purpose.node) {
            Some(Mismatch::Node)
        } else if !in_namespace {
            Some(Mismatch::Namespace)
        } else {
            (!self.allows(purpose.intended_use)).then_some(Mismatch::Use(purpose.intended_use))
        }
    }
}

/// Why no pool was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPool {
    /// A pool that was asked for does not exist.
    Unknown(String),
    /// A pool that was asked for does not serve the request.
    Refused(String, Mismatch),
    /// No pool of the family serves the request; each that exists, and why not.
    NoneFits(Vec<(String, Mismatch)>),
}

/// The pools that serve `purpose`, as places in `pools`, in order of preference.
///
/// Pools asked for, by name or CIDR, are taken as given: node selector, namespace selector and
/// assignment mode do not count.
///
/// # Errors
///
/// See [`NoPool`].
pub fn choose(
    pools: &[Pool],
    asked: &[String],
    purpose: &Purpose<'_>,
) -> Result<Vec<usize>, NoPool> {
    let family = || pools.iter().enumerate().filter(|(_, pool)| pool.family() == purpose.family);
    if asked.is_empty() {
        let mut why = Vec::new();
        let mut chosen = Vec::new();
        for (place, pool) in family() {
            match pool.mismatch(purpose) {
                None => chosen.push(place),
                Some(mismatch) => why.push((pool.name.clone(), mismatch)),
            }
        }
        return if chosen.is_empty() { Err(NoPool::NoneFits(why)) } else { Ok(chosen) };
    }
    let mut chosen = Vec::new();
    for wanted in asked {
        let net = wanted.parse::<IpNet>().ok().map(|net| net.trunc());
        let (place, pool) = family()
            .find(|(_, pool)| pool.name == *wanted || Some(pool.cidr) == net)
            .ok_or_else(|| NoPool::Unknown(wanted.clone()))?;
        let refusal = match pool.closed {
            Some(closed) => Some(Mismatch::Closed(closed)),
            None if !pool.allows(purpose.intended_use) => Some(Mismatch::Use(purpose.intended_use)),
            None => None,
        };
        if let Some(refusal) = refusal {
            return Err(NoPool::Refused(pool.name.clone(), refusal));
        }
        if !chosen.contains(&place) {
            chosen.push(place);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, spec: &str) -> Pool {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#);
        Pool::new(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    fn check(
        pools: &[Pool],
        asked: &[&str],
        labels: &[(&str, &str)],
        expected: Result<&[usize], &str>,
    ) {
        let labels: Labels =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let purpose = Purpose {
            family: Family::V4,
            intended_use: AllowedUse::Workload,
            node: &labels,
            namespace: None,
        };
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        let found = choose(pools, &asked, &purpose).map_err(|why| format!("{why:?}"));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn selectors_uses_and_modes_decide() {
        let pools = [
            pool("all", r#"{"cidr":"10.0.0.0/16"}"#),
            pool("rack", r#"{"cidr":"10.1.0.0/16","nodeSelector":"rack == 'a'"}"#),
            pool("manual", r#"{"cidr":"10.2.0.0/16","assignmentMode":"Manual"}"#),
            pool("tunnel", r#"{"cidr":"10.3.0.0/16","allowedUses":["Tunnel"]}"#),
            pool("off", r#"{"cidr":"10.4.0.0/16","disabled":true}"#),
            pool("ns", r#"{"cidr":"10.5.0.0/16","namespaceSelector":"team == 'x'"}"#),
            pool("six", r#"{"cidr":"fd00::/112"}"#),
        ];
        check(&pools, &[], &[], Ok(&[0]));
        check(&pools, &[], &[("rack", "a")], Ok(&[0, 1]));
        check(&pools[1..], &[], &[], Err("NoneFits"));
        check(&pools, &["rack", "10.2.0.0/16", "rack"], &[], Ok(&[1, 2]));
        check(&pools, &["tunnel"], &[], Err("Use(Workload)"));
        check(&pools, &["off"], &[], Err("Disabled"));
        check(&pools, &["six"], &[], Err("Unknown"));
        check(&pools, &["none"], &[], Err("Unknown"));
    }

    #[test]
    fn a_pool_that_makes_no_sense_is_reported() {
        for spec in
            [r#"{"cidr":"10.0.0.0/28"}"#, r#"{"cidr":"10.0.0.0/16","nodeSelector":"rack =="}"#]
        {
            let json = format!(r#"{{"metadata":{{"name":"bad"}},"spec":{spec}}}"#);
            assert!(Pool::new(&serde_json::from_str(&json).unwrap()).is_err(), "{spec}");
        }
    }
}
