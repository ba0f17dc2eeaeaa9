//! The program and the kernel: real interfaces in fresh network namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::time::Duration;

use calico_cni::engine::Verdict;
use calico_core::key::Key;
use calico_core::{Datastore as _, Kind};
use calico_datastore::EmbeddedStore;
use calico_netlink::testing::TestNet;
use common::machine::{Machine, pings};
use common::{addresses, with};
use serde_json::json;

#[test]
fn without_an_agent_a_pod_gets_its_network_and_loses_it() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path();
    let config = node.direct();
    let result = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(result["interfaces"][0]["name"], "cali0f3c");
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    let shown = pod.output("ip", &["address", "show", "dev", "eth0"]);
    for address in addresses(&result) {
        assert!(shown.contains(&address), "{shown}");
        let bare = address.split('/').next().unwrap();
        let family = if bare.contains(':') { "-6" } else { "-4" };
        let routes = node.net.output("ip", &[family, "route"]);
        assert!(routes.contains(&format!("{bare} dev cali0f3c")), "{routes}");
    }
    assert!(shown.contains(result["interfaces"][1]["mac"].as_str().unwrap()), "{shown}");
    pings(&pod);

    let same = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(same, result, "a repeated ADD");
    let after = with(config, "prevResult", result);
    node.cni("CHECK", &after, "0f3c", netns).unwrap();
    pod.output("ip", &["address", "flush", "dev", "eth0"]);
    assert_eq!(node.cni("CHECK", &after, "0f3c", netns).unwrap_err()["code"], 102);
    node.cni("DEL", &after, "0f3c", netns).unwrap();
    node.cni("DEL", &after, "0f3c", netns).unwrap();
    node.assert_clean();
}

#[test]
fn a_deletion_without_the_agent_removes_the_interface_and_is_finished_by_the_next() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path();
    let config = node.through_agent();
    node.with_agent(|| {
        node.cni("ADD", &config, "0f3c", netns).unwrap();
        pings(&pod);
    });
    assert_eq!(node.interfaces(), ["cali0f3c"], "the network outlives the agent");
    pings(&pod);
    node.cni("DEL", &config, "0f3c", netns).unwrap();
    assert_eq!(node.interfaces(), [] as [&str; 0]);
    node.with_agent(|| ());
    node.assert_clean();
}

#[test]
fn a_vanished_namespace_is_no_obstacle() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path().to_owned();
    let config = node.direct();
    node.cni("ADD", &config, "0f3c", &netns).unwrap();
    drop(pod);
    node.cni("DEL", &config, "0f3c", &netns).unwrap();
    node.assert_clean();
    assert_eq!(node.cni("ADD", &config, "0f3c", &netns).unwrap_err()["code"], 3);
    node.assert_clean();
}

#[test]
fn what_is_in_the_way_is_told_and_left_alone() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    // Somebody else's interface has the name.
    node.net.output("ip", &["link", "add", "cali0f3c", "type", "bridge"]);
    let error = node.cni("ADD", &node.direct(), "0f3c", pod.netns().path()).unwrap_err();
    assert_eq!(error["code"], 102, "{error}");
    assert!(error["details"].as_str().unwrap().contains("cali0f3c"), "{error}");
    assert_eq!(node.interfaces(), ["cali0f3c"]);
    node.net.output("ip", &["link", "delete", "cali0f3c"]);
    node.assert_clean();

    // The host's own namespace is not a container's.
    let own = node.net.netns().path();
    let error = node.cni("ADD", &node.direct(), "0f3c", own).unwrap_err();
    assert_eq!(error["code"], 7, "{error}");
    node.net.output("ip", &["link", "add", "eth0", "type", "bridge"]);
    node.cni("DEL", &node.direct(), "0f3c", own).unwrap();
    assert_eq!(node.interfaces(), ["eth0"], "a DEL took the host's interface");
}

#[test]
fn twenty_pods_at_once_come_and_go() {
    let Some(node) = Machine::new() else { return };
    let pods: Option<Vec<TestNet>> = (0..20).map(|_| TestNet::new("pod")).collect();
    let Some(pods) = pods else { return };
    let config = node.through_agent();
    node.with_agent(|| {
        let all = |verb: &'static str| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = pods
                    .iter()
                    .enumerate()
                    .map(|(nth, pod)| {
                        let (node, config) = (&node, &config);
                        let container = format!("c{nth}");
                        scope.spawn(move || node.cni(verb, config, &container, pod.netns().path()))
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap().unwrap())
                    .collect::<Vec<_>>()
            })
        };
        let results = all("ADD");
        let unique: std::collections::BTreeSet<_> = results.iter().flat_map(addresses).collect();
        assert_eq!(unique.len(), 40);
        pods.iter().for_each(pings);
        all("DEL");
    });
    node.assert_clean();
}

#[test]
fn addresses_of_host_local_come_and_go() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let data = node.path("host-local");
    let ipam = json!({
        "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": data,
        "routes": [{ "dst": "192.0.2.0/24" }],
    });
    // The newest version that Debian's plugin knows.
    let config = with(with(node.direct(), "ipam", ipam), "cniVersion", json!("1.0.0"));
    let given = || {
        let entries = std::fs::read_dir(data.join("net")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.")).collect::<Vec<_>>()
    };
    let netns = pod.netns().path();
    let result = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(addresses(&result), ["10.99.0.2/32"]);
    assert_eq!(given(), ["10.99.0.2"]);
    assert!(pod.pings("192.0.2.1".parse().unwrap(), 3));
    let routes = pod.output("ip", &["route"]);
    assert!(routes.contains("192.0.2.0/24") && !routes.contains("default"), "{routes}");
    node.cni("CHECK", &with(config.clone(), "prevResult", result), "0f3c", netns).unwrap();
    node.cni("DEL", &config, "0f3c", netns).unwrap();
    assert_eq!(given(), [""; 0]);

    // With the default routes as well.
    let all = with(config.clone(), "include_default_routes", json!(true));
    node.cni("ADD", &all, "0f3d", netns).unwrap();
    assert!(pod.output("ip", &["route"]).contains("default via 169.254.1.1"));
    node.cni("DEL", &all, "0f3d", netns).unwrap();

    // An ADD that fails gives the address back.
    let error = node.cni("ADD", &config, "0f3e", Path::new("/run/netns/none")).unwrap_err();
    assert_eq!((error["code"].as_u64(), given().len()), (Some(3), 0), "{error}");
    for (ipam, words) in [
        (json!({ "type": "host-local", "subnet": "usePodCidr" }), "no IPv4 range for pods"),
        (json!({ "type": "dhcp" }), "asks over the interface"),
        (json!({ "type": "no-such-plugin" }), "no such plugin"),
        (json!({ "type": "../../bin/sh" }), "not a path"),
        (json!({ "type": "host-local", "subnet": "nonsense" }), "host-local failed"),
    ] {
        let bad = with(config.clone(), "ipam", ipam);
        let error = node.cni("ADD", &bad, "0f3f", netns).unwrap_err();
        assert!(error["code"].is_u64() && error.to_string().contains(words), "{error}");
    }
    node.assert_clean();
}

/// The agent knows the ranges that Kubernetes gave to the node; the plugin asks it for them.
#[test]
fn host_local_takes_the_ranges_of_the_node() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let ranges = json!(["10.98.7.0/24", "fd98:7::/64"]);
    let resource = json!({ "metadata": { "name": "node1" }, "status": { "podCIDRs": ranges } });
    let store = EmbeddedStore::open(node.path("store")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = Key::resource(Kind::Node, None, "node1");
    runtime.block_on(store.create(key, resource.to_string().into())).unwrap();
    drop(store);
    let ranges = [[json!({ "subnet": "usePodCidr" })], [json!({ "subnet": "usePodCidrIPv6" })]];
    let ipam = json!({ "type": "host-local", "ranges": ranges, "dataDir": node.path("data") });
    let config = with(with(node.through_agent(), "ipam", ipam), "cniVersion", json!("1.0.0"));
    let netns = pod.netns().path();
    node.with_agent(|| {
        let result = node.cni("ADD", &config, "0f3c", netns).unwrap();
        assert_eq!(addresses(&result), ["10.98.7.2/32", "fd98:7::2/128"]);
        pings(&pod);
        node.cni("CHECK", &with(config.clone(), "prevResult", result), "0f3c", netns).unwrap();
    });
    // A deletion asks nobody.
    node.cni("DEL", &config, "0f3c", netns).unwrap();
    let left = std::fs::read_dir(node.path("data/net")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("l")), "only locks: {left:?}");
    node.with_agent(|| ());
    node.assert_clean();
}

#[test]
fn after_a_reboot_addresses_come_back_and_those_in_use_stay() {
    let (Some(node), Some(lost)) = (Machine::new(), TestNet::new("pod")) else { return };
    let Some(alive) = TestNet::new("pod") else { return };
    let config = node.direct();
    node.cni("ADD", &config, "lost", lost.netns().path()).unwrap();
    node.cni("ADD", &config, "alive", alive.netns().path()).unwrap();
    // The namespace goes, and with it the interface; no DEL ever comes.
    drop(lost);
    for _ in 0..500 {
        // The kernel takes its time.
        if node.interfaces() == ["calialive"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let found = node.net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node.engine_after(Duration::from_secs(3600)).reconcile(false)).unwrap()
    });
    let verdicts: Vec<_> = found.suspects.iter().map(|s| (s.handle.as_str(), &s.verdict)).collect();
    assert_eq!(verdicts, [("net.lost", &Verdict::Freed)], "{found:?}");
    pings(&alive);
    assert_eq!(node.interfaces(), ["calialive"]);
    node.cni("DEL", &config, "alive", alive.netns().path()).unwrap();
    node.assert_clean();
}
