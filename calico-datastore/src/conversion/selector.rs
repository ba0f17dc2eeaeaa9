use std::collections::BTreeMap;

use serde::Deserialize;

/// A label selector of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct LabelSelector {
    /// Labels that must have these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions.
    pub match_expressions: Vec<Requirement>,
}

/// One condition of a selector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}

/// What every selector of pods begins with: endpoints of other orchestrators are none of them.
const POD: &str = "projectcalico.org/orchestrator == 'k8s'";

impl LabelSelector {
    /// The selector of pods, in Calico's language.
    pub(super) fn of_pods(&self) -> Result<String, String> {
        let mut terms = vec![POD.to_owned()];
        terms.extend(self.terms()?);
        Ok(terms.join(" && "))
    }

    /// The selector of namespaces or nodes, in Calico's language.
    pub(super) fn of_others(&self) -> Result<String, String> {
        let terms = self.terms()?;
        Ok(if terms.is_empty() { "all()".to_owned() } else { terms.join(" && ") })
    }

    fn terms(&self) -> Result<Vec<String>, String> {
        let mut terms: Vec<String> =
            self.match_labels.iter().map(|(key, value)| format!("{key} == '{value}'")).collect();
        for Requirement { key, operator, values } in &self.match_expressions {
            let listed = || format!("{{ '{}' }}", values.join("', '"));
            terms.push(match operator.as_str() {
                "In" => format!("{key} in {}", listed()),
                "NotIn" => format!("{key} not in {}", listed()),
                "Exists" => format!("has({key})"),
                "DoesNotExist" => format!("! has({key})"),
                other => return Err(format!("selector operator {other:?} is not known")),
            });
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, pods: &str, others: &str) {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        assert_eq!(selector.of_pods().unwrap(), pods);
        assert_eq!(selector.of_others().unwrap(), others);
        for text in [pods, others] {
            text.parse::<calico_core::selector::Selector>().unwrap();
        }
    }

    #[test]
    fn selectors_are_written_in_calicos_language() {
        check("{}", POD, "all()");
        check(
            r#"{"matchLabels": {"b": "2", "a": "1"}}"#,
            "projectcalico.org/orchestrator == 'k8s' && a == '1' && b == '2'",
            "a == '1' && b == '2'",
        );
        check(
            r#"{"matchExpressions": [
                {"key": "k", "operator": "In", "values": ["x", "y"]},
                {"key": "k", "operator": "NotIn", "values": ["z"]},
                {"key": "k8s.io/e", "operator": "Exists"},
                {"key": "n", "operator": "DoesNotExist", "values": []}]}"#,
            "projectcalico.org/orchestrator == 'k8s' && k in { 'x', 'y' } && k not in { 'z' } && \
             has(k8s.io/e) && ! has(n)",
            "k in { 'x', 'y' } && k not in { 'z' } && has(k8s.io/e) && ! has(n)",
        );
    }

    #[test]
    fn an_operator_nobody_knows_is_an_error() {
        let odd = r#"{"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}]}"#;
        let odd: LabelSelector = serde_json::from_str(odd).unwrap();
        assert!(odd.of_pods().unwrap_err().contains("Gt"));
    }
}
