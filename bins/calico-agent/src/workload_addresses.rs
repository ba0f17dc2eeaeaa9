//! Addresses of this node on the interfaces of workloads that it has BGP sessions with
//! (`localWorkloadPeeringIPV4`, `localWorkloadPeeringIPV6`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_netlink::rtnl::{Connection, RtnlError};
use calico_netlink::{address, link};
use ipnet::IpNet;
use tracing::{info, warn};

/// Keeps the addresses as a plan wants them. Removes only what it added itself.
#[derive(Debug, Default)]
pub struct WorkloadAddresses {
    wanted: BTreeSet<(String, IpAddr)>,
    /// With the index of the interface, so that a new one of the same name gets it, too.
    present: BTreeMap<(String, IpAddr), u32>,
    complained: BTreeSet<String>,
}

impl WorkloadAddresses {
    /// What is wanted from now on.
    pub fn want(&mut self, wanted: &BTreeMap<String, Vec<IpAddr>>) {
        let pairs = |(name, addresses): (&String, &Vec<IpAddr>)| {
            addresses.iter().map(|address| (name.clone(), *address)).collect::<Vec<_>>()
        };
        self.wanted = wanted.iter().flat_map(pairs).collect();
        self.complained.retain(|name| wanted.contains_key(name));
    }

    /// Whether there is anything to look after.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.present.is_empty()
    }

    /// Makes the kernel as it is wanted. An interface that is not there yet gets its address at
    /// a later call.
    pub fn sync(&mut self) {
        if self.is_idle() {
            return;
        }
        if let Err(error) = self.try_sync() {
            warn!(%error, "cannot look after addresses towards workloads");
        }
    }

    fn try_sync(&mut self) -> Result<(), RtnlError> {
        let mut connection = Connection::open()?;
        for (key, index) in std::mem::take(&mut self.present) {
            if self.wanted.contains(&key) {
                self.present.insert(key, index);
            } else if let Some(link) = link::by_name(&mut connection, &key.0)?
                && link.index == index
            {
                address::delete(&mut connection, index, IpNet::from(key.1))?;
            }
        }
        for key in &self.wanted {
            let (name, own) = key;
            let Some(link) = link::by_name(&mut connection, name)? else { continue };
            if self.present.get(key) == Some(&link.index) {
                continue;
            }
            match address::add(&mut connection, link.index, IpNet::from(*own)) {
                Ok(()) => {
                    info!(interface = name, address = %own, "ready for BGP with a workload");
                    self.present.insert(key.clone(), link.index);
                }
                Err(error) if self.complained.insert(name.clone()) => {
                    warn!(interface = name, address = %own, %error, "cannot add an address");
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}
