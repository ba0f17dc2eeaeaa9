//! `usePodCidr`: the ranges that Kubernetes gave to this node, in a configuration of `host-local`. As
//! upstream, in `ipam.subnet` and in each `subnet` of `ipam.ranges`. Pure.

use ipnet::IpNet;
use serde_json::Value;

use crate::spec::{CniError, Code};

/// What stands for the node's IPv4 range; letters may be large or small.
const V4: &str = "usePodCidr";
/// What stands for its IPv6 range.
const V6: &str = "usePodCidrIPv6";

/// Whether the configuration asks for the node's ranges.
pub(super) fn are_wanted(config: &Value) -> bool {
    subnets(config).any(|subnet| is(subnet, V4) || is(subnet, V6))
}

/// Puts the first of the node's ranges of each family in.
///
/// # Errors
///
/// Code 7 if the node has no range of a family that is asked for.
pub(super) fn put(config: &mut Value, ranges: &[IpNet]) -> Result<(), CniError> {
    let Some(ipam) = config.get_mut("ipam") else { return Ok(()) };
    replace(ipam, ranges)?;
    let sets = ipam.get_mut("ranges").and_then(Value::as_array_mut).into_iter().flatten();
    for range in sets.filter_map(Value::as_array_mut).flatten() {
        replace(range, ranges)?;
    }
    Ok(())
}

fn replace(range: &mut Value, ranges: &[IpNet]) -> Result<(), CniError> {
    let Some(subnet) = range.get_mut("subnet") else { return Ok(()) };
    let v4 = is(subnet, V4);
    if !v4 && !is(subnet, V6) {
        return Ok(());
    }
    let of_family = |net: &&IpNet| matches!(net, IpNet::V4(_)) == v4;
    let Some(found) = ranges.iter().find(of_family) else {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let message = format!("the node has no {family} range for pods");
        return Err(CniError::new(Code::InvalidConfig, message).details(format!(
            "ipam.subnet {subnet} takes it from `podCIDRs` of the Node in Kubernetes"
        )));
    };
    *subnet = Value::String(found.to_string());
    Ok(())
}

fn is(subnet: &Value, word: &str) -> bool {
    subnet.as_str().is_some_and(|subnet| subnet.eq_ignore_ascii_case(word))
}

fn subnets(config: &Value) -> impl Iterator<Item = &Value> {
    let ipam = &config["ipam"];
    let sets = ipam["ranges"].as_array().into_iter().flatten();
    let ranges = sets.filter_map(Value::as_array).flatten();
    [ipam].into_iter().chain(ranges).map(|range| &range["subnet"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_nodes_ranges_take_the_place_of_the_words() {
        let mut config = json!({ "ipam": {
            "subnet": "usePodCidr",
            "ranges": [
                [{ "subnet": "usepodcidr", "gateway": "10.1.0.1" }, { "subnet": "10.9.0.0/24" }],
                [{ "subnet": "usePodCidrIPv6" }],
            ],
        } });
        assert!(are_wanted(&config));
        put(&mut config, &nets(&["fd00::/64", "10.1.0.0/24", "10.2.0.0/24"])).unwrap();
        let expected = json!({ "ipam": {
            "subnet": "10.1.0.0/24",
            "ranges": [
                [{ "subnet": "10.1.0.0/24", "gateway": "10.1.0.1" }, { "subnet": "10.9.0.0/24" }],
                [{ "subnet": "fd00::/64" }],
            ],
        } });
        assert_eq!(config, expected);
        assert!(!are_wanted(&config));
    }

    #[test]
    fn a_node_without_a_range_is_told() {
        let mut config = json!({ "ipam": { "ranges": [[{ "subnet": "usePodCidrIPv6" }]] } });
        let error = put(&mut config, &nets(&["10.1.0.0/24"])).unwrap_err();
        assert!(error.to_string().contains("IPv6"), "{error}");
        for odd in [
            json!({}),
            json!([]),
            json!({ "ipam": [1], "ranges": 7 }),
            json!({ "ipam": { "ranges": [7, [8]] } }),
        ] {
            let mut same = odd.clone();
            assert!(!are_wanted(&odd));
            put(&mut same, &[]).unwrap();
            assert_eq!(same, odd);
        }
    }
}
