//! Prefixes and attributes of the load, and the UPDATEs that carry them.

use std::net::Ipv4Addr;
use std::ops::Range;

use bytes::BytesMut;
use calico_bgp::wire::{
    AsPath, Community, Family, NextHop, Origin, PathAttributes, UpdateContext, UpdatePacker,
};
use ipnet::{IpNet, Ipv4Net};

/// Where the prefixes start; each has a /22 for itself.
const BASE: u32 = 0x2000_0000;

/// Prefix of a number: /24, /23 and /22 as often as in the Internet's table.
pub(crate) fn prefix(id: usize) -> IpNet {
    let id = u32::try_from(id).unwrap();
    let len = match id.wrapping_mul(0x9E37_79B9) >> 24 {
        0..160 => 24,
        160..200 => 23,
        _ => 22,
    };
    Ipv4Net::new(Ipv4Addr::from(BASE + (id << 10)), len).unwrap().into()
}

/// Number of a prefix.
pub(crate) fn id(address: u32) -> Option<usize> {
    address.checked_sub(BASE).map(|offset| (offset >> 10) as usize)
}

/// How routes share attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sharing {
    /// One set for all, as a node has for its blocks.
    One,
    /// As in the Internet's table: sets of one to many prefixes, six in the mean.
    Internet,
}

/// UPDATEs that announce a range of prefixes from a client.
pub(crate) fn announcements(ids: Range<usize>, from: Ipv4Addr, sharing: Sharing) -> Vec<u8> {
    let context = UpdateContext::default();
    let packer = UpdatePacker::new(&context, Family::IPV4_UNICAST);
    let mut out = BytesMut::new();
    let mut random = Random(u64::from(u32::from(from)) | 1);
    let mut next = ids.start;
    while next < ids.end {
        let count = match sharing {
            Sharing::One => ids.len(),
            Sharing::Internet => random.set_size(),
        };
        let end = (next + count).min(ids.end);
        let prefixes: Vec<IpNet> = (next..end).map(prefix).collect();
        let attributes = match sharing {
            Sharing::One => PathAttributes::default(),
            Sharing::Internet => random.attributes(),
        };
        let next_hop = Some(NextHop::V4(from));
        let attributes = PathAttributes { next_hop, local_pref: Some(100), ..attributes };
        packer.announce(&attributes, &prefixes, &mut out).unwrap();
        next = end;
    }
    out.to_vec()
}

/// UPDATEs that withdraw a range of prefixes.
pub(crate) fn withdrawals(ids: Range<usize>) -> Vec<u8> {
    let context = UpdateContext::default();
    let mut out = BytesMut::new();
    let prefixes: Vec<IpNet> = ids.map(prefix).collect();
    UpdatePacker::new(&context, Family::IPV4_UNICAST).withdraw(&prefixes, &mut out).unwrap();
    out.to_vec()
}

/// xorshift64: the same load in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// Half of the sets have one prefix, some have many.
    fn set_size(&mut self) -> usize {
        let most = [1, 1, 1, 1, 1, 4, 10, 24][self.below(8) as usize];
        1 + self.below(most) as usize * 2
    }

    fn attributes(&mut self) -> PathAttributes {
        let hops = 2 + self.below(4);
        let communities = self.below(9);
        PathAttributes {
            origin: if self.below(8) == 0 { Origin::Incomplete } else { Origin::Igp },
            as_path: AsPath::sequence(
                (0..hops).map(|_| 1000 + self.below(60_000) as u32).collect::<Vec<_>>(),
            ),
            communities: (0..communities)
                .map(|_| Community::new(self.below(60_000) as u16, self.below(1000) as u16))
                .collect(),
            ..PathAttributes::default()
        }
    }
}
