//! The node agent's settings: where the host says them, and which are in force.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use calico_core::felix::{Local, Settings};
use calico_core::resource::FelixConfigurationSpec;
use calico_router::program;
use tokio::sync::watch;
use tracing::warn;

use crate::config::ConfigError;
pub use support::{Support, document};

/// Parameters that this agent obeys, live. A test holds them against the table of all.
pub const IN_FORCE: &[&str] = &[
    "allowIPIPPacketsFromWorkloads",
    "allowVXLANPacketsFromWorkloads",
    "dataplaneWatchdogTimeout",
    "defaultEndpointToHostAction",
    "disableConntrackInvalidCheck",
    "failsafeInboundHostPorts",
    "failsafeOutboundHostPorts",
    "floatingIPs",
    "healthEnabled",
    "healthHost",
    "healthPort",
    "healthTimeoutOverrides",
    "interfacePrefix",
    "interfaceRefreshInterval",
    "ipForwarding",
    "ipipEnabled",
    "ipipMTU",
    "iptablesNATOutgoingInterfaceFilter",
    "logActionRateLimit",
    "logActionRateLimitBurst",
    "logSeverityScreen",
    "natOutgoingAddress",
    "natOutgoingExclusions",
    "natPortRange",
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
    "serviceLoopPrevention",
    "vxlanEnabled",
    "vxlanMTU",
    "vxlanMTUV6",
    "vxlanPort",
    "vxlanVNI",
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
            if support == Support::InForce || !self.told.insert(name.to_owned()) {
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
    fn a_malformed_parameter_that_protects_stops_the_agent() {
        let dir = std::env::temp_dir().join(format!("cr-test-felix-{}", std::process::id()));
        std::fs::write(&dir, "[global]\nFailsafeInboundHostPorts = tcp:many\n").unwrap();
        let error = local(&dir).unwrap_err().to_string();
        std::fs::remove_file(&dir).unwrap();
        assert!(error.contains("FailsafeInboundHostPorts"), "{error}");
        assert!(local(&dir).is_ok(), "no file is fine");
    }
}
