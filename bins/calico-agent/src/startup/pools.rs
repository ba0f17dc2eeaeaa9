//! The first pools of a cluster. Pure.

use std::net::Ipv4Addr;

use calico_core::resource::{IpPool, IpPoolSpec};
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};

/// The pools to make, of the families that have none: as the variables say, then as kubeadm was
/// told (`podSubnet`), then upstream's usual ranges.
///
/// # Errors
///
/// The variable that makes no sense.
pub fn wanted(
    variable: &impl Fn(&str) -> Option<String>,
    kubeadm: &str,
    existing: &[IpNet],
    host: &[IpNet],
    random: u64,
) -> Result<Vec<IpPool>, String> {
    let v6_is_wanted = variable("FELIX_IPV6SUPPORT").is_none_or(|it| it != "false");
    if variable("NO_DEFAULT_POOLS").is_some_and(|text| text == "true") {
        for name in ["CALICO_IPV4POOL_CIDR", "CALICO_IPV6POOL_CIDR"] {
            if variable(name).is_some_and(|text| !text.is_empty()) {
                return Err(format!("NO_DEFAULT_POOLS is true, and {name} is set; unset one"));
            }
        }
        return Ok(Vec::new());
    }
    let subnets: Vec<IpNet> = kubeadm.split(',').filter_map(|it| it.trim().parse().ok()).collect();
    let mut pools = Vec::new();
    for v6 in [false, true] {
        let of_family = |net: &&IpNet| matches!(net, IpNet::V6(_)) == v6;
        if existing.iter().any(|net| of_family(&net)) || (v6 && !v6_is_wanted) {
            continue;
        }
        let digit = if v6 { 6 } else { 4 };
        let name = format!("CALICO_IPV{digit}POOL_CIDR");
        let cidr: IpNet = match variable(&name).filter(|text| !text.is_empty()) {
            Some(text) if text == "none" => continue,
            Some(text) => {
                let cidr = text.parse().map_err(|error| format!("{name}={text}: {error}"))?;
                if matches!(cidr, IpNet::V6(_)) != v6 {
                    return Err(format!("{name}={text} is of the other family"));
                }
                cidr
            }
            None => match subnets.iter().find(of_family) {
                Some(subnet) => *subnet,
                None if v6 => random_v6(random),
                None => free_v4(host),
            },
        };
        pools.push(pool(variable, digit, cidr)?);
    }
    Ok(pools)
}

fn pool(
    variable: &impl Fn(&str) -> Option<String>,
    digit: u8,
    cidr: IpNet,
) -> Result<IpPool, String> {
    let v6 = digit == 6;
    let set = |part: &str| {
        let name = format!("CALICO_IPV{digit}POOL_{part}");
        variable(&name).filter(|text| !text.is_empty()).map(|text| (name, text))
    };
    let flag = |part: &str, usual: bool| match set(part) {
        None => Ok(usual),
        Some((name, text)) => {
            text.to_lowercase().parse().map_err(|_bad| format!("{name}={text}: not true or false"))
        }
    };
    let mode = |part: &str| match set(part) {
        None => Ok("Never"),
        Some((name, text)) => match text.to_lowercase().as_str() {
            "off" | "never" => Ok("Never"),
            "crosssubnet" | "cross-subnet" => Ok("CrossSubnet"),
            "always" => Ok("Always"),
            _ => Err(format!("{name}={text}: not Always, CrossSubnet or Never")),
        },
    };
    let usual = if v6 { 122 } else { 26 };
    let block_size = match set("BLOCK_SIZE") {
        None => usual,
        Some((name, text)) => text.parse().map_err(|error| format!("{name}={text}: {error}"))?,
    };
    let selector = set("NODE_SELECTOR").map_or_else(|| "all()".to_owned(), |(_, text)| text);
    let spec: Value = json!({
        "cidr": cidr.trunc(),
        "natOutgoing": flag("NAT_OUTGOING", !v6)?,
        "ipipMode": if v6 { "Never" } else { mode("IPIP")? },
        "vxlanMode": mode("VXLAN")?,
        "blockSize": block_size,
        "nodeSelector": selector,
        "disableBGPExport": flag("DISABLE_BGP_EXPORT", false)?,
    });
    let spec: IpPoolSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    Ok(IpPool::new(format!("default-ipv{digit}-ippool"), spec))
}

/// 192.168.0.0/16, or the first /16 of 172.16.0.0/12 that this host has no address in.
fn free_v4(host: &[IpNet]) -> IpNet {
    let usual = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16);
    let others = (16..32).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16));
    let overlaps = |range: &Ipv4Net| {
        host.iter().any(|net| match net {
            IpNet::V4(net) => range.contains(&net.trunc()) || net.contains(range),
            IpNet::V6(_) => false,
        })
    };
    std::iter::once(usual).chain(others).find(|it| !overlaps(it)).unwrap_or(usual).into()
}

/// A /48 of fd00::/8 (RFC 4193).
fn random_v6(random: u64) -> IpNet {
    let bytes = random.to_be_bytes();
    let mut address = [0; 16];
    address[0] = 0xfd;
    address[1..6].copy_from_slice(&bytes[3..8]);
    ipnet::Ipv6Net::new_assert(address.into(), 48).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(
        variables: &[(&str, &str)],
        kubeadm: &str,
        existing: &[&str],
        host: &[&str],
    ) -> Result<Vec<String>, String> {
        let nets = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let pools = wanted(&variable, kubeadm, &nets(existing), &nets(host), 0x1122_3344_5566_7788);
        pools.map(|all| all.iter().map(|it| it.to_json().to_string()).collect())
    }

    #[test]
    fn pools_are_as_upstream_makes_them() {
        let made = cidrs(&[], "", &[], &["10.0.0.5/24"]).unwrap();
        assert!(made[0].contains("default-ipv4-ippool"), "{made:?}");
        assert!(made[0].contains("192.168.0.0/16") && made[0].contains("\"blockSize\":26"));
        assert!(made[0].contains("\"natOutgoing\":true"), "{made:?}");
        assert!(made[1].contains("fd44:5566:7788::/48") && made[1].contains("\"blockSize\":122"));
        let made = cidrs(&[], "", &["fd00::/64"], &["192.168.7.1/24", "172.16.0.1/12"]).unwrap();
        assert_eq!(made.len(), 1);
        assert!(made[0].contains("192.168.0.0/16"), "nothing is free: {made:?}");
        let made = cidrs(&[], "", &["fd00::/64"], &["192.168.7.1/24", "172.16.9.1/16"]).unwrap();
        assert!(made[0].contains("172.17.0.0/16"), "{made:?}");
        let made = cidrs(&[], "10.244.0.0/16,fd01::/48", &[], &[]).unwrap();
        assert!(made[0].contains("10.244.0.0/16") && made[1].contains("fd01::/48"), "{made:?}");
        let variables = [
            ("CALICO_IPV4POOL_CIDR", "10.1.0.0/16"),
            ("CALICO_IPV4POOL_IPIP", "cross-subnet"),
            ("CALICO_IPV6POOL_CIDR", "none"),
        ];
        let made = cidrs(&variables, "10.244.0.0/16", &[], &[]).unwrap();
        assert!(made.len() == 1 && made[0].contains("\"ipipMode\":\"CrossSubnet\""), "{made:?}");
        assert_eq!(cidrs(&[("NO_DEFAULT_POOLS", "true")], "", &[], &[]).unwrap().len(), 0);
        assert_eq!(cidrs(&[], "", &["10.0.0.0/8", "fd00::/8"], &[]).unwrap().len(), 0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for bad in [
            [("NO_DEFAULT_POOLS", "true"), ("CALICO_IPV4POOL_CIDR", "10.0.0.0/8")],
            [("CALICO_IPV4POOL_CIDR", "fd00::/8"), ("", "")],
            [("CALICO_IPV4POOL_IPIP", "sometimes"), ("", "")],
            [("CALICO_IPV4POOL_NAT_OUTGOING", "perhaps"), ("", "")],
        ] {
            assert!(
                cidrs(&bad, "", &[], &[]).unwrap_err().contains(bad[0].0.trim_end()),
                "{bad:?}"
            );
        }
    }
}
