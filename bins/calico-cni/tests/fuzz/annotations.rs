//! Annotations of a pod and its namespace, which anybody who may create pods writes.

use calico_cni::facts::{PodFacts, PodInfo};
use calico_cni::spec::{Call, NetConf};

use super::stdin::refused;

/// Each line is an annotation, `name=value`; those after an empty line are the namespace's. True if
/// they were taken.
pub(crate) fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let (pod, namespace) = text.split_once("\n\n").unwrap_or((&text, ""));
    let read = |text: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let info = PodInfo {
        annotations: read(pod),
        namespace_annotations: read(namespace),
        ..PodInfo::default()
    };
    let mut taken = false;
    for features in [false, true] {
        let conf = NetConf::parse(&format!(
            r#"{{"name": "net", "feature_control":
                {{"ip_addrs_no_ipam": {features}, "floating_ips": {features}}}}}"#
        ))
        .expect("a configuration");
        match PodFacts::new(&conf, &Call::default(), Some(&info)) {
            Ok(facts) => {
                taken = true;
                check(&facts, features);
            }
            Err(error) => refused(&error),
        }
    }
    taken
}

fn check(facts: &PodFacts, features: bool) {
    for addresses in [&facts.addresses, &facts.addresses_no_ipam] {
        assert!(addresses.len() <= 2, "{facts:?}");
    }
    assert!(features || facts.addresses_no_ipam.is_empty() && facts.floating.is_empty());
    assert!(facts.families != Some((false, false)), "{facts:?}");
    if let Some(mac) = facts.mac {
        assert!(mac.0[0] & 1 == 0, "{mac}");
    }
    // Limits within upstream's ranges, whatever was asked for.
    if let Some(qos) = &facts.qos {
        for rate in [qos.ingress_bandwidth, qos.egress_bandwidth] {
            assert!(rate == 0 || (1_000..=1_000_000_000_000_000).contains(&rate), "{qos:?}");
        }
        for (rate, burst) in [
            (qos.ingress_packet_rate, qos.ingress_packet_burst),
            (qos.egress_packet_rate, qos.egress_packet_burst),
        ] {
            assert!((0..=10_000).contains(&rate) && (0..=10_000).contains(&burst), "{qos:?}");
            assert!((rate == 0) == (burst == 0), "{qos:?}");
        }
    }
}
