//! The frame of a program with a speaker.

use calico_core::resource::LogSeverity;
pub use calico_observe::program::{Chain, Level, run, set_log_level};

/// What belongs to BGP, as far as the log is concerned.
const BGP_TARGETS: [&str; 3] = ["calico_bgp", "calico_agent::router", "calico_rr::reflector"];

/// Makes BGP log what is at least so severe, or the usual without a severity. `RUST_LOG` wins.
pub fn set_bgp_log(severity: Option<LogSeverity>) {
    set_log_level(&BGP_TARGETS, severity.map(level));
}

/// The level that upstream's name for it means.
#[must_use]
pub const fn level(severity: LogSeverity) -> Level {
    match severity {
        LogSeverity::Trace => Level::TRACE,
        LogSeverity::Debug => Level::DEBUG,
        LogSeverity::Info => Level::INFO,
        LogSeverity::Warning => Level::WARN,
        LogSeverity::Error | LogSeverity::Fatal => Level::ERROR,
    }
}
