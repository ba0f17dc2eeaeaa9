//! The datastore of a lab, as a user speaks to it.

use std::fs;
use std::process::Stdio;

use ipnet::IpNet;
use serde_json::Value;

use super::Lab;
use crate::error::LabError;
use crate::{ip, programs, store};

impl Lab {
    /// Applies manifests with calicoctl, as a user does.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with calicoctl's words.
    pub async fn apply(&self, manifests: &[Value]) -> Result<(), LabError> {
        let mut text = String::new();
        for manifest in manifests {
            let yaml = serde_saphyr::to_string(manifest).map_err(|error| {
                LabError::Request(format!("a manifest cannot be written as YAML: {error}"))
            })?;
            text.push_str("---\n");
            text.push_str(&yaml);
        }
        self.apply_text(&text).await
    }

    /// Applies manifests as they are written.
    ///
    /// # Errors
    ///
    /// As of [`apply`](Self::apply).
    pub async fn apply_text(&self, yaml: &str) -> Result<(), LabError> {
        let path = self.record.directory().join("apply.yaml");
        fs::write(&path, yaml).map_err(LabError::file("write", &path))?;
        self.calicoctl(&["apply", "-f", &path.to_string_lossy()]).await.map(drop)
    }

    /// Runs calicoctl at the datastore of the lab.
    ///
    /// # Errors
    ///
    /// As of [`apply`](Self::apply).
    pub async fn calicoctl(&self, args: &[&str]) -> Result<String, LabError> {
        let program = programs::own("calicoctl")?;
        let client = self.store.client();
        let mut command = match &client.namespace {
            Some(namespace) => {
                let mut command = tokio::process::Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => tokio::process::Command::new(program),
        };
        let output = command
            .args(args)
            .envs(client.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| LabError::Machine(format!("cannot run calicoctl: {error}")))?;
        ip::check(&output, || format!("calicoctl {}", args.join(" ")))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies manifests to Kubernetes, as `kubectl apply` does.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] with what the API server answers; [`LabError::Request`] if the lab
    /// has none.
    pub fn kubectl_apply(&self, yaml: &str) -> Result<(), LabError> {
        self.kubernetes()?.apply_text(yaml)
    }

    /// Asks the API server of Kubernetes as an administrator. Nothing is sent for a `body` of null.
    ///
    /// # Errors
    ///
    /// As of [`kubectl_apply`](Self::kubectl_apply).
    pub fn ask_kubernetes(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, LabError> {
        self.kubernetes()?.must(method, path, body)
    }

    fn kubernetes(&self) -> Result<&crate::store::kubernetes::Kubernetes, LabError> {
        let missing = || LabError::Request("the lab has no Kubernetes".to_owned());
        self.store.kubernetes().ok_or_else(missing)
    }

    /// How a client of the lab's datastore is run, such as calicoctl.
    #[must_use]
    pub fn client(&self) -> store::Client {
        self.store.client()
    }

    /// Addresses of the member that the datastore is, if it is one of its own.
    #[must_use]
    pub fn store_addresses(&self) -> Vec<IpNet> {
        self.store.site().map(|site| site.addresses()).unwrap_or_default()
    }
}
