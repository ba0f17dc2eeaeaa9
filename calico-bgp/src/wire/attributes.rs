//! Path attributes (RFC 4271, section 5, and successors) as one value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};

use super::{AS_TRANS, AsPath, Community, ExtendedCommunity, LargeCommunity};

/// Attribute type codes (IANA).
pub mod code {
    #![expect(missing_docs, reason = "the names are those of the IANA registry")]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
}

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// Where a route came into BGP; less is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Origin {
    /// Interior to the originating AS (0).
    #[default]
    Igp,
    /// From EGP (1).
    Egp,
    /// By other means (2).
    Incomplete,
}

impl Origin {
    pub(super) const fn from_value(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }

    const fn value(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }
}

/// Where packets for a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A global and a link-local IPv6 address (RFC 2545, section 3).
    V6LinkLocal(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The address, the global one if there are two.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::V4(a) => IpAddr::V4(a),
            Self::V6(a) | Self::V6LinkLocal(a, _) => IpAddr::V6(a),
        }
    }

    /// Octets of its addresses.
    pub(super) const fn wire_len(self) -> usize {
        match self {
            Self::V4(_) => 4,
            Self::V6(_) => 16,
            Self::V6LinkLocal(..) => 32,
        }
    }

    /// Reads the next hop field of MP_REACH_NLRI: 4, 16 or 32 octets.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let v6 = |v: &[u8]| <[u8; 16]>::try_from(v).ok().map(Ipv6Addr::from);
        match value.len() {
            4 => <[u8; 4]>::try_from(value).ok().map(|a| Self::V4(a.into())),
            16 => v6(value).map(Self::V6),
            32 => Some(Self::V6LinkLocal(v6(&value[..16])?, v6(&value[16..])?)),
            _ => None,
        }
    }

    pub(super) fn encode(self, out: &mut BytesMut) {
        match self {
            Self::V4(a) => {
                out.put_u8(4);
                out.put_slice(&a.octets());
            }
            Self::V6(a) => {
                out.put_u8(16);
                out.put_slice(&a.octets());
            }
            Self::V6LinkLocal(global, local) => {
                out.put_u8(32);
                out.put_slice(&global.octets());
                out.put_slice(&local.octets());
            }
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::V4(a),
            IpAddr::V6(a) => Self::V6(a),
        }
    }
}

/// Who aggregated a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// The aggregating AS.
    pub asn: u32,
    /// The aggregating speaker.
    pub router_id: Ipv4Addr,
}

/// An attribute that this crate does not read, kept to be passed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Flags as received, without the extended length bit.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value as received.
    pub value: Bytes,
}

impl UnknownAttribute {
    /// Whether it goes on to other peers.
    pub const fn is_transitive(&self) -> bool {
        self.flags & TRANSITIVE != 0
    }

    /// The attribute as it goes on: with the Partial bit (RFC 4271, section 5).
    pub fn passed_on(&self) -> Self {
        Self { flags: self.flags | PARTIAL, ..self.clone() }
    }
}

/// The attributes of a route. Routes with equal attributes share one value through an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI. `None` on a local route: the export fills in
    /// this speaker's own address.
    pub next_hop: Option<NextHop>,
    /// MULTI_EXIT_DISC: less is preferred.
    pub med: Option<u32>,
    /// LOCAL_PREF: more is preferred.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), nearest first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// ONLY_TO_CUSTOMER: the AS that sent the route to a customer or peer (RFC 9234).
    pub only_to_customer: Option<u32>,
    /// Everything else.
    pub unknown: Vec<UnknownAttribute>,
}

impl PathAttributes {
    /// Makes all of them as by default, in place.
    pub(super) fn clear(&mut self) {
        self.origin = Origin::default();
        self.as_path = AsPath::empty();
        self.next_hop = None;
        self.med = None;
        self.local_pref = None;
        self.atomic_aggregate = false;
        self.aggregator = None;
        self.communities.clear();
        self.extended_communities.clear();
        self.large_communities.clear();
        self.originator_id = None;
        self.cluster_list.clear();
        self.only_to_customer = None;
        self.unknown.clear();
    }

    /// Whether the route carries a community.
    pub fn has_community(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }

    /// Appends all attributes but MP_REACH and MP_UNREACH, in the order of their codes. The
    /// NEXT_HOP attribute is written only if `with_next_hop` and the next hop is IPv4.
    pub(super) fn encode(&self, four_octet_as: bool, with_next_hop: bool, out: &mut BytesMut) {
        put(out, TRANSITIVE, code::ORIGIN, |o| o.put_u8(self.origin.value()));
        put(out, TRANSITIVE, code::AS_PATH, |o| self.as_path.encode(four_octet_as, o));
        if let (true, Some(NextHop::V4(a))) = (with_next_hop, self.next_hop) {
            put(out, TRANSITIVE, code::NEXT_HOP, |o| o.put_slice(&a.octets()));
        }
        if let Some(med) = self.med {
            put(out, OPTIONAL, code::MULTI_EXIT_DISC, |o| o.put_u32(med));
        }
        if let Some(local_pref) = self.local_pref {
            put(out, TRANSITIVE, code::LOCAL_PREF, |o| o.put_u32(local_pref));
        }
        if self.atomic_aggregate {
            put(out, TRANSITIVE, code::ATOMIC_AGGREGATE, |_| {});
        }
        if let Some(a) = self.aggregator {
            put(out, OPTIONAL | TRANSITIVE, code::AGGREGATOR, |o| {
                if four_octet_as {
                    o.put_u32(a.asn);
                } else {
                    o.put_u16(u16::try_from(a.asn).unwrap_or(AS_TRANS));
                }
                o.put_slice(&a.router_id.octets());
            });
        }
        self.encode_communities(out);
        self.encode_reflection(out);
        if !self.extended_communities.is_empty() {
            put(out, OPTIONAL | TRANSITIVE, code::EXTENDED_COMMUNITIES, |o| {
                self.extended_communities.iter().for_each(|c| o.put_slice(&c.0));
            });
        }
        if !four_octet_as {
            self.encode_as4(out);
        }
        if !self.large_communities.is_empty() {
            put(out, OPTIONAL | TRANSITIVE, code::LARGE_COMMUNITIES, |o| {
                for c in &self.large_communities {
                    o.put_u32(c.global);
                    o.put_u32(c.local1);
                    o.put_u32(c.local2);
                }
            });
        }
        if let Some(asn) = self.only_to_customer {
            put(out, OPTIONAL | TRANSITIVE, code::ONLY_TO_CUSTOMER, |o| o.put_u32(asn));
        }
        for attribute in &self.unknown {
            put(out, attribute.flags, attribute.code, |o| o.put_slice(&attribute.value));
        }
    }

    fn encode_communities(&self, out: &mut BytesMut) {
        if !self.communities.is_empty() {
            put(out, OPTIONAL | TRANSITIVE, code::COMMUNITIES, |o| {
                self.communities.iter().for_each(|c| o.put_u32(c.0));
            });
        }
    }

    fn encode_reflection(&self, out: &mut BytesMut) {
        if let Some(id) = self.originator_id {
            put(out, OPTIONAL, code::ORIGINATOR_ID, |o| o.put_slice(&id.octets()));
        }
        if !self.cluster_list.is_empty() {
            put(out, OPTIONAL, code::CLUSTER_LIST, |o| {
                self.cluster_list.iter().for_each(|c| o.put_slice(&c.octets()));
            });
        }
    }

    /// What a two-octet peer cannot see in AS_PATH and AGGREGATOR (RFC 6793, section 4.2.2).
    fn encode_as4(&self, out: &mut BytesMut) {
        if self.as_path.needs_four_octets() {
            put(out, OPTIONAL | TRANSITIVE, code::AS4_PATH, |o| {
                self.as_path.without_confederation().encode(true, o);
            });
        }
        if let Some(a) = self.aggregator.filter(|a| a.asn > 0xFFFF) {
            put(out, OPTIONAL | TRANSITIVE, code::AS4_AGGREGATOR, |o| {
                o.put_u32(a.asn);
                o.put_slice(&a.router_id.octets());
            });
        }
    }
}

/// Writes one attribute; uses the extended length only where it must.
pub(super) fn put(out: &mut BytesMut, flags: u8, code: u8, value: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&[flags & !EXTENDED_LENGTH, code, 0]);
    value(out);
    let length = out.len() - start - 3;
    if let Ok(short) = u8::try_from(length) {
        out[start + 2] = short;
    } else {
        // Make room for the second length octet. A value beyond 65,535 octets cannot fit any
        // message, so the caller's length check refuses it whatever stands here.
        out.put_u8(0);
        out.copy_within(start + 3..start + 3 + length, start + 4);
        out[start] |= EXTENDED_LENGTH;
        let long = u16::try_from(length).unwrap_or(u16::MAX);
        out[start + 2..start + 4].copy_from_slice(&long.to_be_bytes());
    }
}
