//! CustomResourceDefinitions, in both of the API groups that clusters use.

use serde_json::{Value, json};

use super::super::any::with_spec;
use super::super::*;
use crate::kind::{API_VERSION, Kind};

/// Which API group a CustomResourceDefinition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrdGroup {
    /// `crd.projectcalico.org/v1`: behind an aggregated API server, or used by calicoctl alone.
    V1,
    /// `projectcalico.org/v3`: used by kubectl directly.
    V3,
}

impl CrdGroup {
    /// Both groups.
    pub const ALL: [Self; 2] = [Self::V1, Self::V3];

    /// The name of the group.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "crd.projectcalico.org",
            Self::V3 => "projectcalico.org",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V3 => "v3",
        }
    }
}

/// The kinds that Kubernetes stores as custom resources. The others are views of Kubernetes'
/// own objects (facts of upstream's Kubernetes mode).
pub fn crd_kinds() -> impl Iterator<Item = Kind> {
    let views = [Kind::Node, Kind::Profile, Kind::WorkloadEndpoint];
    let kinds = Kind::ALL.iter().copied();
    kinds.filter(move |kind| !views.contains(kind) && !kind.is_internal())
}

/// The CustomResourceDefinition of `kind` in `group`.
#[must_use]
pub fn crd(kind: Kind, group: CrdGroup) -> Value {
    let (name, plural) = match (kind, group) {
        // The one kind that is named differently.
        (Kind::IpamConfiguration, CrdGroup::V1) => ("IPAMConfig", "ipamconfigs"),
        _ => (kind.as_str(), kind.plural()),
    };
    let mut names = json!({
        "kind": name,
        "listKind": format!("{name}List"),
        "plural": plural,
        "singular": name.to_ascii_lowercase(),
    });
    let mut version = json!({ "name": group.version(), "served": true, "storage": true });
    if group == CrdGroup::V3 {
        if !short_names(kind).is_empty() {
            names["shortNames"] = json!(short_names(kind));
        }
        if !columns(kind).is_empty() {
            let column = |(name, path, kind): &(&str, &str, &str)| json!({ "name": name, "jsonPath": path, "type": kind });
            version["additionalPrinterColumns"] = columns(kind).iter().map(column).collect();
        }
        if is_policy(kind) {
            version["selectableFields"] = json!([{ "jsonPath": ".spec.tier" }]);
        }
    }
    let (mut schema, has_status) = document(kind);
    // Upstream demands a spec in the newer group, and of tiers.
    if group == CrdGroup::V3 || kind == Kind::Tier {
        schema["required"] = json!(["metadata", "spec"]);
    }
    super::add_rules(&mut schema, kind.as_str(), "");
    if group == CrdGroup::V1 {
        super::merge(&mut schema["properties"]["spec"]["properties"], &before_v3(kind));
    }
    if has_status {
        version["subresources"] = json!({ "status": {} });
    }
    version["schema"] = json!({ "openAPIV3Schema": schema });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{}", group.name()) },
        "spec": {
            "group": group.name(),
            "names": names,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

/// What the older group says otherwise about fields of the spec.
fn before_v3(kind: Kind) -> Value {
    match kind {
        Kind::BlockAffinity => json!({
            "cidr": { "format": null },
            // A word there: "true" or "false".
            "deleted": { "type": "string", "default": null },
            "state": { "enum": null },
        }),
        Kind::IpamBlock => json!({
            "affinity": { "pattern": null },
            "allocations": { "x-kubernetes-list-type": null },
            "attributes": { "x-kubernetes-list-type": null },
            "cidr": { "format": null },
            "unallocated": { "x-kubernetes-list-type": null },
        }),
        Kind::IpamConfiguration => json!({
            "autoAllocateBlocks": { "default": null },
            "ipCooldownSeconds": { "format": null },
            "maxBlocksPerHost": { "default": null, "format": null, "maximum": i32::MAX },
            "strictAffinity": { "default": null },
        }),
        _ => json!({}),
    }
}

/// The schema of `kind` for editors: JSON Schema 2020-12, strict about unknown fields.
#[must_use]
pub fn json_schema(kind: Kind) -> Value {
    let (mut schema, _) = document(kind);
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({ "const": API_VERSION });
    properties["kind"] = json!({ "const": kind.as_str() });
    properties["metadata"] = ObjectMeta::schema();
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    close(&mut schema);
    let mut out = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.as_str(),
    });
    if let (Value::Object(out), Value::Object(schema)) = (&mut out, schema) {
        out.extend(schema);
    }
    out
}

/// Every file below `deploy/` that is generated: its path there, and its text.
#[cfg(feature = "yaml")]
#[must_use]
pub fn deploy_files() -> Vec<(String, String)> {
    const HEADER: &str = "# Generated from the types by `cargo xtask crds`; do not edit.\n";
    let mut files = Vec::new();
    for kind in crd_kinds() {
        for group in CrdGroup::ALL {
            let crd = crd(kind, group);
            let plural = crd["spec"]["names"]["plural"].as_str().unwrap_or_default();
            let path = format!("crds/{}/{}_{plural}.yaml", group.version(), group.name());
            files.push((path, format!("{HEADER}{}", to_yaml(&crd))));
        }
    }
    for kind in Kind::ALL.iter().filter(|kind| !kind.is_internal()) {
        let path = format!("schemas/{}.json", kind.as_str().to_ascii_lowercase());
        files.push((path, format!("{:#}\n", json_schema(*kind))));
    }
    files
}

/// The whole object, and whether it has a status.
fn document(kind: Kind) -> (Value, bool) {
    let (spec, status) = with_spec!(kind, S => {
        (S::schema(), <<S as Spec>::Status as Field>::schema())
    });
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
        "spec": spec,
    });
    let has_status = status["properties"].as_object().is_some_and(|fields| !fields.is_empty());
    if has_status {
        properties["status"] = status;
    }
    (json!({ "type": "object", "properties": properties }), has_status)
}

/// Leaves Kubernetes' own keywords out, and lets no unknown field in.
fn close(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    keywords.retain(|key, _| !key.starts_with("x-kubernetes-"));
    let nullable = crate::resource::object::take(keywords, "nullable").is_some();
    if let (true, Some(Value::String(name))) = (nullable, keywords.get("type").cloned()) {
        keywords.insert("type".to_owned(), json!([name, "null"]));
    }
    if let Some(Value::Object(properties)) = keywords.get_mut("properties") {
        properties.values_mut().for_each(close);
        keywords.insert("additionalProperties".to_owned(), false.into());
    } else if let Some(values) = keywords.get_mut("additionalProperties") {
        close(values);
    }
    if let Some(items) = keywords.get_mut("items") {
        close(items);
    }
}

const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
    )
}

/// Names that kubectl accepts besides kind and plural.
const fn short_names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::BgpConfiguration => &["bgpconfig", "bgpconfigs"],
        Kind::BlockAffinity => &["affinity", "affinities"],
        Kind::ClusterInformation => &["clusterinfo", "clusterinfos"],
        Kind::GlobalNetworkPolicy => &["gnp", "cgnp"],
        Kind::GlobalNetworkSet => &["gns"],
        Kind::HostEndpoint => &["hep", "heps"],
        Kind::IpamConfiguration => &["ipamconfig", "ipamconfigs"],
        Kind::KubeControllersConfiguration => &["kcc", "kccs"],
        Kind::NetworkPolicy => &["cnp", "caliconetworkpolicy"],
        Kind::StagedGlobalNetworkPolicy => &["sgnp"],
        Kind::StagedKubernetesNetworkPolicy => &["sknp"],
        Kind::StagedNetworkPolicy => &["scnp", "snp"],
        _ => &[],
    }
}

/// What `kubectl get` shows: heading, path, type.
const fn columns(kind: Kind) -> &'static [(&'static str, &'static str, &'static str)] {
    const AGE: (&str, &str, &str) = ("Age", ".metadata.creationTimestamp", "date");
    const TIER: (&str, &str, &str) = ("Tier", ".spec.tier", "string");
    const ORDER: (&str, &str, &str) = ("Order", ".spec.order", "number");
    const CIDR: (&str, &str, &str) = ("CIDR", ".spec.cidr", "string");
    const NODE: (&str, &str, &str) = ("Node", ".spec.node", "string");
    match kind {
        Kind::BgpPeer => &[
            ("Node Selector", ".spec.nodeSelector", "string"),
            NODE,
            ("Local ASN", ".spec.localASNumber", "string"),
            ("Peer Selector", ".spec.peerSelector", "string"),
            ("Peer IP", ".spec.peerIP", "string"),
            ("Peer ASN", ".spec.asNumber", "string"),
        ],
        Kind::BlockAffinity => &[CIDR, NODE, ("Type", ".spec.type", "string")],
        Kind::CalicoNodeStatus => &[NODE, ("Classes", ".spec.classes", "string")],
        Kind::ClusterInformation => &[
            ("Version", ".spec.calicoVersion", "string"),
            ("Ready", ".spec.datastoreReady", "boolean"),
            ("Types", ".spec.clusterType", "string"),
        ],
        Kind::GlobalNetworkPolicy => &[TIER, ORDER, AGE],
        Kind::GlobalNetworkSet => &[AGE],
        Kind::HostEndpoint => &[NODE, ("Interface", ".spec.interfaceName", "string")],
        Kind::IpamBlock => &[
            CIDR,
            ("Affinity", ".spec.affinity", "string"),
            ("ClaimTime", ".spec.affinityClaimTime", "date"),
        ],
        Kind::IpamConfiguration => &[
            ("StrictAffinity", ".spec.strictAffinity", "boolean"),
            ("MaxBlocksPerHost", ".spec.maxBlocksPerHost", "integer"),
            ("AutoAllocateBlocks", ".spec.autoAllocateBlocks", "boolean"),
        ],
        Kind::IpamHandle => &[("ID", ".spec.handleID", "string")],
        Kind::IpPool => &[
            CIDR,
            ("VXLAN", ".spec.vxlanMode", "string"),
            ("IPIP", ".spec.ipipMode", "string"),
            ("NAT", ".spec.natOutgoing", "boolean"),
            ("Allocatable", ".status.conditions[?(@.type=='Allocatable')].status", "string"),
            AGE,
        ],
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy => {
            &[TIER, ORDER]
        }
        Kind::Tier => &[
            // Declared as upstream declares it; the field itself is a number.
            ("Order", ".spec.order", "integer"),
            ("DefaultAction", ".spec.defaultAction", "string"),
            ("Status", ".status.conditions[?(@.type=='Ready')].reason", "string"),
        ],
        _ => &[],
    }
}
