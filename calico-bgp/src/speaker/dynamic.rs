//! Dynamic neighbours: peers that are not configured one by one, but may connect from a prefix.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::{AcceptError, ConfigError, Password, PeerConfig, Speaker, Transport};
use crate::rib::PeerId;
use crate::wire::CeaseCode;

/// A prefix whose hosts may become peers by connecting.
///
/// Such a peer exists from its first connection until it has none and no routes of it are kept
/// over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicPeers {
    /// Where they connect from. Of several prefixes the longest counts; a configured peer counts
    /// more than any.
    pub prefix: IpNet,
    /// Most peers at a time; the connections of others are refused.
    pub limit: usize,
    /// How they are configured, but for the address; they are always waited for.
    pub template: PeerConfig,
}

impl DynamicPeers {
    pub(super) fn config(&self, address: IpAddr) -> PeerConfig {
        PeerConfig { address, passive: true, ..self.template.clone() }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        // A prefix's own address stands for its hosts; that of 0.0.0.0/0 is no host's.
        let mut host = self.config(self.prefix.addr());
        if self.prefix.addr().is_unspecified() {
            host.address = match self.prefix {
                IpNet::V4(_) => IpAddr::from([192, 0, 2, 1]),
                IpNet::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            };
        }
        host.validate()
    }
}

impl Speaker {
    /// Makes these the prefixes of dynamic neighbours. Sessions of peers whose configuration did
    /// not change, or only in its policies, go on.
    ///
    /// # Errors
    /// [`ConfigError`]; then nothing was changed.
    pub fn set_dynamic(
        &mut self,
        now: Instant,
        dynamic: Vec<DynamicPeers>,
    ) -> Result<(), ConfigError> {
        dynamic.iter().try_for_each(DynamicPeers::validate)?;
        self.dynamic = dynamic;
        let present: Vec<PeerId> =
            self.peers.values().filter(|p| p.dynamic).map(|p| p.id).collect();
        for id in present {
            let Some(peer) = self.peers.get(&id) else { continue };
            let (key, address) = (peer.key(), peer.config.address);
            match self.dynamic_for(address).map(|d| d.config(address)) {
                Some(config) if config == peer.config => {}
                Some(config) if peer.config.same_session(&config) => self.adjust(id, config),
                // It comes back if it still may.
                Some(_) => self.remove(now, key, CeaseCode::OtherConfigurationChange),
                None => self.remove(now, key, CeaseCode::PeerDeconfigured),
            }
        }
        Ok(())
    }

    /// The prefixes of dynamic neighbours.
    pub fn dynamic(&self) -> &[DynamicPeers] {
        &self.dynamic
    }

    /// Makes a peer of someone who connected from a prefix of dynamic neighbours.
    pub(super) fn add_dynamic(
        &mut self,
        now: Instant,
        address: IpAddr,
    ) -> Result<PeerId, AcceptError> {
        let range = self.dynamic_for(address).ok_or(AcceptError::UnknownPeer(address))?;
        let prefix = range.prefix;
        let limit = range.limit;
        let config = range.config(address);
        let here = |p: &IpAddr| self.dynamic_for(*p).is_some_and(|d| d.prefix == prefix);
        let dynamic = self.peers.values().filter(|p| p.dynamic);
        if dynamic.filter(|p| here(&p.config.address)).count() >= limit {
            return Err(AcceptError::TooManyPeers { prefix, limit });
        }
        // Its key is taken only by a peer with the same address, which would have been found.
        let id = self.add(now, config);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.dynamic = true;
        }
        Ok(id)
    }

    pub(super) fn dynamic_for(&self, address: IpAddr) -> Option<&DynamicPeers> {
        let ranges = self.dynamic.iter().filter(|d| d.prefix.contains(&address));
        ranges.max_by_key(|d| d.prefix.prefix_len())
    }

    /// Which connections have to be signed with which password (RFC 2385): for listening
    /// sockets. The longest prefix counts.
    pub fn listen_passwords(&self) -> BTreeMap<IpNet, Password> {
        let peers = self.peers.values().filter(|p| !p.dynamic).map(|p| &p.config);
        let peers = peers.map(|c| (IpNet::from(c.address), &c.password));
        let dynamic = self.dynamic.iter().map(|d| (d.prefix, &d.template.password));
        let mut all = BTreeMap::new();
        for (net, password) in peers.chain(dynamic) {
            if let Some(password) = password {
                all.entry(net).or_insert_with(|| password.clone());
            }
        }
        all
    }

    /// How the sockets of a peer have to be; see [`Transport`].
    pub fn transport(&self, peer: PeerId) -> Option<Transport> {
        self.peers.get(&peer).map(|p| p.config.transport())
    }
}
