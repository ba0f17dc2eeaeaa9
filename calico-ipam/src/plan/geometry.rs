//! Arithmetic of blocks: how a pool is cut up, and where an address lies in its block.
//!
//! One code path for both families: addresses are `u128` here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_core::key::Family;
use ipnet::IpNet;

/// The largest block that upstream allows: /20 and /116, 4096 addresses.
pub const MAX_BLOCK_ADDRESSES: u32 = 4096;

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number; `None` if it lies outside of the family.
#[must_use]
pub fn address(family: Family, number: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        Family::V6 => Some(Ipv6Addr::from_bits(number).into()),
    }
}

/// Number of addresses of a prefix; saturates at 2^128 - 1.
#[must_use]
pub fn size(net: &IpNet) -> u128 {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    1_u128.checked_shl(u32::from(host_bits)).unwrap_or(u128::MAX)
}

/// Number of addresses of a block; `None` if it is larger than any block may be.
#[must_use]
pub fn block_len(block: &IpNet) -> Option<u32> {
    u32::try_from(size(block)).ok().filter(|len| *len <= MAX_BLOCK_ADDRESSES)
}

/// The place of `ip` in `block`, from 0; `None` if it lies outside.
#[must_use]
pub fn ordinal(block: &IpNet, ip: IpAddr) -> Option<u32> {
    if !block.contains(&ip) {
        return None;
    }
    u32::try_from(number(ip) - number(block.network())).ok()
}

/// The address at place `ordinal` of `block`; `None` if the block is shorter.
#[must_use]
pub fn nth_address(block: &IpNet, ordinal: u32) -> Option<IpAddr> {
    let ordinal = u128::from(ordinal);
    (ordinal < size(block))
        .then(|| address(Family::of_net(block), number(block.network()) + ordinal))
        .flatten()
}

/// The prefix of one address: /32 or /128.
#[must_use]
pub fn host_net(ip: IpAddr) -> IpNet {
    ip.into()
}

/// How a pool is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pool: IpNet,
    block_bits: u8,
}

impl Geometry {
    /// Cuts `pool` into blocks of prefix length `block_bits`; `None` if those do not fit into it or
    /// would hold more than [`MAX_BLOCK_ADDRESSES`].
    #[must_use]
    pub fn new(pool: IpNet, block_bits: u8) -> Option<Self> {
        let pool = pool.trunc();
        let block = IpNet::new(pool.network(), block_bits).ok()?;
        (pool.prefix_len() <= block_bits && block_len(&block).is_some())
            .then_some(Self { pool, block_bits })
    }

    /// Number of addresses of a block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        1 << (self.pool.max_prefix_len() - self.block_bits)
    }

    /// Number of blocks.
    #[must_use]
    pub fn count(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.block_bits - self.pool.prefix_len())).unwrap_or(u128::MAX)
    }

    /// Block `index`, from 0.
    #[must_use]
    pub fn block(&self, index: u128) -> Option<IpNet> {
        if index >= self.count() {
            return None;
        }
        let host_bits = self.pool.max_prefix_len() - self.block_bits;
        let offset = index.checked_shl(u32::from(host_bits)).unwrap_or(0);
        let start = address(Family::of_net(&self.pool), number(self.pool.network()) + offset)?;
        IpNet::new(start, self.block_bits).ok()
    }

    /// The block that holds `ip`; `None` if it lies outside of the pool.
    #[must_use]
    pub fn block_of(&self, ip: IpAddr) -> Option<IpNet> {
        let inside = self.pool.contains(&ip);
        inside.then(|| IpNet::new(ip, self.block_bits).ok().map(|net| net.trunc())).flatten()
    }

    /// Every block once, in a circle from block `seed` modulo the number of blocks.
    pub fn walk(self, seed: u64) -> impl Iterator<Item = IpNet> {
        let count = self.count();
        let start = u128::from(seed) % count;
        (0..count).filter_map(move |step| {
            // `start + step` cannot overflow unless the pool is ::/0 cut into single addresses,
            // which `new` refuses: blocks of a pool that wide have at most 116..=128 bits.
            let index = start.checked_add(step)? % count;
            self.block(index)
        })
    }
}

/// Where a host starts to look for a free block: FNV-1 (32 bits) of its name, as upstream, so
/// that hosts do not compete for the same ones.
#[must_use]
pub fn host_seed(host: &str) -> u64 {
    let hash = host
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte));
    scramble(u64::from(hash))
}

/// Spreads a seed over 64 bits (SplitMix64).
#[must_use]
pub const fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Puts `items` into an order that depends on `seed` only (Fisher-Yates).
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = scramble(state);
        let pick = usize::try_from(state % (last as u64 + 1)).unwrap_or(0);
        items.swap(last, pick);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn check(pool: &str, bits: u8, count: u128, second: &str, last: &str) {
        let cut = Geometry::new(net(pool), bits).unwrap();
        assert_eq!(cut.count(), count, "{pool}");
        assert_eq!(cut.block(1.min(count - 1)), Some(net(second)), "{pool}");
        assert_eq!(cut.block(count - 1), Some(net(last)), "{pool}");
        assert_eq!(cut.block(count), None, "{pool}");
        let inside = net(last).broadcast();
        assert_eq!(cut.block_of(inside), Some(net(last)), "{pool}");
    }

    #[test]
    fn pools_are_cut_into_blocks_of_any_size() {
        check("10.65.0.0/16", 26, 1024, "10.65.0.64/26", "10.65.255.192/26");
        check("10.0.0.0/8", 20, 4096, "10.0.16.0/20", "10.255.240.0/20");
        check("10.0.0.0/30", 32, 4, "10.0.0.1/32", "10.0.0.3/32");
        check("10.0.0.0/26", 26, 1, "10.0.0.0/26", "10.0.0.0/26");
        check(
            "fd00:65::/48",
            122,
            1 << 74,
            "fd00:65::40/122",
            "fd00:65:0:ffff:ffff:ffff:ffff:ffc0/122",
        );
        check("fd00::/112", 116, 16, "fd00::1000/116", "fd00::f000/116");
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        assert_eq!(Geometry::new(net("10.0.0.0/27"), 26), None);
        assert_eq!(Geometry::new(net("10.0.0.0/8"), 19), None);
        assert_eq!(Geometry::new(net("fd00::/64"), 96), None);
        assert_eq!(Geometry::new(net("10.0.0.0/8"), 40), None);
    }

    #[test]
    fn ordinals_and_addresses_are_inverse() {
        for block in ["10.0.0.64/26", "fd00::40/122", "10.0.0.7/32"] {
            let block = net(block);
            for n in 0..block_len(&block).unwrap() {
                let ip = nth_address(&block, n).unwrap();
                assert_eq!(ordinal(&block, ip), Some(n));
            }
            assert_eq!(nth_address(&block, block_len(&block).unwrap()), None);
        }
        assert_eq!(ordinal(&net("10.0.0.64/26"), "10.0.0.63".parse().unwrap()), None);
        assert_eq!(ordinal(&net("10.0.0.64/26"), "::1".parse().unwrap()), None);
    }

    #[test]
    fn a_walk_meets_every_block_once() {
        let cut = Geometry::new(net("10.0.0.0/20"), 26).unwrap();
        let met: Vec<_> = cut.walk(host_seed("n1")).collect();
        assert_eq!(met.len(), 64);
        assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 64);
        assert_ne!(met[0], cut.walk(host_seed("n2")).next().unwrap());
    }

    #[test]
    fn the_largest_pool_can_be_walked() {
        let cut = Geometry::new(net("::/0"), 128).unwrap();
        assert_eq!(cut.walk(u64::MAX).take(3).count(), 3);
    }

    #[test]
    fn a_shuffle_keeps_the_items() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut items, 7);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
