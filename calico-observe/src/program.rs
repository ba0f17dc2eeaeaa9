//! The frame of a program, and its log.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Changes the filter of the running program's log, if `RUST_LOG` does not rule it.
static RELOAD: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Levels of targets that are not the usual one; that of the target "" is for all others.
static LEVELS: Mutex<BTreeMap<&'static str, Level>> = Mutex::new(BTreeMap::new());

/// Targets that say again, for each attempt, what our own log says once: how it stands with an API
/// server of Kubernetes.
const QUIET: &str = "kube_client=off";

/// Runs a program: writes its log to the standard error (`RUST_LOG` says how much; `info` and
/// above if it is not set), and what it fails with.
pub fn run(name: &str, body: impl FnOnce() -> Result<(), Box<dyn Error>>) -> ExitCode {
    let asked_for = EnvFilter::try_from_default_env().ok();
    let may_change = asked_for.is_none();
    let log = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_env_filter(asked_for.unwrap_or_else(|| EnvFilter::new(directives(&BTreeMap::new()))))
        .with_filter_reloading();
    if may_change {
        let handle = log.reload_handle();
        // Fails only if the log is gone.
        let reload = move |filter| drop(handle.reload(filter));
        drop(RELOAD.set(Box::new(reload)));
    }
    log.init();
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Makes the modules below `targets` log what is at least so severe, or the usual without a
/// level; the target `""` is all that has none of its own. `RUST_LOG` wins.
pub fn set_log_level(targets: &[&'static str], level: Option<Level>) {
    let mut levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = levels.clone();
    for target in targets {
        match level {
            Some(level) => levels.insert(*target, level),
            None => levels.remove(target),
        };
    }
    if *levels != before
        && let Some(reload) = RELOAD.get()
    {
        reload(EnvFilter::new(directives(&levels)));
    }
}

fn directives(levels: &BTreeMap<&str, Level>) -> String {
    let usual = levels.get("").copied().unwrap_or(Level::INFO);
    let special = levels.iter().filter(|(target, _)| !target.is_empty());
    let special = special.map(|(target, level)| format!(",{target}={level}"));
    let all = std::iter::once(usual.to_string()).chain(special).collect::<String>();
    format!("{},{QUIET}", all.to_lowercase())
}

/// An error with all its causes, each after a colon.
#[derive(Debug)]
pub struct Chain<'e>(pub &'e dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot start")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn levels_of_targets_stand_beside_the_usual_one() {
        assert_eq!(directives(&BTreeMap::new()), "info,kube_client=off");
        let levels =
            BTreeMap::from([("calico_bgp", Level::DEBUG), ("", Level::ERROR), ("x", Level::WARN)]);
        let text = directives(&levels);
        assert_eq!(text, "error,calico_bgp=debug,x=warn,kube_client=off");
        assert_eq!(EnvFilter::new(&text).to_string().split(',').count(), 4);
    }

    #[test]
    fn causes_follow() {
        let error = Outer(std::io::Error::other("no disk"));
        assert_eq!(Chain(&error).to_string(), "cannot start: no disk");
    }
}
