//! Pools whose packets travel wrapped between nodes (`vxlanMode`, `ipipMode`): which devices that
//! takes, which routes, and which addresses of this node. Pure; [`devices`] and [`addresses`] do it.
//!
//! As upstream's Felix: the routes follow from the blocks of IPAM, not from BGP. A block leads to its
//! node: with VXLAN to the address of the node's device, over this node's own; with IP-in-IP to the
//! node's address over `tunl0`; and straight to the node where a pool says `CrossSubnet` and both are
//! in one subnet. An address that another node borrowed from a block has a route of its own.

pub mod absence;
pub mod addresses;
pub mod devices;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::RouteTarget;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AllocationBlock, FelixConfigurationSpec, IpPoolSpec, Node};
use calico_ipam::plan::geometry::nth_address;
use calico_policy::Object;
use ipnet::IpNet;

use crate::source::Read;
use addresses::Wanted;
use devices::{Size, WantedTunnel};

/// Changes of routes: what is to be there, or that nothing is.
pub type RouteChanges = Vec<(IpNet, Option<RouteTarget>)>;

/// What the resources say about wrapped packets.
#[derive(Debug)]
pub struct Overlay {
    node: String,
    pools: BTreeMap<String, IpPoolSpec>,
    nodes: BTreeMap<String, Node>,
    blocks: BTreeMap<IpNet, Block>,
    settings: Arc<FelixConfigurationSpec>,
    /// Blocks whose routes are to be looked at.
    stale: BTreeSet<IpNet>,
    /// Routes that each block has.
    made: BTreeMap<IpNet, BTreeMap<IpNet, RouteTarget>>,
    /// Nodes that are gone and have left something.
    absent: absence::Absent,
    changed: bool,
}

/// What matters of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Block {
    /// The node that owns it.
    owner: Option<String>,
    /// Addresses that other nodes use.
    borrowed: BTreeMap<IpAddr, String>,
}

/// What is to be besides routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OverlayPlan {
    /// Devices.
    pub tunnels: Vec<WantedTunnel>,
    /// What packets of pods have to fit into, one for each way in which a pool's are wrapped.
    pub sizes: Vec<Size>,
    /// Addresses of this node's ends.
    pub addresses: Wanted,
    /// Pattern of the interfaces whose MTU counts, if one is set.
    pub fabric: Option<String>,
}

impl Overlay {
    /// Of the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            pools: BTreeMap::new(),
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            settings: Arc::default(),
            stale: BTreeSet::new(),
            made: BTreeMap::new(),
            absent: absence::Absent::default(),
            changed: true,
        }
    }

    /// Takes in that an object is there, and what it says; others than those that matter here are
    /// ignored. Of one that cannot be read, what was known stays in force.
    pub fn put(&mut self, key: &Key, read: Option<&Read>) {
        match (key, read) {
            (Key::Block(cidr), Some(Read::Block(block))) => {
                self.absent.put(key, Some(block));
                let block = Block::of(block);
                if self.blocks.get(cidr) != Some(&block) {
                    self.blocks.insert(*cidr, block);
                    self.stale.insert(*cidr);
                }
            }
            (Key::Resource { name, .. }, Some(Read::Object(Object::IpPool(pool), _))) => {
                if self.pools.get(name) != Some(&pool.spec) {
                    self.pools.insert(name.clone(), pool.spec.clone());
                    self.everything_changed();
                }
            }
            (Key::Resource { name, .. }, Some(Read::Object(Object::Node(node), _))) => {
                self.absent.put(key, None);
                let same = |old: &Node| {
                    old.spec == node.spec && old.metadata.labels == node.metadata.labels
                };
                if !self.nodes.get(name).is_some_and(same) {
                    self.nodes.insert(name.clone(), (**node).clone());
                    self.everything_changed();
                }
            }
            _ => self.absent.put(key, None),
        }
    }

    /// Forgets an object.
    pub fn gone(&mut self, key: &Key) {
        self.absent.gone(key);
        let known = match key {
            Key::Block(cidr) => {
                self.blocks.remove(cidr);
                self.stale.insert(*cidr);
                return;
            }
            Key::Resource { kind: Kind::IpPool, name, .. } => self.pools.remove(name).is_some(),
            Key::Resource { kind: Kind::Node, name, .. } => self.nodes.remove(name).is_some(),
            _ => false,
        };
        if known {
            self.everything_changed();
        }
    }

    /// The node agent's settings.
    pub fn set_settings(&mut self, settings: &Arc<FelixConfigurationSpec>) {
        let before = std::mem::replace(&mut self.settings, Arc::clone(settings));
        self.changed = true;
        let enabled = |spec: &FelixConfigurationSpec| {
            (spec.ipip_enabled, spec.vxlan_enabled, spec.ipv6_support())
        };
        if enabled(&before) != enabled(&self.settings) {
            self.everything_changed();
        }
    }

    /// Changes of routes since the last call.
    pub fn routes(&mut self) -> RouteChanges {
        let mut changes = Vec::new();
        for cidr in std::mem::take(&mut self.stale) {
            let wanted = self.routes_of(cidr);
            let made = self.made.remove(&cidr).unwrap_or_default();
            let gone = made.keys().filter(|destination| !wanted.contains_key(destination));
            changes.extend(gone.map(|destination| (*destination, None)));
            let new = wanted.iter().filter(|(at, target)| made.get(at) != Some(target));
            changes.extend(new.map(|(at, target)| (*at, Some(target.clone()))));
            if !wanted.is_empty() {
                self.made.insert(cidr, wanted);
            }
        }
        changes
    }

    /// Devices and addresses, if they may have changed since the last call.
    pub fn plan(&mut self) -> Option<OverlayPlan> {
        let changed = self.absent.take_changed() | std::mem::take(&mut self.changed);
        changed.then(|| OverlayPlan {
            tunnels: self.tunnels(),
            sizes: self.used().map(|kind| self.size(kind)).collect(),
            addresses: self.addresses(),
            fabric: Some(self.settings.mtu_iface_pattern.clone()).filter(|text| !text.is_empty()),
        })
    }

    fn everything_changed(&mut self) {
        self.changed = true;
        self.stale.extend(self.blocks.keys());
    }
}

impl Block {
    fn of(block: &AllocationBlock) -> Self {
        let owner = block.owner().and_then(|owner| Some(owner.strip_prefix("host:")?.to_owned()));
        let mut borrowed = BTreeMap::new();
        for (ordinal, attribute) in (0_u32..).zip(&block.allocations) {
            let Some(attribute) = attribute else { continue };
            let attribute = usize::try_from(*attribute).ok();
            let of = attribute.and_then(|index| block.attributes.get(index));
            let Some(node) = of.and_then(|of| of.secondary.get("node")) else { continue };
            if owner.as_ref() != Some(node)
                && let Some(address) = nth_address(&block.cidr, ordinal)
            {
                borrowed.insert(address, node.clone());
            }
        }
        Self { owner, borrowed }
    }
}
