//! Addresses of services of type `LoadBalancer`.

use std::net::IpAddr;

use calico_core::key::{Family, Scope};
use calico_core::kind::Kind;
use calico_core::resource::AllowedUse;

use super::Ipam;
use super::view;
use crate::error::IpamError;
use crate::plan::block::Allocation;
use crate::plan::owner::Owner;
use crate::plan::service::{self, ServiceWish};
use crate::request::{AssignIp, AssignRequest, Release};

/// What a service has now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// What it had and does not any more.
    pub released: Vec<IpAddr>,
    /// Why it lacks something that it wants.
    pub lacks: Option<IpamError>,
}

impl Ipam {
    /// Gives a service of type `LoadBalancer` what it wants, and takes what it does not want any
    /// more. May be repeated, and carried out by several programs at the same time; an address that
    /// fits stays.
    ///
    /// # Errors
    ///
    /// Failures of the store. That something is not to be had is no error but in the answer.
    pub async fn serve(&self, wish: &ServiceWish) -> Result<Served, IpamError> {
        let pools = view::read_pools(&self.store.list(&Scope::Kind(Kind::IpPool)).await?.entries);
        let has = self.allocations_by_handle(&wish.handle).await?;
        let surplus = wish.surplus(&has, &pools);
        let mut served = Served::default();
        if !surplus.is_empty() {
            let releases: Vec<Release> =
                surplus.iter().map(|allocation| Release::exactly(allocation)).collect();
            match self.release_ips(&releases).await {
                Ok(released) => served.released = released.released,
                // Somebody else was faster.
                Err(IpamError::OtherOwner { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        served.addresses = has.iter().map(|allocation| allocation.address).collect();
        served.addresses.retain(|ip| !surplus.iter().any(|gone| gone.address == *ip));
        if wish.addresses.is_empty() {
            self.assign_any(wish, &mut served).await?;
        } else {
            self.assign_these(wish, &mut served).await?;
        }
        served.addresses.sort_by_key(|ip| (ip.is_ipv6(), *ip));
        Ok(served)
    }

    /// Addresses of services, with what is recorded of them.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn served(&self) -> Result<Vec<Allocation>, IpamError> {
        let owner = service::owner();
        let mut found = Vec::new();
        for claim in view::claims(&*self.store, &owner).await?.into_keys() {
            if let Some((block, _)) = view::block(&self.store, claim).await? {
                let used = block.allocations().filter(|a| a.attributes.released_at.is_none());
                found.extend(used);
            }
        }
        Ok(found)
    }

    async fn assign_any(&self, wish: &ServiceWish, served: &mut Served) -> Result<(), IpamError> {
        for family in Family::BOTH {
            let has = served.addresses.iter().any(|ip| Family::of(*ip) == family);
            if has || !wish.wants(family) {
                continue;
            }
            let (mut request, pools) = (request(wish), wish.pools(family).to_vec());
            match family {
                Family::V4 => (request.v4, request.v4_pools) = (1, pools),
                Family::V6 => (request.v6, request.v6_pools) = (1, pools),
            }
            match self.auto_assign(request).await {
                Ok(assigned) => {
                    served.addresses.extend(assigned.addresses().map(|address| address.ip));
                    if let Err(short) = assigned.complete() {
                        served.lacks.get_or_insert(short);
                    }
                }
                Err(error @ IpamError::Store(_)) => return Err(error),
                Err(error) => drop(served.lacks.get_or_insert(error)),
            }
        }
        Ok(())
    }

    async fn assign_these(&self, wish: &ServiceWish, served: &mut Served) -> Result<(), IpamError> {
        for ip in &wish.addresses {
            if served.addresses.contains(ip) {
                continue;
            }
            let mut request = AssignIp::new(node(), *ip);
            request.owner = Some(service::owner());
            request.handle = Some(wish.handle.clone());
            request.attributes.clone_from(&wish.attributes);
            request.intended_use = AllowedUse::LoadBalancer;
            match self.assign_ip(request).await {
                Ok(_) => served.addresses.push(*ip),
                Err(error @ IpamError::Store(_)) => return Err(error),
                Err(error) => drop(served.lacks.get_or_insert(error)),
            }
        }
        Ok(())
    }
}

fn request(wish: &ServiceWish) -> AssignRequest {
    let mut request = AssignRequest::new(node()).handle(&wish.handle).reuse();
    request.owner = Some(service::owner());
    request.attributes.clone_from(&wish.attributes);
    request.namespace.clone_from(&wish.namespace);
    request.intended_use = AllowedUse::LoadBalancer;
    request
}

/// Upstream's name of the node that is none.
fn node() -> String {
    let Owner { kind, name } = service::owner();
    format!("{}:{name}", kind.as_str())
}
