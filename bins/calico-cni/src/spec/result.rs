use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::error::{CniError, Code};
use super::version::Version;

/// What an ADD has made. Written in the form of each version of the specification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces, on the host and inside.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Destinations; only IPAM plugins say some.
    pub routes: Vec<IpNet>,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; may be empty.
    pub mac: String,
    /// Largest packet in bytes; 0 if unknown. Written from version 1.1.0 on.
    pub mtu: u32,
    /// The namespace that it is in; empty: the host's.
    pub sandbox: String,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Address and prefix length.
    pub address: IpNet,
    /// Router; Calico's pods have none in their subnet.
    pub gateway: Option<IpAddr>,
    /// Place in the list of interfaces.
    pub interface: Option<usize>,
}

impl CniResult {
    /// The JSON that goes to stdout.
    #[must_use]
    pub fn to_json(&self, version: Version) -> String {
        let value = if version < Version::V0_3_0 {
            self.by_family(version)
        } else {
            self.by_interface(version)
        };
        value.to_string()
    }

    fn by_interface(&self, version: Version) -> Value {
        let mut json = Map::new();
        json.insert("cniVersion".into(), version.as_str().into());
        if !self.interfaces.is_empty() {
            let interfaces = self.interfaces.iter().map(|i| interface(i, version)).collect();
            json.insert("interfaces".into(), Value::Array(interfaces));
        }
        let ips = self.ips.iter().map(|ip| address(ip, version)).collect();
        json.insert("ips".into(), Value::Array(ips));
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|dst| json!({ "dst": dst.to_string() })).collect();
            json.insert("routes".into(), Value::Array(routes));
        }
        json.insert("dns".into(), json!({}));
        Value::Object(json)
    }

    /// Versions before 0.3.0 know one address per family and no interfaces.
    fn by_family(&self, version: Version) -> Value {
        let mut json = Map::new();
        json.insert("cniVersion".into(), version.as_str().into());
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4) else {
                continue;
            };
            let mut family = Map::new();
            family.insert("ip".into(), ip.address.to_string().into());
            if let Some(gateway) = ip.gateway {
                family.insert("gateway".into(), gateway.to_string().into());
            }
            let routes: Vec<Value> = self
                .routes
                .iter()
                .filter(|dst| dst.addr().is_ipv4() == v4)
                .map(|dst| json!({ "dst": dst.to_string() }))
                .collect();
            if !routes.is_empty() {
                family.insert("routes".into(), routes.into());
            }
            json.insert(key.into(), Value::Object(family));
        }
        json.insert("dns".into(), json!({}));
        Value::Object(json)
    }

    /// Reads a result in the form of any version. What this plugin has no use for is left out.
    ///
    /// # Errors
    ///
    /// Code 6 for what is no result.
    pub fn read(value: &Value) -> Result<Self, CniError> {
        let bad = |what: String| {
            CniError::new(Code::Decode, "the previous result cannot be read").details(what)
        };
        if !value.is_object() {
            return Err(bad("it is no JSON object".into()));
        }
        let text = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let net = |value: &Value, key: &str| {
            let text = text(value, key);
            text.parse::<IpNet>().map_err(|_error| bad(format!("{key} {text:?} is no CIDR")))
        };
        let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
        let interfaces = list("interfaces")
            .map(|i| Interface {
                name: text(i, "name"),
                mac: text(i, "mac"),
                mtu: i.get("mtu").and_then(Value::as_u64).unwrap_or(0).try_into().unwrap_or(0),
                sandbox: text(i, "sandbox"),
            })
            .collect();
        let mut ips = Vec::new();
        for ip in list("ips") {
            let interface = ip.get("interface").and_then(Value::as_u64);
            ips.push(IpConfig {
                address: net(ip, "address")?,
                gateway: text(ip, "gateway").parse().ok(),
                interface: interface.and_then(|place| place.try_into().ok()),
            });
        }
        for family in ["ip4", "ip6"].into_iter().filter_map(|key| value.get(key)) {
            let gateway = text(family, "gateway").parse().ok();
            ips.push(IpConfig { address: net(family, "ip")?, gateway, interface: None });
        }
        let routes = list("routes").map(|route| net(route, "dst")).collect::<Result<_, _>>()?;
        Ok(Self { interfaces, ips, routes })
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ips.iter().map(|ip| ip.address.addr())
    }
}

fn interface(of: &Interface, version: Version) -> Value {
    let mut json = Map::new();
    json.insert("name".into(), of.name.clone().into());
    if !of.mac.is_empty() {
        json.insert("mac".into(), of.mac.clone().into());
    }
    if of.mtu != 0 && version >= Version::V1_1_0 {
        json.insert("mtu".into(), of.mtu.into());
    }
    if !of.sandbox.is_empty() {
        json.insert("sandbox".into(), of.sandbox.clone().into());
    }
    Value::Object(json)
}

fn address(of: &IpConfig, version: Version) -> Value {
    let mut json = Map::new();
    if version < Version::V1_0_0 {
        let family = if of.address.addr().is_ipv4() { "4" } else { "6" };
        json.insert("version".into(), family.into());
    }
    if let Some(interface) = of.interface {
        json.insert("interface".into(), interface.into());
    }
    json.insert("address".into(), of.address.to_string().into());
    if let Some(gateway) = of.gateway {
        json.insert("gateway".into(), gateway.to_string().into());
    }
    Value::Object(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> CniResult {
        let ip = |address: &str| IpConfig {
            address: address.parse().unwrap(),
            gateway: None,
            interface: Some(1),
        };
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.into(),
            mac: "ee:ee:ee:ee:ee:ee".into(),
            mtu: 1450,
            sandbox: sandbox.into(),
        };
        CniResult {
            interfaces: vec![interface("cali0", ""), interface("eth0", "/run/netns/a")],
            ips: vec![ip("10.0.0.1/32"), ip("fd00::1/128")],
            routes: Vec::new(),
        }
    }

    #[test]
    fn each_version_has_its_form() {
        let json = |version| result().to_json(version);
        assert_eq!(
            json(Version::V1_1_0),
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"cali0","mac":"ee:ee:ee:ee:ee:ee","mtu":1450},{"name":"eth0","mac":"ee:ee:ee:ee:ee:ee","mtu":1450,"sandbox":"/run/netns/a"}],"ips":[{"interface":1,"address":"10.0.0.1/32"},{"interface":1,"address":"fd00::1/128"}],"dns":{}}"#
        );
        assert!(!json(Version::V1_0_0).contains("mtu"));
        assert!(
            json(Version::V0_3_1)
                .contains(r#"{"version":"6","interface":1,"address":"fd00::1/128"}"#)
        );
        assert_eq!(
            json(Version::V0_2_0),
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/32"},"ip6":{"ip":"fd00::1/128"},"dns":{}}"#
        );
    }

    #[test]
    fn every_form_can_be_read_again() {
        for version in Version::ALL {
            let value = serde_json::from_str(&result().to_json(version)).unwrap();
            let read = CniResult::read(&value).unwrap();
            assert!(read.addresses().eq(result().addresses()), "{version}");
        }
        for bad in [json!([]), json!({"ips": [{"address": "10.0.0.1"}]}), json!({"ip4": {}})] {
            assert_eq!(CniResult::read(&bad).unwrap_err().code, Code::Decode, "{bad}");
        }
    }
}
