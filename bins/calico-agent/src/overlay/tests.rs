use std::sync::Arc;

use calico_core::datastore::{Entry, Revision, WatchEvent};
use calico_netlink::tunnel::Encapsulation;
use serde_json::{Value, json};

use super::addresses::TunnelKind;
use super::*;
use crate::source::News;

fn entry(key: Key, value: &Value) -> Entry {
    Entry { key, value: Arc::from(value.to_string()), revision: Revision(1) }
}

fn put(overlay: &mut Overlay, entry: &Entry) {
    let event = WatchEvent::Put(entry.clone());
    let News::Object(stored) = News::read("a", event) else { unreachable!() };
    overlay.put(&entry.key, Some(&stored.read.unwrap()));
}

fn pool(name: &str, spec: Value) -> Entry {
    let value = json!({"metadata": {"name": name}, "spec": spec});
    entry(Key::resource(Kind::IpPool, None, name), &value)
}

fn node(name: &str, address: &str, number: u8) -> Entry {
    let value = json!({"metadata": {"name": name}, "spec": {
        "bgp": {"ipv4Address": address, "ipv4IPIPTunnelAddr": format!("10.9.{number}.1")},
        "ipv4VXLANTunnelAddr": format!("10.65.{number}.0"),
    }});
    entry(Key::resource(Kind::Node, None, name), &value)
}

fn block(cidr: &str, owner: &str, borrower: Option<&str>) -> Entry {
    let attributes: Vec<Value> =
        borrower.iter().map(|node| json!({"secondary": {"node": node}})).collect();
    let allocations = if borrower.is_some() { json!([null, 0]) } else { json!([null, null]) };
    let value = json!({"cidr": cidr, "affinity": format!("host:{owner}"), "deleted": false,
        "allocations": allocations, "unallocated": [], "attributes": attributes});
    entry(Key::Block(cidr.parse().unwrap()), &value)
}

/// Three nodes, of which `a` and `b` are in one subnet, seen from `a`.
fn three(mode: Value) -> Overlay {
    let mut overlay = Overlay::new("a");
    let mut spec = json!({"cidr": "10.65.0.0/16"});
    spec.as_object_mut().unwrap().append(&mut mode.as_object().unwrap().clone());
    for entry in [
        pool("pods", spec),
        node("a", "192.0.2.1/24", 1),
        node("b", "192.0.2.2/24", 2),
        node("c", "198.51.100.3/24", 3),
        block("10.65.1.0/26", "a", Some("c")),
        block("10.65.2.0/26", "b", None),
        block("10.65.3.0/26", "c", Some("b")),
    ] {
        put(&mut overlay, &entry);
    }
    overlay
}

/// Changes as `destination via gateway [dev device]`, or `no destination`.
fn shown(changes: RouteChanges) -> Vec<String> {
    let show = |(destination, target): (IpNet, Option<RouteTarget>)| match target {
        Some(RouteTarget::Via(hops)) => {
            let device = hops[0].interface.as_ref().map(|it| format!(" dev {it}"));
            format!("{destination} via {}{}", hops[0].gateway, device.unwrap_or_default())
        }
        Some(other) => panic!("{other:?}"),
        None => format!("no {destination}"),
    };
    changes.into_iter().map(show).collect()
}

#[test]
fn blocks_and_borrowed_addresses_lead_to_their_nodes() {
    let mut overlay = three(json!({"vxlanMode": "Always"}));
    let expected = [
        "10.65.1.1/32 via 10.65.3.0 dev vxlan.calico",
        "10.65.2.0/26 via 10.65.2.0 dev vxlan.calico",
        "10.65.3.0/26 via 10.65.3.0 dev vxlan.calico",
        "10.65.3.1/32 via 10.65.2.0 dev vxlan.calico",
    ];
    assert_eq!(shown(overlay.routes()), expected);
    assert_eq!(overlay.routes(), [], "nothing new");
    put(&mut overlay, &block("10.65.3.0/26", "c", None));
    assert_eq!(shown(overlay.routes()), ["no 10.65.3.1/32"]);
    overlay.gone(&Key::resource(Kind::Node, None, "b"));
    assert_eq!(shown(overlay.routes()), ["no 10.65.2.0/26"]);
    put(&mut overlay, &pool("pods", json!({"cidr": "10.65.0.0/16"})));
    assert_eq!(shown(overlay.routes()), ["no 10.65.1.1/32", "no 10.65.3.0/26"]);
}

#[test]
fn only_other_subnets_take_the_tunnel_where_the_pool_says_so() {
    let mut overlay = three(json!({"vxlanMode": "CrossSubnet"}));
    let routes = shown(overlay.routes());
    assert_eq!(routes[1], "10.65.2.0/26 via 192.0.2.2");
    assert_eq!(routes[2], "10.65.3.0/26 via 10.65.3.0 dev vxlan.calico");
    let mut overlay = three(json!({"ipipMode": "CrossSubnet"}));
    let routes = shown(overlay.routes());
    assert_eq!(routes[1], "10.65.2.0/26 via 192.0.2.2");
    assert_eq!(routes[2], "10.65.3.0/26 via 198.51.100.3 dev tunl0");
}

#[test]
fn a_device_has_every_other_node_at_its_ends() {
    let mut overlay = three(json!({"vxlanMode": "Always"}));
    overlay.set_settings(&Arc::new(FelixConfigurationSpec {
        vxlan_vni: Some(7),
        vxlan_mtu: Some(1400),
        ..FelixConfigurationSpec::default()
    }));
    let plan = overlay.plan().unwrap();
    assert_eq!(overlay.plan(), None, "nothing new");
    let [wanted] = &plan.tunnels[..] else { panic!("{plan:?}") };
    let tunnel = &wanted.tunnel;
    assert_eq!((tunnel.name.as_str(), tunnel.mtu), ("vxlan.calico", 1400));
    assert_eq!(tunnel.address.to_string(), "10.65.1.0");
    let Encapsulation::Vxlan(vxlan) = &tunnel.encapsulation else { panic!("{tunnel:?}") };
    assert_eq!((vxlan.vni, vxlan.port), (7, 4789));
    // 0x66 and the first five bytes of `printf a | sha1sum`.
    assert_eq!(vxlan.mac.to_string(), "66:86:f7:e4:37:fa");
    let remotes: Vec<String> =
        vxlan.remotes.iter().map(|it| format!("{} {}", it.node, it.address)).collect();
    assert_eq!(remotes, ["192.0.2.2 10.65.2.0", "198.51.100.3 10.65.3.0"]);

    let ipip = three(json!({"ipipMode": "Always"})).plan().unwrap();
    assert_eq!(ipip.tunnels[0].tunnel.name, "tunl0");
    assert_eq!(ipip.tunnels[0].tunnel.address.to_string(), "10.9.1.1");
    let plain = three(json!({})).plan().unwrap();
    assert_eq!((plain.tunnels, plain.sizes), (vec![], vec![]));
    assert_eq!(ipip.sizes, [devices::Size { mtu: None, overhead: 20 }]);
}

#[test]
fn settings_may_forbid_a_way_of_wrapping_or_make_room_for_it() {
    let mut overlay = three(json!({"vxlanMode": "Always"}));
    assert_eq!(overlay.routes().len(), 4);
    let settings = |ipip, vxlan| {
        Arc::new(FelixConfigurationSpec {
            ipip_enabled: ipip,
            vxlan_enabled: vxlan,
            ..FelixConfigurationSpec::default()
        })
    };
    overlay.set_settings(&settings(Some(true), Some(false)));
    assert!(overlay.routes().iter().all(|(_, target)| target.is_none()));
    let plan = overlay.plan().unwrap();
    assert_eq!(plan.sizes, [devices::Size { mtu: None, overhead: 20 }], "room for IP-in-IP");
    let wanted = plan.addresses.addresses.unwrap();
    assert_eq!(wanted[&TunnelKind::VxlanV4].pools, []);
    overlay.set_settings(&settings(None, None));
    assert_eq!(overlay.routes().len(), 4);
    assert_eq!(overlay.plan().unwrap().tunnels[0].tunnel.name, "vxlan.calico");
}

#[test]
fn addresses_come_from_pools_that_allow_tunnels_and_select_the_node() {
    let pools = |mode: Value| {
        let wanted = three(mode).plan().unwrap().addresses.addresses.unwrap();
        wanted[&TunnelKind::VxlanV4].pools.len()
    };
    assert_eq!(pools(json!({"vxlanMode": "Always"})), 1);
    assert_eq!(pools(json!({"ipipMode": "Always"})), 0);
    assert_eq!(pools(json!({"vxlanMode": "Always", "disabled": true})), 0);
    assert_eq!(pools(json!({"vxlanMode": "Always", "allowedUses": ["Workload"]})), 0);
    assert_eq!(pools(json!({"vxlanMode": "Always", "nodeSelector": "has(rack)"})), 0);
}

#[test]
fn without_ipv6_there_is_no_tunnel_of_it() {
    let mut overlay = three(json!({"vxlanMode": "Always"}));
    let v6 = json!({"cidr": "fd00:65::/64", "vxlanMode": "Always"});
    put(&mut overlay, &pool("v6", v6));
    let used = |overlay: &mut Overlay| overlay.plan().unwrap().sizes.len();
    assert_eq!(used(&mut overlay), 2);
    let spec = FelixConfigurationSpec {
        ipv6_support: Some(false),
        mtu_iface_pattern: "^fab".to_owned(),
        ..FelixConfigurationSpec::default()
    };
    overlay.set_settings(&Arc::new(spec));
    let plan = overlay.plan().unwrap();
    assert_eq!((plan.sizes.len(), plan.fabric.as_deref()), (1, Some("^fab")));
}
