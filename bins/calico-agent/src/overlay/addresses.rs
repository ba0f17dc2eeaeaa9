//! Addresses of this node's tunnel devices, from IPAM, told in its Node resource.
//!
//! As upstream: one per kind, from the enabled pools with that encapsulation that select the node and
//! allow tunnels, under the handle `vxlan-tunnel-addr-<node>` (and the like) and with the attributes
//! `node` and `type`. Without such a pool it is released. An address of older versions, which has
//! neither handle nor attributes, gets both.
//!
//! An address that is held since before a start is confirmed before it is used, and again from
//! time to time, so that a node which was taken for gone hears that its address is another's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::AllowedUse;
use calico_ipam::{AssignIp, Ipam, IpamError, Release, Tunnel};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::absence::Absence;

/// Before a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(2);

/// How often it is made sure that the addresses are still this node's.
const AGAIN: Duration = Duration::from_secs(300);

/// What a tunnel address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// IP-in-IP.
    Ipip,
    /// VXLAN for IPv4.
    VxlanV4,
    /// VXLAN for IPv6.
    VxlanV6,
}

impl TunnelKind {
    /// In upstream's order of allocation.
    pub const ALL: [Self; 3] = [Self::Ipip, Self::VxlanV4, Self::VxlanV6];

    /// As IPAM calls it.
    const fn tunnel(self) -> Tunnel {
        match self {
            Self::Ipip => Tunnel::Ipip,
            Self::VxlanV4 => Tunnel::Vxlan,
            Self::VxlanV6 => Tunnel::VxlanV6,
        }
    }

    /// Where a Node's spec has it.
    const fn field(self) -> &'static [&'static str] {
        match self {
            Self::Ipip => &["bgp", "ipv4IPIPTunnelAddr"],
            Self::VxlanV4 => &["ipv4VXLANTunnelAddr"],
            Self::VxlanV6 => &["ipv6VXLANTunnelAddr"],
        }
    }
}

/// Where an address may come from, and which one the Node resource names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedAddress {
    /// Pools; none: no address is wanted.
    pub pools: Vec<IpNet>,
    /// What the Node resource says.
    pub present: Option<IpAddr>,
}

/// What IPAM is to do for this node, besides pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses of all kinds; none until the node is known.
    pub addresses: Option<BTreeMap<TunnelKind, WantedAddress>>,
    /// Nodes that have left something.
    pub absence: Absence,
}

/// Why an address cannot be had yet.
#[derive(Debug, thiserror::Error)]
enum AddressError {
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the Node resource cannot be understood")]
    Node(#[from] serde_json::Error),
}

/// Assigns, announces and releases addresses as they are wanted, until nobody wants any more.
pub async fn run(node: String, store: Arc<dyn Datastore>, mut wanted: watch::Receiver<Wanted>) {
    let ipam = Ipam::new(Arc::clone(&store), calico_ipam::Options::default());
    let mut addresses = Addresses { node, store, ipam, sure: BTreeMap::new() };
    let mut complained = false;
    loop {
        let all = wanted.borrow_and_update().addresses.clone().unwrap_or_default();
        let mut failed = false;
        for (kind, address) in all {
            if let Err(error) = addresses.settle(kind, &address).await {
                failed = true;
                if !std::mem::replace(&mut complained, true) {
                    warn!(?kind, %error, "no address for a tunnel yet");
                }
            }
        }
        complained &= failed;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(if failed { RETRY } else { AGAIN }) => {
                if !failed {
                    addresses.sure.clear();
                }
            }
        }
    }
}

/// Who sees to it that the tunnels have addresses.
struct Addresses {
    node: String,
    store: Arc<dyn Datastore>,
    ipam: Ipam,
    /// Addresses known to be this node's.
    sure: BTreeMap<TunnelKind, IpAddr>,
}

impl Addresses {
    async fn settle(
        &mut self,
        kind: TunnelKind,
        wanted: &WantedAddress,
    ) -> Result<(), AddressError> {
        if wanted.pools.is_empty() && wanted.present.is_none() && !self.sure.contains_key(&kind) {
            // The usual case of a kind that nobody uses; what a crash left is found by its name.
            self.release(kind).await?;
            return Ok(());
        }
        let usable = |address: &IpAddr| wanted.pools.iter().any(|pool| pool.contains(address));
        let mut address = self.held(kind).await?.filter(usable);
        if address.is_none() {
            self.release(kind).await?;
            address = self.adopt(kind, wanted).await?;
        }
        if address.is_none() && !wanted.pools.is_empty() {
            let pools = wanted.pools.iter().map(ToString::to_string).collect();
            let request = kind.tunnel().request(&self.node, pools);
            let assigned = self.ipam.auto_assign(request).await?.complete()?;
            address = assigned.addresses().next().map(|it| it.ip);
            info!(?kind, ?address, "assigned an address to a tunnel");
        }
        match address {
            Some(address) => drop(self.sure.insert(kind, address)),
            None => drop(self.sure.remove(&kind)),
        }
        if address == wanted.present {
            return Ok(());
        }
        tell(&self.node, &*self.store, kind, address).await
    }

    /// The address that this node has for sure.
    async fn held(&self, kind: TunnelKind) -> Result<Option<IpAddr>, AddressError> {
        let handle = self.handle(kind);
        let held = self.ipam.addresses_by_handle(&handle).await?;
        let Some(address) = held.first().copied() else { return Ok(None) };
        if self.sure.get(&kind) == Some(&address) {
            return Ok(Some(address));
        }
        Ok(self.ipam.confirm_address(address, &handle).await?.then_some(address))
    }

    async fn release(&mut self, kind: TunnelKind) -> Result<(), AddressError> {
        let released = self.ipam.release_by_handle(&self.handle(kind)).await?;
        if !released.is_empty() {
            info!(?kind, addresses = ?released, "released the address of a tunnel");
        }
        self.sure.remove(&kind);
        Ok(())
    }

    /// Takes over what the Node resource names, if it is this node's though no handle says so: it is
    /// of a version before handles, or its handle was lost.
    async fn adopt(
        &self,
        kind: TunnelKind,
        wanted: &WantedAddress,
    ) -> Result<Option<IpAddr>, AddressError> {
        let Some(address) = wanted.present else { return Ok(None) };
        let Some(found) = self.ipam.lookup(address).await? else { return Ok(None) };
        let attributes = &found.attributes;
        let ours = match &attributes.handle_id {
            None => attributes.secondary.is_empty() && attributes.released_at.is_none(),
            Some(handle) => *handle == self.handle(kind),
        };
        if !ours {
            return Ok(None);
        }
        let gone = self.ipam.release_ips(&[Release::exactly(&found)]).await?;
        let fits = wanted.pools.iter().any(|pool| pool.contains(&address));
        if gone.released.is_empty() || !fits {
            return Ok(None);
        }
        let mut request = AssignIp::new(&self.node, address);
        request.handle = Some(self.handle(kind));
        request.attributes = kind.tunnel().attributes(&self.node);
        request.intended_use = AllowedUse::Tunnel;
        match self.ipam.assign_ip(request).await {
            Ok(_) => {
                info!(?kind, %address, "a tunnel's address of an older version has a handle now");
                Ok(Some(address))
            }
            // Somebody was faster: another one does, too.
            Err(IpamError::InUse { .. } | IpamError::StrictAffinity { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn handle(&self, kind: TunnelKind) -> String {
        kind.tunnel().handle(&self.node)
    }
}

/// Writes the address into the Node resource; all else in it stays as it is.
async fn tell(
    node: &str,
    store: &dyn Datastore,
    kind: TunnelKind,
    address: Option<IpAddr>,
) -> Result<(), AddressError> {
    let key = Key::resource(Kind::Node, None, node);
    let entry = store.get(&key).await?;
    let mut value: Value = serde_json::from_str(&entry.value)?;
    let mut place = &mut value["spec"];
    let (last, path) = kind.field().split_last().unwrap_or((&"", &[]));
    for step in path {
        place = &mut place[*step];
    }
    match (address, place) {
        (Some(address), place) => place[*last] = json!(address),
        (None, Value::Object(fields)) => drop(fields.remove(*last)),
        (None, _) => return Ok(()),
    }
    // Upstream's clients refuse a Node whose BGP part is there and says nothing.
    if let Value::Object(spec) = &mut value["spec"]
        && spec.get("bgp").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    {
        spec.remove("bgp");
    }
    store.update(key, value.to_string().into(), entry.revision).await?;
    Ok(())
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
