//! Rules between fields that the API server checks by itself, in its expression language (CEL).
//!
//! The cheap part of [`Resource::validate`](crate::resource::Resource::validate), for writers that
//! use kubectl; everything else is checked by the programs that read the objects.

use serde_json::{Value, json};

/// Rules in CEL, each with what to say when it is broken.
type Rules = &'static [(&'static str, &'static str)];

/// Struct (or kind, for rules that look at the name), field (`""` is the struct itself), rules.
const RULES: &[(&str, &str, Rules)] = &[
    (
        "BgpFilterRule",
        "",
        &[
            (
                "has(self.cidr) && self.cidr != '' ? has(self.matchOperator) : !has(self.matchOperator)",
                "cidr and matchOperator need each other",
            ),
            ("!has(self.prefixLength) || has(self.cidr)", "prefixLength needs cidr"),
        ],
    ),
    (
        "BgpPeerSpec",
        "",
        &[
            (
                "!(has(self.node) && self.node != '' && has(self.nodeSelector) && self.nodeSelector != '')",
                "give node or nodeSelector, not both",
            ),
            (
                "!(has(self.peerIP) && self.peerIP != '' && has(self.peerSelector) && self.peerSelector != '')",
                "give peerIP or peerSelector, not both",
            ),
            (
                "!(has(self.asNumber) && self.asNumber != 0 && has(self.peerSelector) && self.peerSelector != '')",
                "asNumber has no meaning with peerSelector",
            ),
        ],
    ),
    (
        "FelixConfiguration",
        "",
        &[(
            "!has(self.spec.nodeSelector) || self.spec.nodeSelector == '' || (self.metadata.name != 'default' && !self.metadata.name.startsWith('node.'))",
            "nodeSelector has no meaning in default and node.<name>; use another name",
        )],
    ),
    (
        "FelixConfigurationSpec",
        "",
        &[(
            "!(has(self.routeTableRange) && has(self.routeTableRanges))",
            "give routeTableRange or routeTableRanges, not both",
        )],
    ),
    ("GlobalNetworkPolicySpec", "", HOST_POLICY),
    ("StagedGlobalNetworkPolicySpec", "", HOST_POLICY),
    (
        "HostEndpointSpec",
        "",
        &[(
            "(has(self.interfaceName) && self.interfaceName != '') || (has(self.expectedIPs) && self.expectedIPs.size() > 0)",
            "interfaceName or expectedIPs is needed",
        )],
    ),
    ("Icmp", "", &[("!has(self.code) || has(self.type)", "code needs type")]),
    (
        "IpPoolSpec",
        "",
        &[(
            "!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode == 'Never' || self.vxlanMode == 'Never'",
            "ipipMode and vxlanMode cannot both be in use",
        )],
    ),
    ("IpPoolSpec", "blockSize", FIXED),
    ("IpPoolSpec", "cidr", FIXED),
    (
        "IpamConfigurationSpec",
        "",
        &[(
            "self.strictAffinity || self.autoAllocateBlocks",
            "autoAllocateBlocks may be false only with strictAffinity",
        )],
    ),
    (
        "Tier",
        "",
        &[(
            "!(self.metadata.name in ['default', 'kube-admin', 'kube-baseline']) || (has(self.spec.defaultAction) && self.spec.defaultAction == (self.metadata.name == 'default' ? 'Deny' : 'Pass') && has(self.spec.order) && self.spec.order == (self.metadata.name == 'default' ? 1000000.0 : self.metadata.name == 'kube-admin' ? 1000.0 : 10000000.0))",
            "order and defaultAction of a built-in tier cannot change",
        )],
    ),
];

const FIXED: Rules = &[("self == oldSelf", "cannot change; create another pool and move to it")];

const HOST_POLICY: Rules = &[
    (
        "!((has(self.preDNAT) && self.preDNAT) && (has(self.doNotTrack) && self.doNotTrack))",
        "give preDNAT or doNotTrack, not both",
    ),
    (
        "!((has(self.preDNAT) && self.preDNAT) || (has(self.doNotTrack) && self.doNotTrack)) || (has(self.applyOnForward) && self.applyOnForward)",
        "preDNAT and doNotTrack need applyOnForward: true",
    ),
    (
        "!(has(self.preDNAT) && self.preDNAT) || !has(self.egress) || self.egress.size() == 0",
        "a preDNAT policy has ingress rules only",
    ),
];

/// The rules of a field, or of a struct if `field` is empty.
pub(super) fn of(name: &str, field: &str) -> Option<Value> {
    let (_, _, rules) = RULES.iter().find(|(of, at, _)| *of == name && *at == field)?;
    Some(rules.iter().map(|(rule, text)| json!({ "rule": rule, "message": text })).collect())
}
