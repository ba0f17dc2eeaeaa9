//! Addresses of services of type `LoadBalancer`: what one keeps, gives back and still needs. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::key::Family;
use calico_core::resource::{AllowedUse, AssignmentMode};
use ipnet::IpNet;

use super::block::Allocation;
use super::owner::Owner;
use super::pool::{Labels, Pool};

/// Owner of the blocks that services have their addresses from: `virtual:load-balancer`.
#[must_use]
pub fn owner() -> Owner {
    Owner::virtual_named("load-balancer")
}

/// What a service of type `LoadBalancer` wants: one address of each family at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceWish {
    /// What its addresses are assigned under; of Kubernetes' services
    /// `calico_core::resource::service_handle`.
    pub handle: String,
    /// What is recorded with each: service, namespace, type, timestamp.
    pub attributes: BTreeMap<String, String>,
    /// Exactly these addresses; empty: whatever there is.
    pub addresses: Vec<IpAddr>,
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
    /// The only IPv4 pools to use, by name or CIDR; empty: those that serve without being asked for.
    pub v4_pools: Vec<String>,
    /// The only IPv6 pools to use.
    pub v6_pools: Vec<String>,
    /// Labels of its namespace, for pools with a namespace selector.
    pub namespace: Option<Labels>,
}

impl ServiceWish {
    /// Of the addresses that it has, those to give back: not what it asks for, from a pool that
    /// is not for services (any more), or the second of one family.
    #[must_use]
    pub fn surplus<'a>(&self, has: &'a [Allocation], pools: &[Pool]) -> Vec<&'a Allocation> {
        let mut families = Vec::new();
        let mut surplus = Vec::new();
        for allocation in has {
            let family = Family::of(allocation.address);
            if self.fits(allocation.address, pools) && !families.contains(&family) {
                families.push(family);
            } else {
                surplus.push(allocation);
            }
        }
        surplus
    }

    /// Whether it may have this address.
    fn fits(&self, address: IpAddr, pools: &[Pool]) -> bool {
        let Some(pool) = pools.iter().find(|pool| pool.cidr.contains(&address)) else {
            return false;
        };
        if !pool.allows(AllowedUse::LoadBalancer) {
            return false;
        }
        if !self.addresses.is_empty() {
            return self.addresses.contains(&address);
        }
        let family = Family::of(address);
        if !self.wants(family) {
            return false;
        }
        let asked = self.pools(family);
        if asked.is_empty() {
            // From one that must be asked for, as long as it asked.
            return pool.mode() != AssignmentMode::Manual;
        }
        let net = |text: &String| text.parse::<IpNet>().ok().map(|net| net.trunc());
        asked.iter().any(|asked| *asked == pool.name || net(asked) == Some(pool.cidr))
    }

    /// Whether it wants an address of this family.
    #[must_use]
    pub const fn wants(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The pools that it asks for.
    #[must_use]
    pub fn pools(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.v4_pools,
            Family::V6 => &self.v6_pools,
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_core::resource::AllocationAttribute;

    use super::*;

    fn pool(name: &str, cidr: &str, more: &str) -> Pool {
        let json =
            format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"cidr":"{cidr}"{more}}}}}"#);
        Pool::new(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    fn check(wish: &ServiceWish, has: &[&str], surplus: &[&str]) {
        let uses = r#","allowedUses":["LoadBalancer"]"#;
        let pools = [
            pool("a", "10.0.0.0/24", uses),
            pool("b", "10.0.1.0/24", uses),
            pool("six", "fd00::/120", uses),
            pool("manual", "10.0.2.0/24", &format!(r#"{uses},"assignmentMode":"Manual""#)),
            pool("pods", "10.0.3.0/24", ""),
        ];
        let has: Vec<Allocation> = has
            .iter()
            .map(|ip| Allocation {
                address: ip.parse().unwrap(),
                attributes: AllocationAttribute::default(),
                sequence: None,
            })
            .collect();
        let found = wish.surplus(&has, &pools);
        let found: Vec<String> = found.iter().map(|a| a.address.to_string()).collect();
        assert_eq!(found, surplus, "{wish:?}");
    }

    #[test]
    fn a_service_keeps_what_it_asks_for() {
        let any = ServiceWish { v4: true, v6: true, ..ServiceWish::default() };
        check(&any, &["10.0.0.1", "fd00::1"], &[]);
        check(&any, &["10.0.0.1", "10.0.1.1"], &["10.0.1.1"]);
        check(&any, &["10.0.2.1", "10.0.3.1", "10.9.0.1"], &["10.0.2.1", "10.0.3.1", "10.9.0.1"]);
        let four = ServiceWish { v4: true, ..ServiceWish::default() };
        check(&four, &["10.0.0.1", "fd00::1"], &["fd00::1"]);
        let named = ServiceWish { v4_pools: vec!["b".into()], ..any.clone() };
        check(&named, &["10.0.0.1", "10.0.1.1", "fd00::1"], &["10.0.0.1"]);
        let manual = ServiceWish { v4_pools: vec!["10.0.2.0/24".into()], ..any.clone() };
        check(&manual, &["10.0.2.1"], &[]);
        let exact = ServiceWish { addresses: vec!["10.0.2.7".parse().unwrap()], ..any };
        check(&exact, &["10.0.2.7", "10.0.0.1", "fd00::1"], &["10.0.0.1", "fd00::1"]);
    }
}
