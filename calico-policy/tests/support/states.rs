//! States of a cluster, for walks from one to another. They stand for what upstream's own test of
//! its calculation graph goes through, in the language of [`inputs`](super::inputs).

/// Endpoints that most states begin with: two here, one elsewhere.
macro_rules! with_pods {
    ($rest:literal) => {
        concat!(
            "
            ns a team=red
            ns b team=blue
            pod a/one 10.65.0.1 fd65::1 app=web size=s @http=tcp:80 @dns=udp:53
            pod b/two 10.65.0.2 fd65::2 app=db size=l @http=tcp:8080
            pod a/far 10.65.9.1 fd65:9::1 app=web size=l @http=tcp:80 node=n2
            ",
            $rest
        )
    };
}

/// Each with a name that says what is new in it.
pub(crate) const STATES: &[(&str, &str)] = &[
    ("nothing", ""),
    ("endpoints without policy", with_pods!("")),
    (
        "an endpoint with a policy that names a set",
        with_pods!("np a/p {selector: \"app == 'web'\", ingress: [{action: Allow, source: {selector: \"size == 'l'\"}}]}"),
    ),
    (
        "a policy for ingress only, and one for egress only",
        with_pods!(
            "np a/in {selector: \"app == 'web'\", types: [Ingress], ingress: [{action: Allow}]}
             np a/out {selector: \"app == 'web'\", types: [Egress], egress: [{action: Deny, destination: {nets: [203.0.113.0/24]}}, {action: Allow}]}"
        ),
    ),
    (
        "a policy in a tier",
        with_pods!(
            "tier sec {order: 10}
             gnp p {tier: sec, selector: all(), ingress: [{action: Pass, source: {selector: \"app == 'web'\"}}, {action: Deny}]}"
        ),
    ),
    (
        "a tier whose end passes on",
        with_pods!(
            "tier sec {order: 10, defaultAction: Pass}
             gnp p {tier: sec, selector: all(), ingress: [{action: Deny, source: {nets: [203.0.113.0/24]}}]}
             np a/q {selector: all(), ingress: [{action: Allow}]}"
        ),
    ),
    (
        "a policy in a tier that nobody defined",
        with_pods!("gnp p {tier: lost, selector: all(), ingress: [{action: Allow}]}"),
    ),
    (
        "three tiers in order",
        with_pods!(
            "tier t1 {order: 1}
             tier t2 {order: 2}
             tier t3 {order: 3}
             gnp p1 {tier: t1, selector: all(), ingress: [{action: Pass}]}
             gnp p2 {tier: t2, selector: all(), ingress: [{action: Pass}]}
             gnp p3 {tier: t3, selector: all(), ingress: [{action: Allow}]}"
        ),
    ),
    (
        "the same tiers the other way round",
        with_pods!(
            "tier t1 {order: 3}
             tier t2 {order: 2}
             tier t3 {}
             gnp p1 {tier: t1, selector: all(), ingress: [{action: Pass}]}
             gnp p2 {tier: t2, selector: all(), ingress: [{action: Pass}]}
             gnp p3 {tier: t3, selector: all(), ingress: [{action: Allow}]}"
        ),
    ),
    (
        "three policies in order",
        with_pods!(
            "gnp p1 {order: 1, selector: all(), ingress: [{action: Log}]}
             gnp p2 {order: 2, selector: all(), ingress: [{action: Deny, protocol: UDP}]}
             gnp p3 {selector: all(), ingress: [{action: Allow}]}"
        ),
    ),
    (
        "the same policies the other way round, two of them by name",
        with_pods!(
            "gnp p1 {selector: all(), ingress: [{action: Log}]}
             gnp p2 {order: 2, selector: all(), ingress: [{action: Deny, protocol: UDP}]}
             gnp p3 {order: 2, selector: all(), ingress: [{action: Allow}]}"
        ),
    ),
    (
        "policies of one name in two namespaces and in none",
        with_pods!(
            "np a/same {selector: all(), ingress: [{action: Allow, source: {selector: all()}}]}
             np b/same {selector: all(), ingress: [{action: Allow, source: {selector: all()}}]}
             gnp same {selector: all(), ingress: [{action: Deny, source: {selector: \"size == 's'\"}}]}"
        ),
    ),
    (
        "two endpoints with one address",
        "
        ns a
        pod a/one 10.65.0.1 app=web
        pod a/twin 10.65.0.1 app=web node=n2
        pod a/pal 10.65.0.2 app=web
        np a/p {selector: all(), ingress: [{action: Allow, source: {selector: \"app == 'web'\"}}]}
        ",
    ),
    (
        "one of the two is no longer selected",
        "
        ns a
        pod a/one 10.65.0.1 app=web
        pod a/twin 10.65.0.1 app=other node=n2
        pod a/pal 10.65.0.2 app=web
        np a/p {selector: all(), ingress: [{action: Allow, source: {selector: \"app == 'web'\"}}]}
        ",
    ),
    (
        "an endpoint whose addresses changed",
        "
        ns a
        pod a/one 10.65.0.1 10.65.0.77 app=web
        pod a/pal fd65::2 app=web
        np a/p {selector: all(), ingress: [{action: Allow, source: {selector: \"app == 'web'\"}}]}
        ",
    ),
    (
        "an endpoint that went to another node",
        "
        ns a
        pod a/one 10.65.0.1 app=web node=n2
        pod a/pal 10.65.0.2 app=web
        np a/p {selector: all(), ingress: [{action: Allow, source: {selector: \"app == 'web'\"}}]}
        ",
    ),
    (
        "a named port",
        with_pods!("np a/p {selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]}"),
    ),
    (
        "a named port of UDP",
        with_pods!("np a/p {selector: all(), ingress: [{action: Allow, protocol: UDP, destination: {ports: [dns, 123]}}]}"),
    ),
    (
        "a named port that is left out",
        with_pods!("gnp p {selector: all(), egress: [{action: Allow, protocol: TCP, destination: {notPorts: [http]}}]}"),
    ),
    (
        "a named port of another protocol",
        with_pods!("gnp p {selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [dns]}}]}"),
    ),
    (
        "named ports of endpoints that share an address, by selectors",
        "
        ns a
        pod a/one 10.65.0.1 app=web @http=tcp:80 @http=tcp:81
        pod a/twin 10.65.0.1 app=db @http=tcp:80 node=n2
        pod a/pal 10.65.0.2 app=db @http=tcp:8080
        gnp p {selector: all(), egress: [
            {action: Deny, protocol: TCP, destination: {selector: \"app == 'web'\", ports: [http]}},
            {action: Allow, protocol: TCP, destination: {selector: \"app == 'db'\", notPorts: [http]}}]}
        ",
    ),
    (
        "labels that endpoints inherit",
        with_pods!("gnp p {selector: \"pcns.team == 'red'\", ingress: [{action: Allow, source: {namespaceSelector: \"team == 'blue'\"}}]}"),
    ),
    (
        "the same after the namespaces' labels changed",
        "
        ns a team=blue
        ns b team=red
        pod a/one 10.65.0.1 fd65::1 app=web size=s
        pod b/two 10.65.0.2 fd65::2 app=db size=l
        gnp p {selector: \"pcns.team == 'red'\", ingress: [{action: Allow, source: {namespaceSelector: \"team == 'blue'\"}}]}
        ",
    ),
    (
        "profiles with rules, one of them missing",
        "
        profile first {ingress: [{action: Deny, protocol: UDP}], egress: [{action: Allow}]}
        profile second {ingress: [{action: Allow, source: {selector: \"app == 'web'\"}}], labelsToApply: {zone: z1}}
        pod a/one 10.65.0.1 app=web !first !second
        pod a/pal 10.65.0.2 app=db !second !missing
        pod a/three 10.65.0.3 !
        gnp p {selector: \"zone == 'z1'\", egress: [{action: Pass}]}
        ",
    ),
    (
        "service accounts",
        "
        ns a
        sa a/api role=api
        pod a/one 10.65.0.1 !kns.a !ksa.a.api sa=api
        pod a/pal 10.65.0.2
        np a/p {selector: all(), ingress: [{action: Allow, source: {serviceAccounts: {names: [api]}}},
            {action: Allow, source: {serviceAccounts: {selector: \"role == 'web'\"}}}]}
        ",
    ),
    (
        "network sets, one over endpoints' addresses",
        with_pods!(
            "netset a/s 203.0.113.0/24 10.65.0.0/16 kind=ext
             gnetset g 203.0.113.128/25 2001:db8::/32 kind=ext
             gnetset h 0.0.0.0/0 kind=all
             gnp p {selector: all(), ingress: [{action: Deny, source: {selector: \"kind == 'ext'\"}},
                {action: Allow, source: {notSelector: \"kind == 'all'\"}}]}"
        ),
    ),
    (
        "a network set that inherits its namespace's labels",
        "
        ns a team=red
        pod a/one 10.65.0.1
        netset a/s 203.0.113.0/24 kind=ext
        gnp p {selector: all(), ingress: [{action: Allow, source: {namespaceSelector: \"team == 'red'\", selector: \"kind == 'ext'\"}}]}
        ",
    ),
    (
        "every sort of selector",
        with_pods!(
            "gnp p {selector: \"has(app) && !has(none)\", ingress: [
                {action: Deny, source: {selector: \"app in {'web', 'api'}\"}},
                {action: Deny, source: {selector: \"size not in {'s'}\"}},
                {action: Deny, source: {selector: \"app starts with 'w' || app ends with 'b'\"}},
                {action: Deny, source: {selector: \"app contains 'e'\", notSelector: \"size == 's'\"}},
                {action: Allow, source: {selector: all()}}]}"
        ),
    ),
    (
        "matches of every sort",
        with_pods!(
            "gnp p {selector: all(), types: [Ingress, Egress], ingress: [
                {action: Allow, protocol: ICMP, icmp: {type: 8, code: 0}},
                {action: Allow, protocol: ICMPv6, notICMP: {type: 128}},
                {action: Deny, notProtocol: TCP, source: {notNets: [10.0.0.0/8]}},
                {action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8, 'fd00::/8'], notNets: [10.65.0.2/32]},
                    destination: {ports: [80, '8000:9000'], notPorts: [8443]}},
                {action: Log, ipVersion: 6}, {action: Pass, protocol: SCTP, destination: {ports: [36412]}}]}"
        ),
    ),
    (
        "one set for many rules, and many sets for one",
        with_pods!(
            "np a/p {selector: all(), ingress: [{action: Allow, source: {selector: \"size == 'l'\"}}, {action: Deny, destination: {selector: \"size   ==   \\\"l\\\"\"}}]}
             np a/q {selector: all(), ingress: [{action: Allow, source: {selector: \"size == 'l'\", notSelector: \"app == 'web'\"}, destination: {selector: \"app == 'web'\"}}]}
             gnp r {selector: all(), egress: [{action: Allow, destination: {selector: \"size == 'l'\"}}]}"
        ),
    ),
    (
        "a policy that is needed everywhere",
        with_pods!("gnp p {selector: \"app == 'nobody'\", performanceHints: [AssumeNeededOnEveryNode], ingress: [{action: Deny, source: {selector: \"size == 'l'\"}}]}"),
    ),
    (
        "a host endpoint with a policy and a tier",
        with_pods!(
            "hep eth0 {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]} role=host
             hep other {node: n2, interfaceName: eth0, expectedIPs: [192.0.2.2]} role=host
             tier sec {order: 5}
             gnp p {tier: sec, selector: \"role == 'host'\", ingress: [{action: Allow, source: {selector: \"role == 'host'\"}}]}
             gnp q {selector: \"role == 'host'\", egress: [{action: Allow}]}"
        ),
    ),
    (
        "a host endpoint with untracked, pre-DNAT and forward policy",
        with_pods!(
            "hep eth0 {node: n1, interfaceName: eth0} role=host
             gnp u {selector: \"role == 'host'\", doNotTrack: true, applyOnForward: true, ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}], egress: [{action: Allow, protocol: UDP, source: {ports: [53]}}]}
             gnp d {selector: \"role == 'host'\", preDNAT: true, applyOnForward: true, ingress: [{action: Deny, source: {nets: [203.0.113.0/24]}}]}
             gnp f {selector: \"role == 'host'\", applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Allow, destination: {selector: \"app == 'web'\"}}]}"
        ),
    ),
    (
        "the untracked policy is tracked now",
        with_pods!(
            "hep eth0 {node: n1, interfaceName: eth0} role=host
             gnp u {selector: \"role == 'host'\", ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}], egress: [{action: Allow, protocol: UDP, source: {ports: [53]}}]}"
        ),
    ),
    (
        "all interfaces of the host, with failsafe ports of its own",
        with_pods!(
            "hep all {node: n1, interfaceName: '*', profiles: [kns.a]} role=host
             gnp f {selector: all(), applyOnForward: true, ingress: [{action: Allow, source: {selector: \"size == 'l'\"}}]}
             felix default {failsafeInboundHostPorts: [{protocol: TCP, port: 22, net: 10.0.0.0/8}], failsafeOutboundHostPorts: []}"
        ),
    ),
    (
        "pools, nodes and settings",
        with_pods!(
            "pool main {cidr: 10.65.0.0/16, natOutgoing: true}
             pool six {cidr: 'fd65::/64', natOutgoing: true, disabled: true}
             node n1 {bgp: {ipv4Address: 192.0.2.1/24}}
             node n2 {bgp: {ipv4Address: 192.0.2.2/24}}
             felix default {defaultEndpointToHostAction: Accept, natOutgoingExclusions: IPPoolsAndHostIPs, allowVXLANPacketsFromWorkloads: true}
             felix node.n1 {allowIPIPPacketsFromWorkloads: true}"
        ),
    ),
];
