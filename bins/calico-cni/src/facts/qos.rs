//! Limits of a workload's traffic by the `bandwidth` capability.

use calico_core::resource::QosControls;
use serde_json::Value;

/// Limits by the `bandwidth` capability: bit/s, and bits.
pub(super) fn of_runtime(value: &Value) -> Result<Option<QosControls>, String> {
    let get = |key: &str| match value.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(number) => number
            .as_u64()
            .and_then(|number| i64::try_from(number).ok())
            .ok_or_else(|| format!("{key} is {number}, expected bits or bit/s")),
    };
    let qos = QosControls {
        ingress_bandwidth: get("ingressRate")?,
        ingress_burst: get("ingressBurst")?,
        egress_bandwidth: get("egressRate")?,
        egress_burst: get("egressBurst")?,
        ..QosControls::default()
    };
    Ok(qos.completed(&mut Vec::new()))
}
