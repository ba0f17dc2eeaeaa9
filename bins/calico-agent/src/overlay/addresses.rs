//! Addresses of this node's tunnel devices, from IPAM, told in its Node resource.
//!
//! As upstream: one per kind, from the enabled pools with that encapsulation that select the node and
//! allow tunnels, under the handle `vxlan-tunnel-addr-<node>` (and the like) and with the attributes
//! `node` and `type`. Without such a pool it is released.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::AllowedUse;
use calico_ipam::{AssignRequest, Ipam, IpamError};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::absence::Absence;

/// Before a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(2);

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

    /// Start of its handle, and the attribute `type`.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipip => ("ipip-tunnel-addr", "ipipTunnelAddress"),
            Self::VxlanV4 => ("vxlan-tunnel-addr", "vxlanTunnelAddress"),
            Self::VxlanV6 => ("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress"),
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
    let mut complained = false;
    loop {
        let all = wanted.borrow_and_update().addresses.clone().unwrap_or_default();
        let mut failed = false;
        for (kind, address) in all {
            if let Err(error) = settle(&node, &store, &ipam, kind, &address).await {
                failed = true;
                if !std::mem::replace(&mut complained, true) {
                    warn!(?kind, %error, "no address for a tunnel yet");
                }
            }
        }
        complained &= failed;
        let changed = async { wanted.changed().await.is_ok() };
        if failed {
            tokio::select! {
                open = changed => if !open { return },
                () = tokio::time::sleep(RETRY) => {}
            }
        } else if !changed.await {
            return;
        }
    }
}

async fn settle(
    node: &str,
    store: &Arc<dyn Datastore>,
    ipam: &Ipam,
    kind: TunnelKind,
    wanted: &WantedAddress,
) -> Result<(), AddressError> {
    let (prefix, purpose) = kind.names();
    let handle = format!("{prefix}-{node}");
    let held = ipam.addresses_by_handle(&handle).await?;
    let usable = |address: &&IpAddr| wanted.pools.iter().any(|pool| pool.contains(*address));
    let mut address = held.iter().find(usable).copied();
    if address.is_none() {
        if !held.is_empty() {
            ipam.release_by_handle(&handle).await?;
            info!(?kind, addresses = ?held, "released the address of a tunnel");
        }
        if !wanted.pools.is_empty() {
            let mut request = AssignRequest::new(node)
                .handle(&handle)
                .attribute("node", node)
                .attribute("type", purpose);
            let pools = wanted.pools.iter().map(ToString::to_string).collect();
            request.intended_use = AllowedUse::Tunnel;
            if kind == TunnelKind::VxlanV6 {
                (request.v6, request.v6_pools) = (1, pools);
            } else {
                (request.v4, request.v4_pools) = (1, pools);
            }
            let assigned = ipam.auto_assign(request.reuse()).await?.complete()?;
            address = assigned.addresses().next().map(|it| it.ip);
            info!(?kind, ?address, "assigned an address to a tunnel");
        }
    }
    if address == wanted.present {
        return Ok(());
    }
    tell(node, &**store, kind, address).await
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
    store.update(key, value.to_string().into(), entry.revision).await?;
    Ok(())
}
