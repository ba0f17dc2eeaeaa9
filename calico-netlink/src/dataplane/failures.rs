//! What the kernel's refusals are to whoever uses the dataplane.

use calico_core::dataplane::DataplaneError;

use crate::nft::Error;

/// A refusal, with what was refused; all else is trouble that may pass.
pub(super) fn failed(error: Error) -> DataplaneError {
    match error {
        Error::Refused(refusals) => match refusals.first() {
            Some(first) => {
                let more = refusals.len() - 1;
                let what = match &first.subject {
                    Some(subject) => format!("to {subject}"),
                    None => "a change".to_owned(),
                };
                let and = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                DataplaneError::Refused {
                    what,
                    reason: match &first.message {
                        Some(message) => format!("{}: {message}{and}", first.errno.desc()),
                        None => format!("{}{and}", first.errno.desc()),
                    },
                }
            }
            None => DataplaneError::Refused { what: "a change".into(), reason: "no reason".into() },
        },
        other => DataplaneError::Unavailable { reason: with_source(&other) },
    }
}

/// At start a refusal means that the kernel or our rights do not suffice.
pub(super) fn unsupported(error: Error) -> DataplaneError {
    match error {
        Error::Refused(_) | Error::Socket { .. } => DataplaneError::Unsupported {
            missing: format!(
                "nf_tables with family inet (kernel 5.2 or later, CAP_NET_ADMIN): {}",
                with_source(&error)
            ),
        },
        other => failed(other),
    }
}

fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
