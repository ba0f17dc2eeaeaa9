//! Settings of BGP that upstream's node has from its environment.

use calico_peering::{Options, RouterId};
use ipnet::IpNet;
use tracing::warn;

/// From `CALICO_ROUTER_ID` and `CALICO_ADVERTISE_CLUSTER_IPS`.
#[must_use]
pub fn options() -> Options {
    options_from(|name| std::env::var(name).ok())
}

fn options_from(variable: impl Fn(&str) -> Option<String>) -> Options {
    let set = |name: &'static str| variable(name).filter(|text| !text.is_empty());
    Options {
        router_id: set("CALICO_ROUTER_ID").map_or(RouterId::NodeAddress, |text| router_id(&text)),
        cluster_ips: set("CALICO_ADVERTISE_CLUSTER_IPS").map(|text| cidrs(&text)),
    }
}

fn router_id(text: &str) -> RouterId {
    if text == "hash" {
        return RouterId::NodeName;
    }
    text.parse().map_or_else(
        |_| {
            warn!(CALICO_ROUTER_ID = text, "neither `hash` nor an IPv4 address: ignored");
            RouterId::NodeAddress
        },
        RouterId::Fixed,
    )
}

fn cidrs(text: &str) -> Vec<IpNet> {
    let parse = |text: &str| match text.trim().parse::<IpNet>() {
        Ok(cidr) => Some(cidr.trunc()),
        Err(error) => {
            warn!(cidr = text, %error, "a part of CALICO_ADVERTISE_CLUSTER_IPS is ignored");
            None
        }
    };
    text.split(',').filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_upstream() {
        let with = |id: &'static str, ips: &'static str| {
            options_from(move |name| {
                Some(if name == "CALICO_ROUTER_ID" { id } else { ips }.to_owned())
            })
        };
        assert_eq!(with("", ""), Options::default());
        let found = with("hash", "10.96.0.0/12, fd00:96::1/108,nonsense");
        assert_eq!(found.router_id, RouterId::NodeName);
        let ranges = ["10.96.0.0/12", "fd00:96::/108"].map(|text| text.parse().unwrap());
        assert_eq!(found.cluster_ips.unwrap(), ranges);
        assert_eq!(with("192.0.2.1", "").router_id, RouterId::Fixed([192, 0, 2, 1].into()));
        assert_eq!(with("nonsense", "").router_id, RouterId::NodeAddress);
    }
}
