//! A token bucket in the words of the kernel's `tbf`. Pure.

use calico_core::dataplane::Bandwidth;
use netlink_packet_core::NlasIterator;

use crate::rtnl::attribute;

/// Ethernet's header, with a VLAN tag.
const HEADER: u64 = 18;
/// How long a packet may wait besides the time that a burst takes. Upstream and `tc`'s manual: 25 ms.
const LATENCY_MS: u64 = 25;
/// The kernel counts a bucket's time in ticks of so many ns (`PSCHED_SHIFT`) ...
const NS_PER_TICK: u64 = 64;
/// ... and, as upstream tells it, no more than this time in ns, 4.3 s.
const LONGEST_NS: u64 = u32::MAX as u64;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// `TC_LINKLAYER_ETHERNET`: no tables of transmission times are needed.
const ETHERNET: u8 = 1;
/// `TCA_TBF_*`
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const PRATE64: u16 = 5;
const BURST: u16 = 6;
const PBURST: u16 = 7;
/// `struct tc_tbf_qopt`: two of `struct tc_ratespec`, and three numbers.
const PARMS_LEN: usize = 2 * SPEC_LEN + 12;
const SPEC_LEN: usize = 12;

/// A token bucket; all in bytes, and bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    rate: u64,
    burst: u32,
    /// What may wait.
    limit: u32,
    /// Rate, and what may come at once.
    peak: Option<(u64, u32)>,
}

/// A token bucket as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    rate: u64,
    peak: u64,
    limit: u32,
    /// Times of the bursts.
    ticks: u32,
    peak_ticks: u32,
}

impl Bucket {
    /// For an interface whose largest packet has `mtu` bytes: a whole packet always fits.
    pub(super) fn new(bandwidth: &Bandwidth, mtu: u32) -> Self {
        let packet = u64::from(mtu) + HEADER;
        let rate = (bandwidth.rate / 8).max(1);
        let longest = bytes_in(rate, LONGEST_NS);
        let burst = small((bandwidth.burst / 8).min(longest).max(packet));
        let peak_rate = bandwidth.peak_rate / 8;
        let peak = (peak_rate > rate)
            .then(|| (peak_rate, small(u64::from(bandwidth.peak_burst).max(packet))));
        let waits = |rate: u64, burst: u32| {
            small(bytes_in(rate, LATENCY_MS * 1_000_000).saturating_add(burst.into()))
        };
        let limit = waits(rate, burst);
        let limit = peak.map_or(limit, |(rate, burst)| limit.min(waits(rate, burst)));
        Self { rate, burst, limit, peak }
    }

    /// The content of `TCA_OPTIONS`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (peak, peak_burst) = self.peak.unwrap_or_default();
        let mut parms = Vec::with_capacity(PARMS_LEN);
        for rate in [self.rate, peak] {
            // Cell, link layer, overhead, alignment, least unit.
            parms.extend([0, if rate == 0 { 0 } else { ETHERNET }, 0, 0, 0, 0, 0, 0]);
            parms.extend(small(rate).to_ne_bytes());
        }
        parms.extend(self.limit.to_ne_bytes());
        parms.extend(ticks(self.rate, self.burst).to_ne_bytes());
        parms.extend(ticks(peak, peak_burst).to_ne_bytes());
        let mut bytes = attribute(PARMS, &parms);
        bytes.extend(attribute(BURST, &self.burst.to_ne_bytes()));
        if self.rate > u32::MAX.into() {
            bytes.extend(attribute(RATE64, &self.rate.to_ne_bytes()));
        }
        if self.peak.is_some() {
            bytes.extend(attribute(PBURST, &peak_burst.to_ne_bytes()));
            if peak > u32::MAX.into() {
                bytes.extend(attribute(PRATE64, &peak.to_ne_bytes()));
            }
        }
        bytes
    }

    /// Whether the kernel has it so. It rounds times.
    pub(super) fn is(&self, seen: &Seen) -> bool {
        let (peak, peak_burst) = self.peak.unwrap_or_default();
        (self.rate, peak, self.limit) == (seen.rate, seen.peak, seen.limit)
            && close(ticks(self.rate, self.burst), seen.ticks)
            && (self.peak.is_none() || close(ticks(peak, peak_burst), seen.peak_ticks))
    }
}

impl Seen {
    /// Reads the content of `TCA_OPTIONS`; `None` if it is none of a token bucket.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut seen = None;
        let (mut rate, mut peak) = (None, None);
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute.ok()?;
            let value = attribute.value();
            let wide = || value.try_into().ok().map(u64::from_ne_bytes);
            match attribute.kind() {
                PARMS => {
                    let number =
                        |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
                    seen = Some(Self {
                        rate: number(SPEC_LEN - 4)?.into(),
                        peak: number(2 * SPEC_LEN - 4)?.into(),
                        limit: number(2 * SPEC_LEN)?,
                        ticks: number(2 * SPEC_LEN + 4)?,
                        peak_ticks: number(2 * SPEC_LEN + 8)?,
                    });
                }
                RATE64 => rate = wide(),
                PRATE64 => peak = wide(),
                _ => {}
            }
        }
        let seen = seen?;
        Some(Self { rate: rate.unwrap_or(seen.rate), peak: peak.unwrap_or(seen.peak), ..seen })
    }
}

fn bytes_in(rate: u64, ns: u64) -> u64 {
    let bytes = u128::from(rate) * u128::from(ns) / u128::from(NS_PER_SECOND);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// How long `bytes` take.
fn ticks(rate: u64, bytes: u32) -> u32 {
    small((u64::from(bytes) * NS_PER_SECOND).checked_div(rate).unwrap_or_default() / NS_PER_TICK)
}

fn close(a: u32, b: u32) -> bool {
    a.abs_diff(b) <= a / 128 + 2
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u32 = 1500;

    fn bandwidth(rate: u64, burst: u64) -> Bandwidth {
        Bandwidth { rate, burst, peak_rate: 0, peak_burst: 0 }
    }

    #[test]
    fn a_bucket_holds_a_packet_at_least_and_four_seconds_at_most() {
        let bucket = Bucket::new(&bandwidth(10_000_000, 1_000_000), MTU);
        assert_eq!((bucket.rate, bucket.burst, bucket.limit), (1_250_000, 125_000, 156_250));
        assert_eq!(Bucket::new(&bandwidth(1_000, 0), MTU).burst, 1518);
        // Upstream's default, 4 Gibit.
        assert_eq!(Bucket::new(&bandwidth(10_000_000, 4 << 30), MTU).burst, 5_368_709);
        let peak =
            Bandwidth { peak_rate: 20_000_000, peak_burst: 7, ..bandwidth(10_000_000, 1 << 20) };
        assert_eq!(Bucket::new(&peak, MTU).peak, Some((2_500_000, 1518)));
        let low = Bandwidth { peak_rate: 1, ..peak };
        assert_eq!(Bucket::new(&low, MTU).peak, None);
    }

    #[test]
    fn what_is_written_is_recognised() {
        for (rate, peak_rate) in
            [(1_000, 0), (10_000_000, 0), (10_000_000, 11_000_000), (1 << 50, 1 << 51)]
        {
            let bandwidth = Bandwidth { peak_rate, ..bandwidth(rate, 1 << 22) };
            let bucket = Bucket::new(&bandwidth, MTU);
            let seen = Seen::decode(&bucket.encode()).unwrap();
            assert!(bucket.is(&seen), "{bucket:?} {seen:?}");
            let other = Bucket { rate: bucket.rate + 1, ..bucket };
            assert!(!other.is(&seen));
            let other = Bucket { burst: bucket.burst * 2, ..bucket };
            assert!(!other.is(&seen) || rate > 1 << 40, "{other:?} {seen:?}");
        }
        assert_eq!(Seen::decode(&[1, 2, 3]), None);
        assert_eq!(Seen::decode(&attribute(PARMS, &[0; 20])), None);
    }
}
