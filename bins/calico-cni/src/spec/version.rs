use std::fmt;
use std::str::FromStr;

use super::error::{CniError, Code};

/// A version of the specification that this plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` for DEL
    V0_4_0,
    /// 1.0.0: no address family in results
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTU in results
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// What a configuration without `cniVersion` means; as upstream has it.
    pub const ABSENT: Self = Self::V0_2_0;

    /// As written in `cniVersion`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The answer to `VERSION`.
    #[must_use]
    pub fn report() -> String {
        let all: Vec<&str> = Self::ALL.iter().map(|version| version.as_str()).collect();
        serde_json::json!({ "cniVersion": Self::LATEST.as_str(), "supportedVersions": all })
            .to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::ABSENT);
        }
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|version| version.as_str()).collect();
            CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion {text:?} is not supported"),
            )
            .details(format!(
                "supported: {}; change cniVersion in the network configuration",
                all.join(", ")
            ))
        })
    }
}
