//! The file between two datastores.

use std::collections::BTreeMap;

use calico_core::key::Key;
use calico_core::resource::{AnyResource, MAX_MANIFEST_SIZE, Mode, read_manifest, to_yaml};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Stands between sections, on a line of its own.
const SEPARATOR: &str = "===";

/// Everything that a datastore holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) resources: Vec<AnyResource>,
    pub(super) cluster: Option<AnyResource>,
    pub(super) ipam: Ipam,
}

/// IPAM's data, by upstream's names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Ipam {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) block_affinities: Vec<Item>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) blocks: Vec<Item>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) handles: Vec<Item>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Item>,
    /// Markers of nodes, which upstream leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) hosts: Vec<Item>,
    /// What a later version has more.
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, Value>,
}

/// One object of IPAM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    /// Its path in etcd.
    pub(super) key: Key,
    pub(super) value: Value,
    /// Upstream's; always zero.
    #[serde(default, rename = "TTL")]
    pub(super) ttl: u64,
}

impl Ipam {
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        let lists = [&self.block_affinities, &self.blocks, &self.handles, &self.hosts];
        lists.into_iter().flatten().chain(&self.config)
    }

    pub(super) fn items_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        let Self { block_affinities, blocks, handles, hosts, config, .. } = self;
        [block_affinities, blocks, handles, hosts].into_iter().flatten().chain(config)
    }
}

impl Contents {
    pub(super) fn write(&self) -> Result<String, serde_json::Error> {
        let mut out = String::new();
        for resource in &self.resources {
            out.push_str("---\n");
            out.push_str(&to_yaml(resource));
        }
        out.push_str(&format!("{SEPARATOR}\n"));
        if let Some(cluster) = &self.cluster {
            out.push_str(&serde_json::to_string(cluster)?);
            out.push('\n');
        }
        out.push_str(&format!("{SEPARATOR}\n{}\n", serde_json::to_string(&self.ipam)?));
        Ok(out)
    }

    /// Reads a file.
    ///
    /// What is wrong, in which section.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut sections = vec![String::new()];
        for line in text.lines() {
            if line.trim_end() == SEPARATOR {
                sections.push(String::new());
            } else if let Some(section) = sections.last_mut() {
                section.push_str(line);
                section.push('\n');
            }
        }
        let [resources, cluster, ipam] = sections.as_slice() else {
            return Err(format!(
                "{} section(s) instead of 3; it is no complete file of `calicoctl datastore migrate \
                 export`",
                sections.len()
            ));
        };
        let json = |section: &str, error: serde_json::Error| format!("section {section}: {error}");
        let cluster = match cluster.trim() {
            "" => None,
            text => {
                Some(serde_json::from_str(text).map_err(|e| json("2 (ClusterInformation)", e))?)
            }
        };
        let ipam = match ipam.trim() {
            "" | "null" => Ipam::default(),
            text => serde_json::from_str(text).map_err(|e| json("3 (IPAM)", e))?,
        };
        Ok(Self { resources: read_resources(resources)?, cluster, ipam })
    }
}

/// A large cluster has more than fits into one manifest.
fn read_resources(text: &str) -> Result<Vec<AnyResource>, String> {
    let mut resources = Vec::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let mut end = rest.len();
        if end > MAX_MANIFEST_SIZE {
            let mut limit = MAX_MANIFEST_SIZE;
            while !rest.is_char_boundary(limit) {
                limit -= 1;
            }
            end = rest[..limit].rfind("\n---\n").map_or(end, |at| at + 1);
        }
        // Written by a store: what is unknown here is kept.
        let part = read_manifest(&rest[..end], Mode::Tolerant).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("section 1 (resources): {}", lines.join("\n"))
        })?;
        resources.extend(part);
        rest = &rest[end..];
    }
    Ok(resources)
}
