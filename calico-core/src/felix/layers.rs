//! Which layer a parameter comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::local::Local;
use super::parameter::Parameter;
use crate::resource::{FelixConfiguration, FelixConfigurationSpec, FieldError};
use crate::selector::Selector;

/// Name of the settings for every node, and the beginning of the name of those for one.
const FOR_ALL: &str = "default";
const FOR_ONE: &str = "node.";

/// Where a parameter is set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// In the FelixConfiguration of this name.
    Resource(String),
    /// In the file of the host.
    File,
    /// In the environment of the agent.
    Environment,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(name) => write!(f, "FelixConfiguration {name}"),
            Self::File => f.write_str("the file"),
            Self::Environment => f.write_str("the environment"),
        }
    }
}

/// Every FelixConfiguration of the cluster, and what the host says itself.
#[derive(Debug, Default)]
pub struct Layers {
    local: Local,
    configs: BTreeMap<String, Config>,
}

#[derive(Debug)]
struct Config {
    fields: Map<String, Value>,
    /// Which nodes it is for, if its name does not say that.
    nodes: Option<Selector>,
    /// RFC 3339, so that texts sort like times.
    created: Option<String>,
}

/// The settings of one node.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// All of them together.
    pub spec: Arc<FelixConfigurationSpec>,
    fields: BTreeMap<String, (Value, Source)>,
}

impl Settings {
    /// Where a parameter is set; nowhere if its default holds.
    #[must_use]
    pub fn source(&self, field: &str) -> Option<&Source> {
        self.fields.get(field).map(|(_, source)| source)
    }

    /// The parameters that are set to something else than their default: name, value, source.
    pub fn changed(&self) -> impl Iterator<Item = (&str, &Value, &Source)> {
        let fields =
            self.fields.iter().map(|(name, (value, source))| (name.as_str(), value, source));
        fields.filter(|(name, value, _)| !is_default(name, value))
    }
}

impl Layers {
    /// What the host says from now on.
    pub fn set_local(&mut self, local: Local) {
        self.local = local;
    }

    /// A FelixConfiguration comes or changes. Says what in it has no effect.
    ///
    /// # Errors
    ///
    /// The node selector cannot be read; nothing has changed then.
    pub fn put(&mut self, config: &FelixConfiguration) -> Result<Vec<FieldError>, FieldError> {
        let (name, text) = (config.name(), config.spec.node_selector.as_str());
        let named = name == FOR_ALL || name.starts_with(FOR_ONE);
        let path = "spec.nodeSelector";
        let mut warnings = Vec::new();
        let mut nodes = None;
        if !text.is_empty() {
            let parsed = text.parse::<Selector>();
            let selector = parsed.map_err(|error| FieldError::new(path, error.to_string()))?;
            if named {
                let message = format!("is ignored: the name {name} says which nodes it is for");
                warnings.push(FieldError::new(path, message));
            } else {
                nodes = Some(selector);
            }
        } else if !named {
            let message = "is missing, so these settings are for no node".to_owned();
            warnings.push(FieldError::new(path, message));
        }
        let fields = match serde_json::to_value(&config.spec) {
            Ok(Value::Object(mut fields)) => {
                fields.remove("nodeSelector");
                fields
            }
            _ => Map::new(),
        };
        let created = config.metadata.creation_timestamp.clone();
        self.configs.insert(name.to_owned(), Config { fields, nodes, created });
        Ok(warnings)
    }

    /// A FelixConfiguration goes. Says whether it was known.
    pub fn remove(&mut self, name: &str) -> bool {
        self.configs.remove(name).is_some()
    }

    /// The settings of the node of this name, with these labels if it is known.
    #[must_use]
    pub fn effective(&self, node: &str, labels: Option<&BTreeMap<String, String>>) -> Settings {
        let mut fields = BTreeMap::new();
        let mut lay = |layer: &Map<String, Value>, source: Source| {
            for (name, value) in layer.iter().filter(|(_, value)| !is_unset(value)) {
                fields.insert(name.clone(), (value.clone(), source.clone()));
            }
        };
        for (name, config) in self.configs_of(node, labels) {
            lay(&config.fields, Source::Resource(name.to_owned()));
        }
        lay(&self.local.file, Source::File);
        lay(&self.local.environment, Source::Environment);
        let all = fields.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect();
        // Each layer was read as such a resource or by the table of parameters.
        let spec = Arc::new(serde_json::from_value(Value::Object(all)).unwrap_or_default());
        Settings { spec, fields }
    }

    /// Resources for a node, those that win last.
    fn configs_of(
        &self,
        node: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> impl Iterator<Item = (&str, &Config)> {
        let get = |name: &str| self.configs.get_key_value(name).map(|(k, v)| (k.as_str(), v));
        let selecting = self.configs.iter().filter(|(_, config)| {
            let selected = config.nodes.as_ref().zip(labels);
            selected.is_some_and(|(selector, labels)| selector.matches(labels))
        });
        let age = |config: &Config| (config.created.is_none(), config.created.clone());
        let oldest = selecting.min_by_key(|(name, config)| (age(config), name.as_str()));
        let oldest = oldest.map(|(name, config)| (name.as_str(), config));
        [get(FOR_ALL), oldest, get(&format!("{FOR_ONE}{node}"))].into_iter().flatten()
    }
}

/// An empty text in a resource is as good as none.
fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn is_default(field: &str, value: &Value) -> bool {
    let default = Parameter::by_field(field).and_then(Parameter::default_value);
    match (default, value) {
        (Some(Value::String(default)), Value::String(value)) => default.eq_ignore_ascii_case(value),
        (Some(default), value) => default == *value,
        (None, value) => {
            matches!(value, Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(name: &str, created: &str, spec: Value) -> FelixConfiguration {
        let document = json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
            "metadata": {"name": name, "creationTimestamp": created}, "spec": spec});
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_higher_layer_wins_parameter_by_parameter() {
        let mut layers = Layers::default();
        for (name, created, spec) in [
            (
                "default",
                "2024-01-01T00:00:00Z",
                json!({"vxlanPort": 1, "vxlanVNI": 1, "vxlanMTU": 1,
                "interfacePrefix": "a", "healthPort": 1, "bpfLogLevel": "Debug"}),
            ),
            (
                "racks",
                "2024-01-03T00:00:00Z",
                json!({"nodeSelector": "has(rack)", "vxlanVNI": 2,
                "vxlanMTU": 2, "interfacePrefix": "b", "healthPort": 2}),
            ),
            ("newer", "2024-01-04T00:00:00Z", json!({"nodeSelector": "all()", "vxlanVNI": 9})),
            (
                "node.n1",
                "2024-01-02T00:00:00Z",
                json!({"vxlanMTU": 3, "interfacePrefix": "c", "healthPort": 3}),
            ),
            ("node.n2", "2024-01-02T00:00:00Z", json!({"vxlanPort": 9})),
        ] {
            assert_eq!(layers.put(&config(name, created, spec)), Ok(vec![]));
        }
        let local = Local::default()
            .file("InterfacePrefix=d\nHealthPort=4")
            .environment([("FELIX_HEALTHPORT", "5")]);
        layers.set_local(local);

        let labels = BTreeMap::from([("rack".to_owned(), "1".to_owned())]);
        let settings = layers.effective("n1", Some(&labels));
        let spec = &settings.spec;
        assert_eq!((spec.vxlan_port, spec.vxlan_vni, spec.vxlan_mtu), (Some(1), Some(2), Some(3)));
        assert_eq!((spec.interface_prefix.as_str(), spec.health_port), ("d", Some(5)));
        assert_eq!(settings.source("vxlanVNI"), Some(&Source::Resource("racks".to_owned())));
        assert_eq!(settings.source("healthPort"), Some(&Source::Environment));
        assert!(
            settings.changed().any(|(name, value, _)| name == "bpfLogLevel" && value == "Debug")
        );

        assert_eq!(layers.effective("n1", None).spec.vxlan_vni, Some(1), "the node is not known");
        assert!(layers.remove("node.n1") && !layers.remove("node.n1"));
        assert_eq!(layers.effective("n1", Some(&labels)).spec.vxlan_mtu, Some(2));
    }

    #[test]
    fn what_is_as_by_default_has_not_changed() {
        let mut layers = Layers::default();
        let spec = json!({"vxlanPort": 4789, "logSeverityScreen": "Info", "bpfEnabled": false,
            "routeRefreshInterval": "90s", "ipv6Support": false});
        layers.put(&config("default", "2024-01-01T00:00:00Z", spec)).unwrap();
        let settings = layers.effective("n1", None);
        let changed: Vec<&str> = settings.changed().map(|(name, ..)| name).collect();
        assert_eq!(changed, ["ipv6Support"]);
    }

    #[test]
    fn selectors_that_do_nothing_are_named() {
        let mut layers = Layers::default();
        let mut put = |name, spec| layers.put(&config(name, "", spec));
        assert!(
            put("default", json!({"nodeSelector": "all()"})).unwrap()[0]
                .to_string()
                .contains("ignored")
        );
        assert!(put("x", json!({})).unwrap()[0].to_string().contains("no node"));
        assert!(put("x", json!({"nodeSelector": "("})).is_err());
    }
}
