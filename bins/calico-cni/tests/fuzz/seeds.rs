//! Inputs to begin with.

pub(crate) fn stdins() -> Vec<Vec<u8>> {
    let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;IgnoreUnknown=1";
    let conf =
        |more: &str| format!(r#"{{"cniVersion":"1.1.0","name":"net","type":"calico"{more}}}"#);
    let seed = |verb: &str, args: &str, config: String| {
        format!("{verb}\n{args}\n0f3c\neth0\n{config}").into_bytes()
    };
    let result = r#","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"cali0","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.65.0.2/32","interface":1},{"address":"fd00::2/128","interface":1}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;
    let old = r#"{"cniVersion":"0.2.0","name":"net","prevResult":{"ip4":{"ip":"10.65.0.2/32","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}}}"#;
    vec![
        seed("ADD", pod, conf("")),
        seed("ADD", "IP=10.0.0.7,fd00::7;MAC=02:00:5e:10:00:01", conf(r#","mtu":1450"#)),
        seed(
            "ADD",
            pod,
            conf(
                r#","ipam":{"type":"calico-ipam","assign_ipv4":"true","assign_ipv6":"true","ipv4_pools":["main","10.0.0.0/16"]}"#,
            ),
        ),
        seed(
            "ADD",
            "",
            conf(
                r#","runtimeConfig":{"ips":["10.0.0.7/24"],"mac":"02:00:00:00:00:01","bandwidth":{"ingressRate":1000000,"ingressBurst":80000}}"#,
            ),
        ),
        seed(
            "ADD",
            "",
            conf(
                r#","args":{"cni":{"ips":["10.0.0.7"],"labels":[{"key":"app","value":"web"}]},"org.apache.mesos":{"network_info":{"labels":{"labels":[{"key":"a","value":"b"}]}}}}"#,
            ),
        ),
        seed("DEL", pod, conf(result)),
        seed("CHECK", pod, conf(result)),
        seed("DEL", "", old.to_owned()),
        seed(
            "GC",
            "",
            conf(r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#),
        ),
        seed(
            "STATUS",
            "",
            conf(
                r#","readiness_gates":["http://localhost:9099/readiness"],"policy_setup_timeout_seconds":10"#,
            ),
        ),
        seed(
            "VERSION",
            "",
            conf(
                r#","dataplane_options":{"type":"linux"},"container_settings":{"allow_ip_forwarding":true}"#,
            ),
        ),
    ]
}

pub(crate) fn annotations() -> Vec<Vec<u8>> {
    [
        "cni.projectcalico.org/ipv4pools=[\"main\",\"10.0.0.0/16\"]\ncni.projectcalico.org/ipv6pools=[\"fd00::/64\"]\n\ncni.projectcalico.org/ipFamilies=[\"IPv4\",\"IPv6\"]",
        "cni.projectcalico.org/ipAddrs=[\"10.0.0.7\",\"fd00::7\"]\ncni.projectcalico.org/hwAddr=02:00:5e:10:00:01",
        "cni.projectcalico.org/ipAddrsNoIpam=[\"10.0.0.7\"]\ncni.projectcalico.org/floatingIPs=[\"192.0.2.1\"]",
        "cni.projectcalico.org/allowedSourcePrefixes=[\"8.8.8.0/24\",\"fd00::/8\"]",
        "kubernetes.io/ingress-bandwidth=10M\nkubernetes.io/egress-bandwidth=1Gi\nqos.projectcalico.org/ingressBurst=1Mi\nqos.projectcalico.org/ingressPeakrate=20M\nqos.projectcalico.org/ingressMinburst=1500",
        "qos.projectcalico.org/ingressPacketRate=100\nqos.projectcalico.org/egressPacketRate=200\nqos.projectcalico.org/egressPacketBurst=7\nqos.projectcalico.org/ingressMaxConnections=10\nqos.projectcalico.org/dscp=AF41",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}
