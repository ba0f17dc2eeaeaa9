//! Prefixes on the wire (RFC 4271, section 4.3), kept packed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Family, WireError};

/// A list of prefixes of one family, in wire form and already checked.
///
/// Reading one costs no allocation: it shares the received buffer, and [`iter`](Self::iter)
/// decodes as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NlriList {
    family: Family,
    add_path: bool,
    bytes: Bytes,
}

impl NlriList {
    /// An empty list.
    pub const fn empty(family: Family) -> Self {
        Self { family, add_path: false, bytes: Bytes::new() }
    }

    /// A list of the given prefixes; those of another family are left out.
    pub fn from_prefixes(family: Family, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let mut out = BytesMut::new();
        for prefix in prefixes {
            if Family::of_prefix(&prefix) == family {
                put_prefix(&prefix, &mut out);
            }
        }
        Self { family, add_path: false, bytes: out.freeze() }
    }

    /// A list of paths with their identifiers (RFC 7911); those of another family are left out.
    pub fn from_paths(family: Family, paths: impl IntoIterator<Item = PathNlri>) -> Self {
        let mut out = BytesMut::new();
        for path in paths {
            if Family::of_prefix(&path.1) == family {
                path.put(&mut out);
            }
        }
        Self { family, add_path: true, bytes: out.freeze() }
    }

    /// Checks received bytes. A family that we do not read is kept unread.
    ///
    /// # Errors
    /// [`WireError::Prefix`] when a length is too large for the family or a prefix is cut off;
    /// RFC 7606, section 5.3, makes that a session reset.
    pub fn parse(family: Family, add_path: bool, bytes: Bytes) -> Result<Self, WireError> {
        if let Some(max) = family.max_prefix_len() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if add_path {
                    rest = rest.get(4..).ok_or(WireError::Prefix("truncated path identifier"))?;
                }
                let (&bits, tail) = rest
                    .split_first()
                    .ok_or(WireError::Prefix("path identifier without prefix"))?;
                if bits > max {
                    return Err(WireError::Prefix("prefix length beyond the family's maximum"));
                }
                let octets = usize::from(bits).div_ceil(8);
                rest = tail.get(octets..).ok_or(WireError::Prefix("truncated prefix"))?;
            }
        }
        Ok(Self { family, add_path, bytes })
    }

    /// The family of all prefixes in the list.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The prefixes, each with its path identifier (RFC 7911; 0 without ADD-PATH). Bits beyond
    /// the prefix length are cleared. Empty for a family that we do not read.
    pub fn iter(&self) -> NlriIter<'_> {
        let known = self.family.max_prefix_len().is_some();
        NlriIter {
            ipv6: self.family == Family::IPV6_UNICAST,
            add_path: self.add_path,
            rest: if known { &self.bytes } else { &[] },
        }
    }

    pub(super) fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<'a> IntoIterator for &'a NlriList {
    type Item = (u32, IpNet);
    type IntoIter = NlriIter<'a>;

    fn into_iter(self) -> NlriIter<'a> {
        self.iter()
    }
}

/// Iterator over the prefixes of a [`NlriList`].
#[derive(Debug, Clone)]
pub struct NlriIter<'a> {
    ipv6: bool,
    add_path: bool,
    rest: &'a [u8],
}

impl Iterator for NlriIter<'_> {
    type Item = (u32, IpNet);

    fn next(&mut self) -> Option<Self::Item> {
        let mut path_id = 0;
        if self.add_path {
            let (id, tail) = self.rest.split_first_chunk::<4>()?;
            (path_id, self.rest) = (u32::from_be_bytes(*id), tail);
        }
        let (&bits, tail) = self.rest.split_first()?;
        let (octets, tail) = tail.split_at_checked(usize::from(bits).div_ceil(8))?;
        self.rest = tail;
        let prefix = if self.ipv6 {
            let mut address = [0; 16];
            address[..octets.len()].copy_from_slice(octets);
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), bits).ok()?.trunc())
        } else {
            let mut address = [0; 4];
            address[..octets.len()].copy_from_slice(octets);
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), bits).ok()?.trunc())
        };
        Some((path_id, prefix))
    }
}

/// A path under ADD-PATH: its identifier and its destination (RFC 7911, section 3).
pub type PathNlri = (u32, IpNet);

/// What is announced or withdrawn: a prefix, or under ADD-PATH a path identifier with it.
pub trait Nlri: Copy + sealed::Sealed {
    /// The destination.
    fn prefix(&self) -> &IpNet;
    /// Octets on the wire.
    fn wire_len(&self) -> usize;
    /// Writes it.
    fn put(&self, out: &mut BytesMut);
}

impl Nlri for IpNet {
    fn prefix(&self) -> &IpNet {
        self
    }

    fn wire_len(&self) -> usize {
        1 + usize::from(self.prefix_len()).div_ceil(8)
    }

    fn put(&self, out: &mut BytesMut) {
        put_prefix(self, out);
    }
}

impl Nlri for PathNlri {
    fn prefix(&self) -> &IpNet {
        &self.1
    }

    fn wire_len(&self) -> usize {
        4 + self.1.wire_len()
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u32(self.0);
        put_prefix(&self.1, out);
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for ipnet::IpNet {}
    impl Sealed for (u32, ipnet::IpNet) {}
}

pub(super) fn put_prefix(prefix: &IpNet, out: &mut BytesMut) {
    let octets = usize::from(prefix.prefix_len()).div_ceil(8);
    out.put_u8(prefix.prefix_len());
    match prefix.addr() {
        IpAddr::V4(a) => out.put_slice(&a.octets()[..octets]),
        IpAddr::V6(a) => out.put_slice(&a.octets()[..octets]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stray_bits_are_cleared_and_bad_lengths_refused() {
        let parse =
            |b: &'static [u8]| NlriList::parse(Family::IPV4_UNICAST, false, Bytes::from_static(b));
        let list = parse(&[12, 10, 0xFF, 0, 32, 1, 2, 3, 4]).unwrap();
        let got: Vec<String> = list.iter().map(|(_, p)| p.to_string()).collect();
        assert_eq!(got, ["10.240.0.0/12", "0.0.0.0/0", "1.2.3.4/32"]);
        assert!(parse(&[33, 1, 2, 3, 4, 5]).is_err());
        assert!(parse(&[24, 1, 2]).is_err());
    }

    #[test]
    fn path_identifiers_are_read() {
        let bytes = Bytes::from_static(&[0, 0, 0, 7, 8, 10]);
        let list = NlriList::parse(Family::IPV4_UNICAST, true, bytes).unwrap();
        assert_eq!(list.iter().next().unwrap(), (7, "10.0.0.0/8".parse().unwrap()));
    }
}
