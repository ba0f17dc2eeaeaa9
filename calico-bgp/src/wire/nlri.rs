//! Prefixes on the wire (RFC 4271, section 4.3), kept packed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
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
        Self { add_path: false, ..Self::of(family, prefixes) }
    }

    /// A list of paths with their identifiers (RFC 7911); those of another family are left out.
    pub fn from_paths(family: Family, paths: impl IntoIterator<Item = PathNlri>) -> Self {
        Self { add_path: true, ..Self::of(family, paths) }
    }

    fn of<N: Nlri>(family: Family, all: impl IntoIterator<Item = N>) -> Self {
        let of_family = |n: &N| Family::of_prefix(n.prefix()) == family;
        let all: Vec<N> = all.into_iter().filter(of_family).collect();
        let mut out = BytesMut::new();
        put_all(&all, all.iter().map(Nlri::wire_len).sum(), &mut out);
        Self { family, add_path: false, bytes: out.freeze() }
    }

    /// Checks received bytes. A family that we do not read is kept unread.
    ///
    /// # Errors
    /// [`WireError::Prefix`] when a length is too large for the family or a prefix is cut off;
    /// RFC 7606, section 5.3, makes that a session reset.
    pub fn parse(family: Family, add_path: bool, bytes: Bytes) -> Result<Self, WireError> {
        check(family, add_path, &bytes)?;
        Ok(Self { family, add_path, bytes })
    }

    /// Like [`parse`](Self::parse), into an empty list.
    pub(super) fn fill(
        &mut self,
        family: Family,
        add_path: bool,
        bytes: Bytes,
    ) -> Result<(), WireError> {
        check(family, add_path, &bytes)?;
        (self.family, self.add_path, self.bytes) = (family, add_path, bytes);
        Ok(())
    }

    /// The same for a part of a larger buffer, which is shared.
    pub(super) fn part_of(
        whole: &Bytes,
        family: Family,
        add_path: bool,
        part: &[u8],
    ) -> Result<Self, WireError> {
        check(family, add_path, part)?;
        // An empty list must not keep the buffer alive.
        let bytes = if part.is_empty() { Bytes::new() } else { whole.slice_ref(part) };
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
        let octets = usize::from(bits).div_ceil(8);
        let prefix = if self.ipv6 {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let address = u128::from_be_bytes(padded(tail, octets)?) & mask;
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(address), bits).ok()?)
        } else {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let address = u32::from_be_bytes(padded(tail, octets)?) & mask;
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(address), bits).ok()?)
        };
        self.rest = tail.get(octets..)?;
        Some((path_id, prefix))
    }
}

/// The first `N` octets, of which only so many count; zeros where there are fewer.
fn padded<const N: usize>(bytes: &[u8], count: usize) -> Option<[u8; N]> {
    // Nearly always other prefixes follow, and one load does it.
    if let Some(all) = bytes.first_chunk::<N>() {
        return Some(*all);
    }
    let mut out = [0; N];
    out.get_mut(..count)?.copy_from_slice(bytes.get(..count)?);
    Some(out)
}

/// Checks that a list can be read to its end.
fn check(family: Family, add_path: bool, bytes: &[u8]) -> Result<(), WireError> {
    let Some(max) = family.max_prefix_len() else { return Ok(()) };
    let mut rest = bytes;
    while !rest.is_empty() {
        // Prefixes of 17 to 24 bits come in rows, and four of them are checked as fast as one.
        if let Some(row) = rest.first_chunk::<16>()
            && !add_path
            && max >= 24
            && [0, 4, 8, 12].iter().all(|at| row[*at].wrapping_sub(17) < 8)
        {
            rest = &rest[16..];
            continue;
        }
        if add_path {
            rest = rest.get(4..).ok_or(WireError::Prefix("truncated path identifier"))?;
        }
        let (&bits, tail) =
            rest.split_first().ok_or(WireError::Prefix("path identifier without prefix"))?;
        if bits > max {
            return Err(WireError::Prefix("prefix length beyond the family's maximum"));
        }
        let octets = usize::from(bits).div_ceil(8);
        rest = tail.get(octets..).ok_or(WireError::Prefix("truncated prefix"))?;
    }
    Ok(())
}

/// A path under ADD-PATH: its identifier and its destination (RFC 7911, section 3).
pub type PathNlri = (u32, IpNet);

/// What is announced or withdrawn: a prefix, or under ADD-PATH a path identifier with it.
pub trait Nlri: Copy + sealed::Sealed {
    /// The destination.
    fn prefix(&self) -> &IpNet;
    /// The identifier of the path, if it is told one.
    fn path_id(&self) -> Option<u32>;

    /// Octets on the wire.
    fn wire_len(&self) -> usize {
        let id = if self.path_id().is_some() { 4 } else { 0 };
        id + 1 + usize::from(self.prefix().prefix_len()).div_ceil(8)
    }
}

impl Nlri for IpNet {
    fn prefix(&self) -> &IpNet {
        self
    }

    fn path_id(&self) -> Option<u32> {
        None
    }
}

impl Nlri for PathNlri {
    fn prefix(&self) -> &IpNet {
        &self.1
    }

    fn path_id(&self) -> Option<u32> {
        Some(self.0)
    }
}

/// Octets that the longest takes: identifier, length, IPv6 address.
const LONGEST: usize = 4 + 1 + 16;

/// Writes prefixes that take so many octets.
pub(super) fn put_all<N: Nlri>(prefixes: &[N], octets: usize, out: &mut BytesMut) {
    let start = out.len();
    // Addresses are stored whole, and what is too much is overwritten by the next one: a copy of
    // fixed size is one instruction.
    out.resize(start + octets + LONGEST, 0);
    let mut rest = &mut out[start..];
    for nlri in prefixes {
        let taken = put_nlri(nlri, rest);
        rest = rest.split_at_mut(taken.min(rest.len())).1;
    }
    out.truncate(start + octets);
}

/// Writes one, and anything behind it; returns the octets that count.
fn put_nlri<N: Nlri>(nlri: &N, out: &mut [u8]) -> usize {
    let mut at = 0;
    if let Some(id) = nlri.path_id()
        && let Some(field) = out.first_chunk_mut::<4>()
    {
        *field = id.to_be_bytes();
        at = 4;
    }
    let prefix = nlri.prefix();
    let length = prefix.prefix_len();
    let octets = usize::from(length).div_ceil(8);
    match prefix.addr() {
        IpAddr::V4(a) => {
            if let Some([first, address @ ..]) = out[at..].first_chunk_mut::<5>() {
                *first = length;
                *address = a.octets();
            }
        }
        IpAddr::V6(a) => {
            if let Some([first, address @ ..]) = out[at..].first_chunk_mut::<17>() {
                *first = length;
                *address = a.octets();
            }
        }
    }
    at + 1 + octets
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for ipnet::IpNet {}
    impl Sealed for (u32, ipnet::IpNet) {}
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
