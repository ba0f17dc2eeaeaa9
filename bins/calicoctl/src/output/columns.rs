//! The columns of each kind, as upstream's calicoctl has them.

use calico_core::kind::Kind;
use calico_core::resource::AnyResource;
use serde_json::Value;

use super::table::Table;

/// Longest cell of a column that holds a list, in characters.
const LIST_WIDTH: usize = 80;

/// What the cells of some kinds need to know about the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// AS number of nodes that set none.
    pub(crate) as_number: String,
}

/// Where a cell comes from.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Name,
    /// A field, by path. Absent is empty.
    Field(&'static str),
    /// A field that has a value when it is absent.
    Or(&'static str, &'static str),
    /// A list, or the pairs of a map.
    List(&'static str),
    /// A list of any length, cut to fit.
    ShortList(&'static str),
    Count(&'static str),
    /// AS number of a node; in brackets if it is the cluster's.
    NodeAs,
    /// Name of a workload: the pod if it is one.
    Workload,
    /// Pairs of addresses.
    Nats,
}

use Cell::{Count, Field, List, Name, Nats, NodeAs, Or, ShortList, Workload};

type Column = (&'static str, Cell);

/// The table of `resources`, all of `kind`.
pub(crate) fn table(
    kind: Kind,
    resources: &[&AnyResource],
    wide: bool,
    with_namespace: bool,
    context: &Context,
) -> Table {
    let columns = columns(kind, wide);
    let with_namespace = with_namespace && kind.is_namespaced();
    let mut heading: Vec<&str> = if with_namespace { vec!["NAMESPACE"] } else { Vec::new() };
    heading.extend(columns.iter().map(|(name, _)| *name));
    let mut table = Table::new(&heading);
    for resource in resources {
        let mut row = Vec::with_capacity(heading.len());
        if with_namespace {
            row.push(resource.namespace().to_owned());
        }
        row.extend(columns.iter().map(|(_, cell)| cell.of(resource, context)));
        table.rows.push(row);
    }
    table
}

/// A table of columns by name, or by `HEADING:.path.of.field`.
///
/// Which name is unknown, and which there are.
pub(crate) fn custom(
    kind: Kind,
    resources: &[&AnyResource],
    names: &[String],
    context: &Context,
) -> Result<Table, String> {
    enum Wanted<'a> {
        Known(Cell),
        Namespace,
        Path(&'a str),
    }
    let known = columns(kind, true);
    let (mut heading, mut wanted) = (Vec::new(), Vec::new());
    for name in names {
        if let Some((title, path)) = name.split_once(':') {
            heading.push(title);
            wanted.push(Wanted::Path(path.trim_start_matches('.')));
        } else if name.eq_ignore_ascii_case("NAMESPACE") {
            heading.push("NAMESPACE");
            wanted.push(Wanted::Namespace);
        } else if let Some((title, cell)) = known.iter().find(|(t, _)| t.eq_ignore_ascii_case(name))
        {
            heading.push(*title);
            wanted.push(Wanted::Known(*cell));
        } else {
            let names: Vec<&str> = known.iter().map(|(title, _)| *title).collect();
            return Err(format!(
                "a {kind} has no column {name:?}; there are {}, or write HEADING:.path",
                names.join(", ")
            ));
        }
    }
    let mut table = Table::new(&heading);
    for resource in resources {
        let document = resource.to_value();
        let cell = |wanted: &Wanted<'_>| match wanted {
            Wanted::Known(cell) => cell.of(resource, context),
            Wanted::Namespace => resource.namespace().to_owned(),
            Wanted::Path(path) => {
                let mut found = path.split('.').filter(|key| !key.is_empty());
                found
                    .try_fold(&document, |at, key| at.get(key))
                    .map_or_else(|| "<none>".to_owned(), list)
            }
        };
        table.rows.push(wanted.iter().map(cell).collect());
    }
    Ok(table)
}

fn columns(kind: Kind, wide: bool) -> Vec<Column> {
    const NAME: Column = ("NAME", Name);
    const NODE: Column = ("NODE", Field("spec.node"));
    const TIER: Column = ("TIER", Or("spec.tier", "default"));
    const ORDER: Column = ("ORDER", Field("spec.order"));
    const SELECTOR: Column = ("SELECTOR", Field("spec.selector"));
    let (narrow, more): (&[Column], &[Column]) = match kind {
        Kind::BgpConfiguration => (
            &[
                NAME,
                ("LOGSEVERITY", Field("spec.logSeverityScreen")),
                ("MESHENABLED", Field("spec.nodeToNodeMeshEnabled")),
                ("ASNUMBER", Or("spec.asNumber", "-")),
            ],
            &[],
        ),
        Kind::BgpFilter => (
            &[
                NAME,
                ("NUMEXPORTV4", Count("spec.exportV4")),
                ("NUMIMPORTV4", Count("spec.importV4")),
                ("NUMEXPORTV6", Count("spec.exportV6")),
                ("NUMIMPORTV6", Count("spec.importV6")),
            ],
            &[],
        ),
        Kind::BgpPeer => (
            &[
                NAME,
                ("PEERIP", Field("spec.peerIP")),
                ("NODE", Or("spec.node", "(global)")),
                ("ASN", Or("spec.asNumber", "0")),
            ],
            &[],
        ),
        Kind::BlockAffinity => (
            &[NAME, ("CIDR", Field("spec.cidr")), NODE, ("TYPE", Or("spec.type", "host"))],
            &[("STATE", Field("spec.state"))],
        ),
        Kind::CalicoNodeStatus => (&[NAME, NODE], &[("CLASSES", List("spec.classes"))]),
        Kind::ClusterInformation => (
            &[
                NAME,
                ("CLUSTERGUID", Field("spec.clusterGUID")),
                ("CLUSTERTYPE", Field("spec.clusterType")),
                ("CALICOVERSION", Field("spec.calicoVersion")),
                ("DATASTOREREADY", Field("spec.datastoreReady")),
            ],
            &[],
        ),
        Kind::GlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::StagedNetworkPolicy => (&[NAME, TIER], &[ORDER, SELECTOR]),
        Kind::StagedKubernetesNetworkPolicy => {
            (&[NAME], &[("PODSELECTOR", Field("spec.podSelector"))])
        }
        Kind::GlobalNetworkSet | Kind::NetworkSet => (&[NAME], &[("NETS", ShortList("spec.nets"))]),
        Kind::HostEndpoint => (
            &[NAME, NODE],
            &[
                ("INTERFACE", Field("spec.interfaceName")),
                ("IPS", List("spec.expectedIPs")),
                ("PROFILES", List("spec.profiles")),
            ],
        ),
        Kind::IpamBlock => {
            (&[NAME, ("CIDR", Field("spec.cidr")), ("AFFINITY", Field("spec.affinity"))], &[])
        }
        Kind::IpamConfiguration => (
            &[
                NAME,
                ("STRICTAFFINITY", Or("spec.strictAffinity", "false")),
                ("AUTOALLOCATEBLOCKS", Or("spec.autoAllocateBlocks", "true")),
            ],
            &[("MAXBLOCKSPERHOST", Or("spec.maxBlocksPerHost", "0"))],
        ),
        Kind::IpPool if wide => (
            &[
                NAME,
                ("CIDR", Field("spec.cidr")),
                ("NAT", Or("spec.natOutgoing", "false")),
                ("IPIPMODE", Or("spec.ipipMode", "Never")),
                ("VXLANMODE", Or("spec.vxlanMode", "Never")),
                ("DISABLED", Or("spec.disabled", "false")),
                ("DISABLEBGPEXPORT", Or("spec.disableBGPExport", "false")),
                ("SELECTOR", Field("spec.nodeSelector")),
                ("ASSIGNMENTMODE", Or("spec.assignmentMode", "Automatic")),
            ],
            &[],
        ),
        Kind::IpPool => {
            (&[NAME, ("CIDR", Field("spec.cidr")), ("SELECTOR", Field("spec.nodeSelector"))], &[])
        }
        Kind::IpReservation => (&[NAME], &[("CIDRS", List("spec.reservedCIDRs"))]),
        Kind::Node => (
            &[NAME],
            &[
                ("ASN", NodeAs),
                ("IPV4", Field("spec.bgp.ipv4Address")),
                ("IPV6", Field("spec.bgp.ipv6Address")),
            ],
        ),
        Kind::Profile => (&[NAME], &[("LABELS", List("spec.labelsToApply"))]),
        Kind::Tier => (&[NAME, ORDER], &[]),
        Kind::WorkloadEndpoint if wide => (
            &[
                NAME,
                ("WORKLOAD", Workload),
                NODE,
                ("NETWORKS", List("spec.ipNetworks")),
                ("INTERFACE", Field("spec.interfaceName")),
                ("PROFILES", List("spec.profiles")),
                ("NATS", Nats),
            ],
            &[],
        ),
        Kind::WorkloadEndpoint => (
            &[
                ("WORKLOAD", Workload),
                NODE,
                ("NETWORKS", List("spec.ipNetworks")),
                ("INTERFACE", Field("spec.interfaceName")),
            ],
            &[],
        ),
        _ => (&[NAME], &[]),
    };
    let more = if wide { more } else { &[] };
    narrow.iter().chain(more).copied().collect()
}

impl Cell {
    fn of(self, resource: &AnyResource, context: &Context) -> String {
        let field = |path: &str| lookup(resource, path).map(text).unwrap_or_default();
        match self {
            Name => resource.name().to_owned(),
            Field(path) => field(path),
            Or(path, absent) => {
                let found = field(path);
                if found.is_empty() { absent.to_owned() } else { found }
            }
            List(path) => lookup(resource, path).map(list).unwrap_or_default(),
            ShortList(path) => cut(lookup(resource, path).map(list).unwrap_or_default()),
            Count(path) => {
                let items = lookup(resource, path).and_then(Value::as_array);
                items.map_or(0, Vec::len).to_string()
            }
            NodeAs => match field("spec.bgp.asNumber") {
                own if own.is_empty() => format!("({})", context.as_number),
                own => own,
            },
            Workload => match field("spec.pod") {
                pod if pod.is_empty() => field("spec.workload"),
                pod => pod,
            },
            Nats => {
                let pairs = lookup(resource, "spec.ipNATs").and_then(Value::as_array);
                let pair = |nat: &Value| {
                    format!("{{{} {}}}", text(&nat["internalIP"]), text(&nat["externalIP"]))
                };
                pairs
                    .map(|pairs| pairs.iter().map(pair).collect::<Vec<_>>().join(","))
                    .unwrap_or_default()
            }
        }
    }
}

fn lookup<'a>(resource: &'a AnyResource, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = resource.fields.get(keys.next()?)?;
    keys.try_fold(first, |value, key| value.get(key))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items: Vec<String> = match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::Object(pairs) => {
            pairs.iter().map(|(key, value)| format!("{key}={}", text(value))).collect()
        }
        other => return text(other),
    };
    items.join(",")
}

fn cut(text: String) -> String {
    if text.chars().count() <= LIST_WIDTH {
        return text;
    }
    let kept: String = text.chars().take(LIST_WIDTH - 3).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(document: Value, wide: bool, with_namespace: bool, expected: &str) {
        let resource: AnyResource = serde_json::from_value(document).unwrap();
        let context = Context { as_number: "64512".to_owned() };
        let table = table(resource.kind, &[&resource], wide, with_namespace, &context);
        assert_eq!(table.aligned(), expected);
    }

    #[test]
    fn pools() {
        let pool = json!({
            "kind": "IPPool", "metadata": {"name": "main"},
            "spec": {"cidr": "10.0.0.0/16", "natOutgoing": true, "nodeSelector": "all()"},
        });
        let narrow = "NAME   CIDR          SELECTOR\nmain   10.0.0.0/16   all()\n";
        check(pool.clone(), false, true, narrow);
        check(
            pool,
            true,
            false,
            "NAME   CIDR          NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   \
             SELECTOR   ASSIGNMENTMODE\nmain   10.0.0.0/16   true   Never      Never       false      \
             false              all()      Automatic\n",
        );
    }

    #[test]
    fn nodes_say_whose_the_as_number_is() {
        let node = json!({
            "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"bgp": {"ipv4Address": "192.0.2.1/24"}},
        });
        let own = json!({
            "kind": "Node", "metadata": {"name": "n1"}, "spec": {"bgp": {"asNumber": 65001}},
        });
        let wide = "NAME   ASN       IPV4           IPV6\nn1     (64512)   192.0.2.1/24\n";
        check(node.clone(), true, false, wide);
        check(node, false, false, "NAME\nn1\n");
        check(own, true, false, "NAME   ASN     IPV4   IPV6\nn1     65001\n");
    }

    #[test]
    fn namespaced_kinds_say_where() {
        let policy = json!({
            "kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": "prod"},
            "spec": {"order": 100, "selector": "app == 'web'"},
        });
        let wide = "NAMESPACE   NAME   TIER      ORDER   SELECTOR\n\
                    prod        web    default   100     app == 'web'\n";
        check(policy, true, true, wide);
    }

    #[test]
    fn columns_can_be_chosen() {
        let pool = json!({"kind": "IPPool", "metadata": {"name": "main"},
            "spec": {"cidr": "10.0.0.0/16", "allowedUses": ["Workload", "Tunnel"]}});
        let pool: AnyResource = serde_json::from_value(pool).unwrap();
        let context = Context { as_number: String::new() };
        let show = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            custom(Kind::IpPool, &[&pool], &names, &context).map(|table| table.aligned())
        };
        let table =
            "NAT     NAME   USES              GONE\nfalse   main   Workload,Tunnel   <none>\n";
        let found = show(&["nat", "NAME", "USES:.spec.allowedUses", "GONE:.spec.x.y"]).unwrap();
        assert_eq!(found, table);
        let error = show(&["COLOUR"]).unwrap_err();
        assert!(error.contains("no column \"COLOUR\"; there are NAME, CIDR"), "{error}");
    }

    #[test]
    fn endpoints_and_sets() {
        let endpoint = json!({
            "kind": "WorkloadEndpoint", "metadata": {"name": "n1-k8s-p-eth0", "namespace": "x"},
            "spec": {"node": "n1", "pod": "p", "ipNetworks": ["10.0.0.1/32", "fd00::1/128"],
                     "interfaceName": "cali1", "profiles": ["kns.x"],
                     "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "192.0.2.9"}]},
        });
        let narrow = "WORKLOAD   NODE   NETWORKS                  INTERFACE\n\
                      p          n1     10.0.0.1/32,fd00::1/128   cali1\n";
        check(endpoint.clone(), false, false, narrow);
        let resource: AnyResource = serde_json::from_value(endpoint).unwrap();
        let context = Context { as_number: String::new() };
        let wide = table(Kind::WorkloadEndpoint, &[&resource], true, false, &context);
        assert_eq!(wide.rows[0][6], "{10.0.0.1 192.0.2.9}");

        let nets: Vec<String> = (0..20).map(|n| format!("10.0.{n}.0/24")).collect();
        let set = json!({"kind": "NetworkSet", "metadata": {"name": "s"}, "spec": {"nets": nets}});
        let resource: AnyResource = serde_json::from_value(set).unwrap();
        let wide = table(Kind::NetworkSet, &[&resource], true, false, &context);
        assert_eq!(wide.rows[0][1].chars().count(), 80);
        assert!(wide.rows[0][1].ends_with("..."));
    }
}
