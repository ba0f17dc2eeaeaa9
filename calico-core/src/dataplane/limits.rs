use crate::resource::QosControls;

/// Limits of a workload's traffic, in the workload's view of directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Of packets to the workload.
    pub ingress: TrafficLimits,
    /// Of packets from the workload.
    pub egress: TrafficLimits,
}

/// Limits in one direction; those that are absent do not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TrafficLimits {
    /// Packets beyond it wait, and are dropped when too many wait.
    pub bandwidth: Option<Bandwidth>,
    /// Packets beyond it are dropped.
    pub packets: Option<PacketRate>,
    /// TCP connections at the same time; further ones are reset.
    pub connections: Option<u32>,
}

/// A bandwidth, as a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bandwidth {
    /// bit/s over time.
    pub rate: u64,
    /// Bits that may come at once after a pause.
    pub burst: u64,
    /// bit/s within a burst; 0: no limit.
    pub peak_rate: u64,
    /// Bytes that may come at once within a burst; a packet at least.
    pub peak_burst: u32,
}

/// A rate of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketRate {
    /// Packets per second over time.
    pub per_second: u64,
    /// Packets that may come at once after a pause.
    pub burst: u32,
}

impl Limits {
    /// Whether there is no limit at all.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl TrafficLimits {
    /// What a resource says: bandwidth, burst, peak rate, burst of the peak rate, packet rate and
    /// its burst, connections. 0 and less is no limit.
    fn new([rate, burst, peak, peak_burst, packets, packet_burst, connections]: [i64; 7]) -> Self {
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let small = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
        Self {
            bandwidth: positive(rate).map(|rate| Bandwidth {
                rate,
                burst: positive(burst).unwrap_or_default(),
                peak_rate: positive(peak).unwrap_or_default(),
                peak_burst: small(peak_burst),
            }),
            packets: positive(packets)
                .map(|per_second| PacketRate { per_second, burst: small(packet_burst) }),
            connections: positive(connections)
                .map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
        }
    }
}

impl From<&QosControls> for Limits {
    /// What follows from other limits is filled in as
    /// [`QosControls::completed`] does.
    fn from(qos: &QosControls) -> Self {
        let Some(qos) = qos.clone().completed(&mut Vec::new()) else { return Self::default() };
        Self {
            ingress: TrafficLimits::new([
                qos.ingress_bandwidth,
                qos.ingress_burst,
                qos.ingress_peakrate,
                qos.ingress_minburst,
                qos.ingress_packet_rate,
                qos.ingress_packet_burst,
                qos.ingress_max_connections,
            ]),
            egress: TrafficLimits::new([
                qos.egress_bandwidth,
                qos.egress_burst,
                qos.egress_peakrate,
                qos.egress_minburst,
                qos.egress_packet_rate,
                qos.egress_packet_burst,
                qos.egress_max_connections,
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_the_resource_says_and_nothing_is_no_limit() {
        let qos = QosControls {
            ingress_bandwidth: 1_000_000,
            egress_packet_rate: 100,
            egress_max_connections: 7,
            ingress_max_connections: -1,
            ..QosControls::default()
        };
        let limits = Limits::from(&qos);
        let bandwidth = limits.ingress.bandwidth.unwrap();
        assert_eq!((bandwidth.rate, bandwidth.burst), (1_000_000, 4 << 30), "burst filled in");
        assert_eq!(limits.ingress.connections, None);
        assert_eq!(limits.egress.packets, Some(PacketRate { per_second: 100, burst: 5 }));
        assert_eq!((limits.egress.bandwidth, limits.egress.connections), (None, Some(7)));
        assert!(Limits::from(&QosControls::default()).is_none() && !limits.is_none());
    }
}
