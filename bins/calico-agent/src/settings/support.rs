//! Which parameters have an effect here, which mean nothing here, and which are not built yet.

use calico_core::felix::{PARAMETERS, Parameter};

use super::IN_FORCE;

/// What this agent makes of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is obeyed, live.
    InForce,
    /// What it is about does not exist here, for this reason: nothing is missing without it.
    NotApplicable(&'static str),
    /// It asks for something that is not built yet.
    Unsupported,
}

const NO_IPTABLES: &str = "iptables and ipsets are not used: nf_tables is programmed over netlink";
const NO_EBPF: &str = "there is no eBPF dataplane: nf_tables is used";
const NO_GO: &str = "the agent is not written in Go";
const NO_DRIVER: &str = "the dataplane is part of the agent";
const NO_USAGE: &str = "nothing is ever reported to anybody outside of the cluster";
const STANDARD_ERROR: &str =
    "the log goes to the standard error, which systemd or the container runtime keeps";
const FOR_TESTS: &str = "it is for tests of upstream's agent";
const OWN_TABLE: &str = "no rules of others come after it in the same table";
const MAIN_TABLE: &str = "routes are in the main table, and nothing else needs one";

/// Parameters that mean nothing here, and why; those of groups by how their names begin.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("cgroupV2Path", NO_EBPF),
    ("chainInsertMode", "the chains are in a table of their own and hooked by priority"),
    ("dataplaneDriver", NO_DRIVER),
    ("debugDisableLogDropping", "no line of the log is dropped"),
    ("debugHost", NO_GO),
    ("debugMemoryProfilePath", NO_GO),
    ("debugPort", NO_GO),
    ("debugSimulateCalcGraphHangAfter", FOR_TESTS),
    ("debugSimulateDataplaneApplyDelay", FOR_TESTS),
    ("debugSimulateDataplaneHangAfter", FOR_TESTS),
    ("endpointStatusPathPrefix", "only confd reads those files; the agent speaks BGP itself"),
    ("featureDetectOverride", "what the kernel can do is found by asking it for that"),
    ("featureGates", "upstream's agent has no gate at present"),
    ("genericXDPEnabled", "there is no XDP: untracked policy is in nf_tables"),
    ("goGCThreshold", NO_GO),
    ("goMaxProcs", NO_GO),
    ("goMemoryLimitMB", NO_GO),
    ("ipsetsRefreshInterval", NO_IPTABLES),
    ("iptablesBackend", NO_IPTABLES),
    ("iptablesFilterAllowAction", NO_IPTABLES),
    ("iptablesFilterDenyAction", NO_IPTABLES),
    ("iptablesLockProbeInterval", NO_IPTABLES),
    ("iptablesMangleAllowAction", NO_IPTABLES),
    ("iptablesMarkMask", NO_IPTABLES),
    ("iptablesPostWriteCheckInterval", NO_IPTABLES),
    ("iptablesRefreshInterval", NO_IPTABLES),
    (
        "kubeNodePortRanges",
        "only kube-proxy in IPVS mode asks for it; its nftables and iptables modes need no such list",
    ),
    ("logDebugFilenameRegex", "RUST_LOG chooses by module what is logged"),
    ("logFilePath", STANDARD_ERROR),
    ("logPrefix", "the action Log reports to NFLOG, where each report names its rule"),
    ("logSeverityFile", STANDARD_ERROR),
    ("logSeveritySys", STANDARD_ERROR),
    ("maxIpsetSize", "sets of nf_tables grow as they need to"),
    ("nftablesFilterAllowAction", OWN_TABLE),
    ("nftablesMangleAllowAction", OWN_TABLE),
    ("nftablesMode", "nf_tables is used whatever it says"),
    ("programClusterRoutes", "the agent makes the routes of every kind of pool"),
    ("prometheusGoMetricsEnabled", NO_GO),
    ("removeExternalRoutes", "routes that others made are never removed"),
    ("requireMTUFile", "the agent writes the file itself before it makes a pod"),
    ("routeTableRange", MAIN_TABLE),
    ("routeTableRanges", MAIN_TABLE),
    ("sidecarAccelerationEnabled", "upstream has taken it away"),
    ("usageReportingEnabled", NO_USAGE),
    ("usageReportingInitialDelay", NO_USAGE),
    ("usageReportingInterval", NO_USAGE),
    ("useInternalDataplaneDriver", NO_DRIVER),
    ("windowsManageFirewallRules", "the agent is for Linux"),
    ("xdpEnabled", "there is no XDP: untracked policy is in nf_tables"),
    ("xdpRefreshInterval", "there is no XDP: untracked policy is in nf_tables"),
];

/// The exception: it asks for another dataplane.
const BPF_SWITCH: &str = "bpfEnabled";

impl Support {
    /// Of the parameter of this field.
    #[must_use]
    pub fn of(field: &str) -> Self {
        let named = || NOT_APPLICABLE.iter().find(|(name, _)| *name == field);
        if IN_FORCE.contains(&field) {
            Self::InForce
        } else if let Some((_, why)) = named() {
            Self::NotApplicable(why)
        } else if field.starts_with("bpf") && field != BPF_SWITCH {
            Self::NotApplicable(NO_EBPF)
        } else {
            Self::Unsupported
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::NotApplicable(_) => "not applicable",
            Self::Unsupported => "not supported",
        }
    }
}

/// What is worth saying of parameters that are in force.
const NOTES: &[(&str, &str)] = &[
    ("dataplaneWatchdogTimeout", "at least 20 s"),
    (
        "deviceRouteProtocol",
        "of routes to workloads, and if it is not 3 of those over tunnels; a change makes them anew without a gap",
    ),
    ("deviceRouteSourceAddress", "must be an address of the host"),
    ("deviceRouteSourceAddressIPv6", "must be an address of the host"),
    (
        "externalNodesList",
        "tunnels, `natOutgoingExclusions` and code points (DSCP) take these addresses for nodes",
    ),
    ("healthTimeoutOverrides", "of `Datastore` and `InternalDataplaneMainLoop`"),
    ("interfaceExclude", "host endpoints are not found there by their addresses"),
    ("interfacePrefix", "the first, if there are several"),
    (
        "interfaceRefreshInterval",
        "rules, routes and devices are looked at together, as often as the shortest of the three intervals says; 0 is never",
    ),
    ("ipForwarding", "`Disabled` leaves the kernel's settings as they are"),
    (
        "ipipEnabled",
        "unset: as the pools ask for; `false`: never; `true`: pods' packets have room for it even if no pool asks",
    ),
    (
        "ipv6Support",
        "`false`: no IPv6 routes, tunnels and forwarding, and IPv6 packets of workloads are dropped",
    ),
    ("liveMigrationRouteConvergenceTime", "to the next 2 s"),
    (
        "mtuIfacePattern",
        "if set, the least MTU of these interfaces that are up counts; else that of the interface towards the rest of the world",
    ),
    ("netlinkTimeout", "of what makes the routes; 30 s unless set"),
    (
        "nftablesFilterDenyAction",
        "`Reject` is for workloads; host endpoints, and policies that select both, drop",
    ),
    (
        "nftablesFlowTableDataIfacePattern",
        "a regular expression; unset: connections of workloads of this host with each other, and over tunnels, are offloaded",
    ),
    (
        "nftablesFlowTableOffload",
        "see `docs/flow-offload.md`; where the kernel has no flow tables that is said in the log, once",
    ),
    ("nftablesMarkMask", "the lowest five bits are used; fewer are refused"),
    (
        "nftablesRefreshInterval",
        "see `interfaceRefreshInterval`; what others change is noticed at once in any case",
    ),
    ("prometheusMetricsClientAuth", "`RequireAnyClientCert` verifies the certificate, too"),
    ("routeRefreshInterval", "see `interfaceRefreshInterval`"),
    (
        "routeSyncDisabled",
        "routes stay as they are; those of new workloads are made by the CNI plugin",
    ),
    ("vxlanEnabled", "as `ipipEnabled`"),
];

/// The table of all parameters, for `docs/felix-parameters.md`.
#[must_use]
pub fn document() -> String {
    let count = |wanted: fn(Support) -> bool| {
        PARAMETERS.iter().filter(|parameter| wanted(Support::of(parameter.field))).count()
    };
    let in_force = count(|support| support == Support::InForce);
    let not_applicable = count(|support| matches!(support, Support::NotApplicable(_)));
    let mut text = format!(
        "# Parameters of FelixConfiguration\n\n\
         What `calico-agent` makes of each of the {} parameters of upstream's node agent: {in_force} \
         are in force, {not_applicable} mean nothing here, {} are not supported. One that is not \
         supported and set to something else than its default is named in the agent's log, once; \
         those that mean nothing here are named there together in one line.\n\n\
         A test writes this table (`CALICO_WRITE_DOCS=1 cargo test -p calico-agent --lib \
         settings`) and holds it against the code.\n\n\
         | Parameter | Default | Status | Note |\n|---|---|---|---|\n",
        PARAMETERS.len(),
        PARAMETERS.len() - in_force - not_applicable,
    );
    for parameter in PARAMETERS {
        text.push_str(&row(parameter));
    }
    text
}

fn row(parameter: &Parameter) -> String {
    let support = Support::of(parameter.field);
    let note = match support {
        Support::NotApplicable(why) => why,
        _ => NOTES.iter().find(|(name, _)| *name == parameter.field).map_or("", |(_, note)| note),
    };
    let default = match parameter.default {
        "" => String::new(),
        default => format!("`{}`", default.replace('|', "\\|")),
    };
    format!("| `{}` | {default} | {} | {note} |\n", parameter.field, support.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_lists_is_a_parameter() {
        assert!(
            NOT_APPLICABLE
                .iter()
                .map(|(name, _)| name)
                .is_sorted_by(|a, b| { a.to_lowercase() < b.to_lowercase() })
        );
        for (name, _) in NOT_APPLICABLE.iter().chain(NOTES) {
            assert!(Parameter::by_field(name).is_some(), "{name}");
        }
        for (name, _) in NOT_APPLICABLE {
            assert!(!IN_FORCE.contains(name), "{name} is in force, too");
        }
        for (name, _) in NOTES {
            assert!(IN_FORCE.contains(name), "{name} is not in force");
        }
        assert_eq!(Support::of("bpfEnabled"), Support::Unsupported);
        assert_eq!(Support::of("bpfLogLevel"), Support::NotApplicable(NO_EBPF));
    }

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/felix-parameters.md");
        let expected = document();
        if std::env::var_os("CALICO_WRITE_DOCS").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "docs/felix-parameters.md is out of date: \
             CALICO_WRITE_DOCS=1 cargo test -p calico-agent --lib settings"
        );
    }
}
