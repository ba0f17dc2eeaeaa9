//! Limits of a workload's traffic, as annotations say them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::QosControls;

/// Bits that may come at once where only a bandwidth is given. Upstream: 4 Gi.
const DEFAULT_BURST: i64 = 4 << 30;
/// Packets that may come at once where only a packet rate is given. Upstream: 5.
const DEFAULT_PACKET_BURST: i64 = 5;

type Field = fn(&mut QosControls) -> &mut i64;

/// Annotation below `qos.projectcalico.org/`, smallest and largest value, and the field.
const LIMITS: [(&str, i64, i64, Field); 14] = [
    ("ingressBandwidth", 1_000, 1_000_000_000_000_000, |q| &mut q.ingress_bandwidth),
    ("egressBandwidth", 1_000, 1_000_000_000_000_000, |q| &mut q.egress_bandwidth),
    ("ingressBurst", 1_000, 34_359_738_360, |q| &mut q.ingress_burst),
    ("egressBurst", 1_000, 34_359_738_360, |q| &mut q.egress_burst),
    ("ingressPeakrate", 1_010, 1_010_000_000_000_000, |q| &mut q.ingress_peakrate),
    ("egressPeakrate", 1_010, 1_010_000_000_000_000, |q| &mut q.egress_peakrate),
    ("ingressMinburst", 1_000, 100_000_000, |q| &mut q.ingress_minburst),
    ("egressMinburst", 1_000, 100_000_000, |q| &mut q.egress_minburst),
    ("ingressPacketRate", 1, 10_000, |q| &mut q.ingress_packet_rate),
    ("egressPacketRate", 1, 10_000, |q| &mut q.egress_packet_rate),
    ("ingressPacketBurst", 1, 10_000, |q| &mut q.ingress_packet_burst),
    ("egressPacketBurst", 1, 10_000, |q| &mut q.egress_packet_burst),
    ("ingressMaxConnections", 1, 4_294_967_295, |q| &mut q.ingress_max_connections),
    ("egressMaxConnections", 1, 4_294_967_295, |q| &mut q.egress_max_connections),
];

/// Limits of a workload's traffic.
impl QosControls {
    /// What a pod's annotations say; `None` if they say nothing. As upstream, values out of range are
    /// put into it, and unreadable ones left out; `notes` says which.
    #[must_use]
    pub fn of_annotations(
        annotations: &BTreeMap<String, String>,
        notes: &mut Vec<String>,
    ) -> Option<Self> {
        let mut qos = Self::default();
        for (name, least, most, field) in LIMITS {
            let older = match name {
                "ingressBandwidth" => "kubernetes.io/ingress-bandwidth",
                "egressBandwidth" => "kubernetes.io/egress-bandwidth",
                _ => "",
            };
            let own = annotations.get(&format!("qos.projectcalico.org/{name}"));
            let Some(text) = own.or_else(|| annotations.get(older)) else { continue };
            let Some(value) = quantity(text) else {
                notes.push(format!("annotation {name} {text:?} is no quantity; it has no effect"));
                continue;
            };
            let clamped = value.clamp(least, most);
            if clamped != value {
                notes
                    .push(format!("annotation {name} {text:?} is out of range; {clamped} is used"));
            }
            *field(&mut qos) = clamped;
        }
        if let Some(dscp) = annotations.get("qos.projectcalico.org/dscp") {
            qos.dscp = Some(dscp.parse::<u8>().map_or_else(|_| dscp.as_str().into(), Value::from));
        }
        qos.completed(notes)
    }

    /// Fills in what follows from other limits, and drops what has no meaning without them; `None`
    /// if nothing is left.
    #[must_use]
    pub fn completed(mut self, notes: &mut Vec<String>) -> Option<Self> {
        for (rate, burst, peak) in [
            (self.ingress_bandwidth, &mut self.ingress_burst, &mut self.ingress_peakrate),
            (self.egress_bandwidth, &mut self.egress_burst, &mut self.egress_peakrate),
        ] {
            if rate == 0 {
                *burst = 0;
            } else if *burst == 0 {
                *burst = DEFAULT_BURST;
            }
            if *peak != 0 && *peak <= rate {
                notes.push(format!("a peak rate of {peak} is not above {rate}; it has no effect"));
                *peak = 0;
            }
        }
        for (peak, burst) in [
            (self.ingress_peakrate, &mut self.ingress_minburst),
            (self.egress_peakrate, &mut self.egress_minburst),
        ] {
            if peak == 0 {
                *burst = 0;
            }
        }
        for (rate, burst) in [
            (self.ingress_packet_rate, &mut self.ingress_packet_burst),
            (self.egress_packet_rate, &mut self.egress_packet_burst),
        ] {
            if rate == 0 {
                *burst = 0;
            } else if *burst == 0 {
                *burst = DEFAULT_PACKET_BURST;
            }
        }

        (self != Self::default()).then_some(self)
    }
}

/// A quantity of Kubernetes: a number with a suffix of 1000 or 1024.
fn quantity(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return Some(whole.saturating_mul(factor));
    }
    let number: f64 = number.parse().ok()?;
    // Rounded up, as Kubernetes does; saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "see above")]
    Some((number * factor as f64).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn annotations_are_read_clamped_and_completed() {
        let mut notes = Vec::new();
        let qos = QosControls::of_annotations(
            &annotations(&[
                ("kubernetes.io/ingress-bandwidth", "10M"),
                ("qos.projectcalico.org/egressBandwidth", "1"),
                ("kubernetes.io/egress-bandwidth", "5M"),
                ("qos.projectcalico.org/egressPeakrate", "1010"),
                ("qos.projectcalico.org/ingressPeakrate", "1.5k"),
                ("qos.projectcalico.org/ingressPacketRate", "20k"),
                ("qos.projectcalico.org/egressMaxConnections", "many"),
            ]),
            &mut notes,
        )
        .unwrap();
        assert_eq!((qos.ingress_bandwidth, qos.ingress_burst), (10_000_000, 4_294_967_296));
        assert_eq!((qos.egress_bandwidth, qos.egress_peakrate), (1000, 1010));
        assert_eq!((qos.ingress_packet_rate, qos.ingress_packet_burst), (10_000, 5));
        assert_eq!((qos.ingress_peakrate, qos.egress_max_connections), (0, 0));
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert_eq!(QosControls::of_annotations(&annotations(&[]), &mut notes), None);
    }

    #[test]
    fn quantities_have_suffixes() {
        for (text, value) in [
            ("1", Some(1)),
            ("10k", Some(10_000)),
            ("1.5M", Some(1_500_000)),
            ("4Gi", Some(4 << 30)),
            ("9999999P", Some(i64::MAX)),
            ("", None),
            ("-1", None),
            ("1m", None),
            ("1.2.3", None),
        ] {
            assert_eq!(quantity(text), value, "{text}");
        }
    }
}
