use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::version::Version;

/// Error codes: those of the specification (section "Error"), and our own from 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Code {
    /// 1: `cniVersion` is not supported, or too old for the verb.
    IncompatibleVersion,
    /// 2: a field of the configuration asks for something that this plugin cannot do.
    UnsupportedField,
    /// 3: there is no such container (any more); nothing needs to be cleaned up.
    UnknownContainer,
    /// 4: environment variables are missing or invalid.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: the configuration is no JSON, or has values of wrong types.
    Decode,
    /// 7: the configuration makes no sense.
    InvalidConfig,
    /// 11: the same call may succeed later.
    TryAgain,
    /// 50: `STATUS`: no ADD can be served.
    NotAvailable,
    /// 51: `STATUS`: no ADD can be served, and running containers may lack connectivity.
    LimitedConnectivity,
    /// 100: the datastore refused or is damaged.
    Datastore,
    /// 101: there is no address to give.
    NoAddress,
    /// 102: the kernel refused, or what was made is no longer there.
    Network,
    /// 103: the policy of the endpoint could not be brought into force.
    Policy,
}

impl Code {
    /// The number in the error JSON.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Datastore => 100,
            Self::NoAddress => 101,
            Self::Network => 102,
            Self::Policy => 103,
        }
    }
}

/// An error as a runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CniError {
    /// What kind.
    pub code: Code,
    /// What happened, in a few words.
    pub message: String,
    /// Where, why, and what to do; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The JSON that goes to stdout.
    #[must_use]
    pub fn to_json(&self, version: Version) -> String {
        let mut json = json!({
            "cniVersion": version.as_str(),
            "code": self.code.number(),
            "msg": self.message,
        });
        if !self.details.is_empty() {
            json["details"] = self.details.clone().into();
        }
        json.to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}
