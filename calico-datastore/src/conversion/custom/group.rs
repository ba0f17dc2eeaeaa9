//! The two API groups.

use std::fmt;
use std::str::FromStr;

use calico_core::kind::Kind;
use serde::{Deserialize, Serialize};

/// The API group of a cluster's custom resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ApiGroup {
    /// `crd.projectcalico.org/v1`: behind an aggregated API server, or used by calicoctl alone.
    #[serde(rename = "crd.projectcalico.org/v1")]
    Crd,
    /// `projectcalico.org/v3`: used by kubectl directly.
    #[serde(rename = "projectcalico.org/v3")]
    V3,
}

/// A text that names neither group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("API group {0:?} is neither crd.projectcalico.org/v1 nor projectcalico.org/v3")]
pub struct UnknownGroup(String);

impl ApiGroup {
    /// Both groups.
    pub const ALL: [Self; 2] = [Self::Crd, Self::V3];

    /// Its name, without the version.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crd => "crd.projectcalico.org",
            Self::V3 => "projectcalico.org",
        }
    }

    /// As in an object's `apiVersion`.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Crd => "crd.projectcalico.org/v1",
            Self::V3 => "projectcalico.org/v3",
        }
    }

    /// The kind as custom resources of the group are called.
    #[must_use]
    pub const fn kind(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Crd, Kind::IpamConfiguration) => "IPAMConfig",
            _ => kind.as_str(),
        }
    }

    /// The plural in paths of the API.
    #[must_use]
    pub const fn plural(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Crd, Kind::IpamConfiguration) => "ipamconfigs",
            _ => kind.plural(),
        }
    }
}

impl fmt::Display for ApiGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api_version())
    }
}

impl FromStr for ApiGroup {
    type Err = UnknownGroup;

    /// With or without the version.
    fn from_str(text: &str) -> Result<Self, UnknownGroup> {
        let known = |group: &Self| text == group.name() || text == group.api_version();
        Self::ALL.into_iter().find(known).ok_or_else(|| UnknownGroup(text.to_owned()))
    }
}
