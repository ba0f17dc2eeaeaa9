//! The report that `ipam check` writes and `ipam release` reads, in upstream's form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Largest report that is read, in bytes.
const MAX_SIZE: u64 = 512 << 20;

/// The state of a cluster's addresses at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The program's version.
    pub(crate) version: String,
    #[serde(rename = "clusterGUID")]
    pub(crate) cluster_guid: String,
    #[serde(rename = "datastoreLocked")]
    pub(crate) datastore_locked: bool,
    #[serde(rename = "clusterInformationRevision")]
    pub(crate) cluster_information_revision: String,
    #[serde(rename = "clusterType")]
    pub(crate) cluster_type: String,
    #[serde(default)]
    pub(crate) allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    #[serde(default, rename = "leakedHandles")]
    pub(crate) leaked_handles: Vec<LeakedHandle>,
}

/// One assignment of an address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Allocation {
    pub(crate) ip: String,
    pub(crate) handle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence_number: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) pod: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) creation_timestamp: String,
    pub(crate) in_use: bool,
    pub(crate) borrowed: bool,
    pub(crate) cooling_down: bool,
    /// Who uses it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) owners: Vec<String>,
}

/// A handle without addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeakedHandle {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// Of the handle's object, where the store gives it one.
    #[serde(rename = "UID", default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    #[serde(rename = "Revision")]
    pub(crate) revision: String,
}

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_SIZE {
            return Err(Failure::Usage(format!("{} is too large for a report", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::Usage(format!(
                "{} is no report of `calicoctl ipam check -o`: {error}",
                path.display()
            ))
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from)?;
        std::fs::write(path, text + "\n")
            .map_err(|source| Failure::Write { path: path.to_owned(), source })
    }
}
