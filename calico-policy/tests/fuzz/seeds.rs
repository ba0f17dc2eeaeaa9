//! Inputs to begin with.

pub(crate) fn selectors() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "all()",
        "!global()",
        "app == 'web'",
        "app != \"it's\"",
        "app in {'web', \"db\", 'web',} && tier not in {}",
        "a.b/c-d_e contains 'x' || f starts with 'y' && g endswith'z'",
        "!(has(a) || !has( b\t)) && ! ! c notin{'1'}",
        "((a == 'x' || has(in)) && !(all() && has(has)))",
        "projectcalico.org/namespace == 'prod' && pcns.team in {'a', 'b'}",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn rules() -> Vec<Vec<u8>> {
    let texts = [
        r#"{}"#,
        r#"{"selector": "app == 'web'", "types": ["Ingress", "Egress"], "order": 1.5, "tier": "default"}"#,
        r#"{"ingress": [{"action": "Allow", "protocol": "TCP",
            "source": {"selector": "app == 'db'", "notNets": ["10.0.0.0/8"]},
            "destination": {"ports": [80, "1000:2000", "http"]}}, {"action": "Log"}]}"#,
        r#"{"egress": [{"action": "Deny", "notProtocol": "UDP", "ipVersion": 6,
            "destination": {"nets": ["fd00::/8", "::/0"], "notSelector": "has(x)"}}, {"action": "Pass"}]}"#,
        r#"{"ingress": [{"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
            {"action": "Deny", "protocol": "ICMPv6", "notICMP": {"type": 128}}]}"#,
        r#"{"egress": [{"action": "Allow", "destination": {"services": {"name": "dns", "namespace": "kube-system"}}}]}"#,
        r#"{"ingress": [{"action": "Allow", "source": {"serviceAccounts": {"names": ["a"], "selector": "b == 'c'"},
            "namespaceSelector": "team == 'x'"}, "protocol": 132, "destination": {"notPorts": ["http"]}}]}"#,
        r#"{"selector": "all()", "namespaceSelector": "has(a)", "doNotTrack": true, "applyOnForward": true,
            "ingress": [{"action": "Deny", "source": {"nets": ["0.0.0.0/0"]}}]}"#,
        r#"{"preDNAT": true, "applyOnForward": true, "types": ["Ingress"], "performanceHints": ["AssumeNeededOnEveryNode"],
            "ingress": [{"action": "Allow", "http": {"methods": ["GET"], "paths": [{"exact": "/"}]}, "protocol": "TCP"}]}"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
