//! The node agent's settings: where the host says them, and which are in force.

pub mod kernel;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use calico_core::felix::{Local, Settings};
use calico_core::resource::{FelixConfigurationSpec, GoDuration, Toggle};
use calico_netlink::sysctl;
use calico_router::program;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::ConfigError;
pub use support::{Support, document};

/// Parameters that this agent obeys, live. A test holds them against the table of all.
pub const IN_FORCE: &[&str] = &[
    "allowIPIPPacketsFromWorkloads",
    "allowVXLANPacketsFromWorkloads",
    "dataplaneWatchdogTimeout",
    "defaultEndpointToHostAction",
    "deviceRouteProtocol",
    "deviceRouteSourceAddress",
    "deviceRouteSourceAddressIPv6",
    "disableConntrackInvalidCheck",
    "externalNodesList",
    "failsafeInboundHostPorts",
    "failsafeOutboundHostPorts",
    "floatingIPs",
    "healthEnabled",
    "healthHost",
    "healthPort",
    "healthTimeoutOverrides",
    "interfaceExclude",
    "interfacePrefix",
    "interfaceRefreshInterval",
    "ipForwarding",
    "ipipEnabled",
    "ipipMTU",
    "iptablesNATOutgoingInterfaceFilter",
    "ipv4ElevatedRoutePriority",
    "ipv4NormalRoutePriority",
    "ipv6ElevatedRoutePriority",
    "ipv6NormalRoutePriority",
    "ipv6Support",
    "liveMigrationRouteConvergenceTime",
    "logActionRateLimit",
    "logActionRateLimitBurst",
    "logSeverityScreen",
    "mtuIfacePattern",
    "natOutgoingAddress",
    "natOutgoingExclusions",
    "natPortRange",
    "netlinkTimeout",
    "nftablesFilterDenyAction",
    "nftablesFlowTableDataIfacePattern",
    "nftablesFlowTableOffload",
    "nftablesMarkMask",
    "nftablesRefreshInterval",
    "prometheusMetricsCAFile",
    "prometheusMetricsCertFile",
    "prometheusMetricsClientAuth",
    "prometheusMetricsEnabled",
    "prometheusMetricsHost",
    "prometheusMetricsKeyFile",
    "prometheusMetricsPort",
    "prometheusProcessMetricsEnabled",
    "routeRefreshInterval",
    "routeSyncDisabled",
    "serviceLoopPrevention",
    "vxlanEnabled",
    "vxlanMTU",
    "vxlanMTUV6",
    "vxlanPort",
    "vxlanVNI",
    "workloadSourceSpoofing",
];

/// What the host says itself: in the file at `path`, which need not be there, and in the
/// environment.
///
/// # Errors
///
/// [`ConfigError`] if the file cannot be read, or if a parameter is malformed without which the
/// host would not be protected as meant. Others that are malformed leave their default in force,
/// and are named in the log.
pub fn local(path: &Path) -> Result<Local, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let local = Local::default().file(&text).environment(variables);
    for problem in local.problems() {
        if problem.vital {
            return Err(ConfigError::Parameter { problem: problem.to_string() });
        }
        warn!(%problem, "a setting has no effect; its default holds");
    }
    Ok(local)
}

/// Time between looks at what others did to our state in the kernel: everything is looked at
/// together, as often as what is looked at most often. `None`: never.
#[must_use]
pub fn refresh(spec: &FelixConfigurationSpec) -> Option<Duration> {
    let of = |setting: Option<GoDuration>, usual| setting.map_or(usual, |interval| interval.0);
    let all = [
        of(spec.route_refresh_interval, Duration::from_secs(90)),
        of(spec.interface_refresh_interval, Duration::from_secs(90)),
        of(spec.nftables_refresh_interval, Duration::from_secs(180)),
    ];
    all.into_iter().filter(|interval| !interval.is_zero()).min()
}

/// The longest silence of a part of the agent before it counts as stuck; zero is no limit.
#[must_use]
pub fn health_timeout(spec: &FelixConfigurationSpec, part: &str, usual: Duration) -> Duration {
    let overrides = spec.unknown.get("healthTimeoutOverrides").and_then(|value| value.as_array());
    let found = overrides.into_iter().flatten().find(|item| item["name"] == part);
    let found = found.and_then(|item| item["timeout"].as_str()?.parse::<GoDuration>().ok());
    found.map_or(usual, |timeout| timeout.0)
}

/// A duration that is not a field of the type.
#[must_use]
pub fn duration(spec: &FelixConfigurationSpec, field: &str) -> Option<Duration> {
    let text = spec.unknown.get(field)?.as_str()?;
    text.parse::<GoDuration>().ok().map(|duration| duration.0)
}

/// Switches forwarding of packets on, unless the settings leave that to somebody else.
pub async fn follow_forwarding(mut settings: watch::Receiver<FelixConfigurationSpec>) {
    // What is there at first are no settings yet.
    while settings.changed().await.is_ok() {
        if settings.borrow_and_update().ip_forwarding == Some(Toggle::Disabled) {
            continue;
        }
        let v6 = settings.borrow().ipv6_support();
        match sysctl::forward_packets(v6) {
            Ok(notes) => {
                for note in notes {
                    info!(note, "a kernel setting is not available");
                }
            }
            Err(error) => warn!(%error, "the host does not forward packets"),
        }
    }
}

/// Logs as much as the settings say.
pub async fn follow_log(mut settings: watch::Receiver<FelixConfigurationSpec>) {
    loop {
        let severity = settings.borrow_and_update().log_severity_screen;
        program::set_log_level(&[""], severity.map(program::level));
        if settings.changed().await.is_err() {
            return;
        }
    }
}

/// Settings that are set and not obeyed, each named once.
#[derive(Debug, Default)]
pub struct Unsupported {
    told: BTreeSet<String>,
}

/// Settings that were not named before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// They ask for something that is not built: a line each.
    pub unsupported: Vec<String>,
    /// What they are about does not exist here: their names.
    pub not_applicable: Vec<String>,
}

impl Unsupported {
    /// Those of `settings` that were not named before.
    pub fn news(&mut self, settings: &Settings) -> News {
        let mut news = News::default();
        for (name, value, source) in settings.changed() {
            let support = Support::of(name);
            // Zero: nothing is reported to the datastore, and nothing is. Upstream's nodes and this
            // agent write it into every cluster.
            let no_reports = name == "reportingInterval" && *value == "0s";
            if support == Support::InForce || no_reports || !self.told.insert(name.to_owned()) {
                continue;
            }
            match support {
                Support::NotApplicable(_) => news.not_applicable.push(name.to_owned()),
                _ => news.unsupported.push(format!("{name} = {value} ({source})")),
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use calico_core::felix::{Layers, PARAMETERS, Parameter};

    use super::*;

    #[test]
    fn what_is_in_force_is_a_parameter() {
        assert!(IN_FORCE.is_sorted());
        for name in IN_FORCE {
            assert!(Parameter::by_field(name).is_some(), "{name}");
        }
    }

    #[test]
    fn each_of_the_others_is_named_once() {
        let value = |parameter: &Parameter| match parameter.default_value() {
            Some(serde_json::Value::Bool(true)) => "false",
            _ => match parameter.form {
                calico_core::felix::Form::OneOf(choices) => {
                    choices.iter().find(|choice| **choice != parameter.default).unwrap()
                }
                calico_core::felix::Form::Bool => "true",
                calico_core::felix::Form::Pairs | calico_core::felix::Form::Timeouts => "a=1s",
                calico_core::felix::Form::Range | calico_core::felix::Form::Ranges => "7-9",
                _ => "77",
            },
        };
        let all = PARAMETERS.iter().map(|p| (format!("FELIX_{}", p.local), value(p)));
        let local = Local::default().environment(all);
        assert_eq!(local.problems(), []);
        let mut layers = Layers::default();
        layers.set_local(local);
        let settings = layers.effective("n1", None);
        let mut unsupported = Unsupported::default();
        let news = unsupported.news(&settings);
        let told = news.unsupported.len() + news.not_applicable.len();
        assert_eq!(told, PARAMETERS.len() - IN_FORCE.len(), "{news:#?}");
        let named = "bpfEnabled = true (the environment)".to_owned();
        assert!(news.unsupported.contains(&named), "{news:#?}");
        assert!(news.not_applicable.contains(&"iptablesBackend".to_owned()), "{news:#?}");
        assert_eq!(unsupported.news(&settings), News::default());
    }

    #[test]
    fn what_is_looked_at_most_often_decides() {
        let seconds = |text: &str| Some(text.parse::<GoDuration>().unwrap());
        let mut spec = FelixConfigurationSpec::default();
        assert_eq!(refresh(&spec), Some(Duration::from_secs(90)));
        spec.nftables_refresh_interval = seconds("5s");
        assert_eq!(refresh(&spec), Some(Duration::from_secs(5)));
        for interval in [
            &mut spec.nftables_refresh_interval,
            &mut spec.route_refresh_interval,
            &mut spec.interface_refresh_interval,
        ] {
            *interval = seconds("0s");
        }
        assert_eq!(refresh(&spec), None);
    }

    #[test]
    fn timeouts_of_parts_may_be_others() {
        let local = Local::default().environment([
            ("FELIX_HEALTHTIMEOUTOVERRIDES", "Datastore=5s,Other=0s"),
            ("FELIX_DATAPLANEWATCHDOGTIMEOUT", "120"),
        ]);
        let mut layers = Layers::default();
        layers.set_local(local);
        let spec = layers.effective("n1", None).spec;
        let usual = Duration::from_secs(9);
        assert_eq!(health_timeout(&spec, "Datastore", usual), Duration::from_secs(5));
        assert_eq!(health_timeout(&spec, "Nobody", usual), usual);
        assert_eq!(duration(&spec, "dataplaneWatchdogTimeout"), Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_malformed_parameter_that_protects_stops_the_agent() {
        let dir = std::env::temp_dir().join(format!("cr-test-felix-{}", std::process::id()));
        std::fs::write(&dir, "[global]\nFailsafeInboundHostPorts = tcp:many\n").unwrap();
        let error = local(&dir).unwrap_err().to_string();
        std::fs::remove_file(&dir).unwrap();
        assert!(error.contains("FailsafeInboundHostPorts"), "{error}");
        assert!(local(&dir).is_ok(), "no file is fine");
    }
}
