//! Addresses that automatic assignment skips (IPReservation).

use std::net::IpAddr;

use calico_core::key::Family;
use ipnet::IpNet;

use super::geometry::{number, size};

/// A set of addresses, as sorted ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Reserved {
    /// The union of `nets`.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut all = Self::default();
        for net in nets {
            let range = (number(net.network()), number(net.broadcast()));
            match Family::of_net(&net) {
                Family::V4 => all.v4.push(range),
                Family::V6 => all.v6.push(range),
            }
        }
        merge(&mut all.v4);
        merge(&mut all.v6);
        all
    }

    /// Whether `ip` is reserved.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let value = number(ip);
        let ranges = self.ranges(Family::of(ip));
        let after = ranges.partition_point(|(from, _)| *from <= value);
        after > 0 && ranges[after - 1].1 >= value
    }

    /// Number of reserved addresses inside `net`.
    #[must_use]
    pub fn count_in(&self, net: &IpNet) -> u128 {
        let (low, high) = (number(net.network()), number(net.broadcast()));
        self.ranges(Family::of_net(net))
            .iter()
            .filter(|(from, to)| *from <= high && *to >= low)
            .map(|(from, to)| (to.min(&high) - from.max(&low)).saturating_add(1))
            .fold(0, u128::saturating_add)
    }

    /// Whether every address of `net` is reserved.
    #[must_use]
    pub fn covers(&self, net: &IpNet) -> bool {
        self.count_in(net) >= size(net)
    }

    fn ranges(&self, family: Family) -> &[(u128, u128)] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

fn merge(ranges: &mut Vec<(u128, u128)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_count_once() {
        let nets = ["10.0.0.0/30", "10.0.0.2/31", "10.0.0.4/32", "10.0.1.0/24", "fd00::/120"];
        let reserved = Reserved::new(nets.map(|net| net.parse().unwrap()));
        for (ip, expected) in [
            ("10.0.0.0", true),
            ("10.0.0.4", true),
            ("10.0.0.5", false),
            ("10.0.1.255", true),
            ("9.255.255.255", false),
            ("fd00::ff", true),
            ("fd00::100", false),
        ] {
            assert_eq!(reserved.contains(ip.parse().unwrap()), expected, "{ip}");
        }
        assert_eq!(reserved.count_in(&"10.0.0.0/26".parse().unwrap()), 5);
        assert!(reserved.covers(&"10.0.1.64/26".parse().unwrap()));
        assert!(!reserved.covers(&"10.0.0.0/26".parse().unwrap()));
        assert!(!Reserved::default().contains("10.0.0.0".parse().unwrap()));
    }
}
