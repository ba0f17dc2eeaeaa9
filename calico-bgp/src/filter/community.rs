//! Communities of any size in one value, with their text.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

use crate::wire::{Community, ExtendedCommunity, LargeCommunity, PathAttributes};

/// A community of any size.
///
/// Written `65000:1` (RFC 1997), `65000:1:2` (RFC 8092), or `rt:65000:1` and `ro:65000:1` for the
/// route targets and origins of RFC 4360, where an AS number beyond 65,535 and an IPv4 address
/// may stand in front too; and by the names `no-export`, `no-advertise`, `no-export-subconfed`,
/// `llgr-stale` and `no-llgr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnyCommunity {
    /// Four octets.
    Standard(Community),
    /// Eight octets.
    Extended(ExtendedCommunity),
    /// Twelve octets.
    Large(LargeCommunity),
}

impl AnyCommunity {
    /// Whether a route carries it.
    pub fn is_on(&self, attributes: &PathAttributes) -> bool {
        match self {
            Self::Standard(c) => attributes.communities.contains(c),
            Self::Extended(c) => attributes.extended_communities.contains(c),
            Self::Large(c) => attributes.large_communities.contains(c),
        }
    }

    /// Puts it on a route, once.
    pub fn put_on(&self, attributes: &mut PathAttributes) {
        if self.is_on(attributes) {
            return;
        }
        match self {
            Self::Standard(c) => attributes.communities.push(*c),
            Self::Extended(c) => attributes.extended_communities.push(*c),
            Self::Large(c) => attributes.large_communities.push(*c),
        }
    }

    /// Takes it off a route.
    pub fn take_off(&self, attributes: &mut PathAttributes) {
        match self {
            Self::Standard(c) => attributes.communities.retain(|x| x != c),
            Self::Extended(c) => attributes.extended_communities.retain(|x| x != c),
            Self::Large(c) => attributes.large_communities.retain(|x| x != c),
        }
    }
}

/// A text that is no community.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no BGP community: write 65000:1, 65000:1:2 or rt:65000:1")]
pub struct BadCommunity(String);

impl FromStr for AnyCommunity {
    type Err = BadCommunity;

    fn from_str(text: &str) -> Result<Self, BadCommunity> {
        parse(text).ok_or_else(|| BadCommunity(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<AnyCommunity> {
    let named = match text {
        "no-export" => Some(Community::NO_EXPORT),
        "no-advertise" => Some(Community::NO_ADVERTISE),
        "no-export-subconfed" => Some(Community::NO_EXPORT_SUBCONFED),
        "llgr-stale" => Some(Community::LLGR_STALE),
        "no-llgr" => Some(Community::NO_LLGR),
        _ => None,
    };
    if let Some(named) = named {
        return Some(AnyCommunity::Standard(named));
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        ["rt", a, b] => extended(0x02, a, b),
        ["ro", a, b] => extended(0x03, a, b),
        [a, b] => Some(AnyCommunity::Standard(Community::new(number(a)?, number(b)?))),
        [a, b, c] => Some(AnyCommunity::Large(LargeCommunity {
            global: number(a)?,
            local1: number(b)?,
            local2: number(c)?,
        })),
        _ => None,
    }
}

/// RFC 4360, section 3, and RFC 5668: the type says what stands in front.
fn extended(subtype: u8, front: &str, back: &str) -> Option<AnyCommunity> {
    let mut octets = [0, subtype, 0, 0, 0, 0, 0, 0];
    if let Some(asn) = number::<u16>(front) {
        octets[2..4].copy_from_slice(&asn.to_be_bytes());
        octets[4..8].copy_from_slice(&number::<u32>(back)?.to_be_bytes());
    } else {
        let (kind, head) = match front.parse::<Ipv4Addr>() {
            Ok(address) => (0x01, address.octets()),
            Err(_) => (0x02, number::<u32>(front)?.to_be_bytes()),
        };
        octets[0] = kind;
        octets[2..6].copy_from_slice(&head);
        octets[6..8].copy_from_slice(&number::<u16>(back)?.to_be_bytes());
    }
    Some(AnyCommunity::Extended(ExtendedCommunity(octets)))
}

/// A number in digits alone: the standard parser takes a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(c) => c.fmt(f),
            Self::Large(c) => c.fmt(f),
            Self::Extended(ExtendedCommunity(o)) => {
                let name = match o[1] {
                    0x02 => "rt",
                    0x03 => "ro",
                    _ => return write!(f, "0x{:016x}", u64::from_be_bytes(*o)),
                };
                let half = |at: usize| u16::from_be_bytes([o[at], o[at + 1]]);
                let whole =
                    |at: usize| u32::from_be_bytes([o[at], o[at + 1], o[at + 2], o[at + 3]]);
                match o[0] {
                    0x00 => write!(f, "{name}:{}:{}", half(2), whole(4)),
                    0x01 => write!(f, "{name}:{}:{}", Ipv4Addr::from(whole(2)), half(6)),
                    0x02 => write!(f, "{name}:{}:{}", whole(2), half(6)),
                    _ => write!(f, "0x{:016x}", u64::from_be_bytes(*o)),
                }
            }
        }
    }
}
