//! Asking an API server, besides what is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// Time for a server to answer after it was started: on two cores with other tests beside it.
pub const START: Duration = Duration::from_secs(180);

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An API server, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// URL of the server.
    pub url: String,
    /// File with the authority that signed its certificate.
    pub ca: PathBuf,
    /// Who asks.
    pub token: String,
}

impl Api {
    /// What a kubeconfig file says, in JSON (which is YAML).
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test",
                "cluster": {"server": self.url, "certificate-authority": self.ca}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// A client of the server; must be made on a tokio runtime.
    ///
    /// # Errors
    ///
    /// Settings that cannot be used, such as an authority that cannot be read.
    pub async fn client(&self) -> Result<kube::Client, String> {
        let text = |error: &dyn std::fmt::Display| format!("cannot talk to {}: {error}", self.url);
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig()).map_err(|e| text(&e))?;
        let options = KubeConfigOptions::default();
        let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = made.map_err(|e| text(&e))?;
        config.default_retry = false;
        kube::Client::try_from(config).map_err(|e| text(&e))
    }

    /// Whether the server says that it is ready.
    ///
    /// # Errors
    ///
    /// What it says instead, or why it says nothing within 5 s.
    pub async fn ready(&self) -> Result<(), String> {
        let request = Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
        let client = self.client().await?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request));
        match answer.await {
            Ok(Ok(text)) if text == "ok" => Ok(()),
            Ok(Ok(text)) => Err(text),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err("no answer within 5 s".to_owned()),
        }
    }

    /// Asks the server; a server that is busy after its start is asked again.
    ///
    /// # Errors
    ///
    /// What the server answers, or why it does not.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, kind, body).await
    }

    /// Makes an object or changes it to what is wanted, as `kubectl apply --server-side` does.
    /// A field that the server does not know is refused.
    ///
    /// # Errors
    ///
    /// As of [`ask`](Self::ask).
    pub async fn apply(&self, object: &Value) -> Result<Value, kube::Error> {
        let path =
            format!("{}?fieldManager=lab&force=true&fieldValidation=Strict", path_of(object));
        let body = object.to_string().into_bytes();
        self.send("PATCH", &path, "application/apply-patch+yaml", body).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Value, kube::Error> {
        let unusable = |reason: String| kube::Error::Service(reason.into());
        let client = self.client().await.map_err(unusable)?;
        let deadline = Instant::now() + START;
        loop {
            let request = Request::builder().method(method).uri(path).header("content-type", kind);
            let request = request.body(body.clone()).map_err(|e| unusable(e.to_string()))?;
            match client.request(request).await {
                // After a start, or after new custom resources, the server needs a moment.
                Err(kube::Error::Api(status))
                    if status.code == 429 && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Makes the custom resources that the YAML files of a directory define, and waits until the
    /// server has them.
    ///
    /// # Errors
    ///
    /// Which file the server refuses, and why.
    pub async fn load_custom_resources(&self, directory: &Path) -> Result<(), String> {
        let mut names = Vec::new();
        let read = |error: std::io::Error| format!("{}: {error}", directory.display());
        for file in fs::read_dir(directory).map_err(read)? {
            let path = file.map_err(read)?.path();
            let yaml = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let made = self.send("POST", CRDS, "application/yaml", yaml).await;
            let made = made.map_err(|error| format!("{}: {error}", path.display()))?;
            names.extend(made["metadata"]["name"].as_str().map(str::to_owned));
        }
        let deadline = Instant::now() + START;
        for name in names {
            while !self.is_established(&name).await? {
                if Instant::now() > deadline {
                    return Err(format!("{name} is not established in time"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn is_established(&self, name: &str) -> Result<bool, String> {
        let found = self.ask("GET", &format!("{CRDS}/{name}"), &Value::Null).await;
        let found = found.map_err(|error| format!("{name}: {error}"))?;
        let conditions = found["status"]["conditions"].as_array().cloned();
        let holds = |kind: &str| {
            conditions.iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
        };
        // What the server would not accept of a schema, it says here.
        if holds("NonStructuralSchema") {
            return Err(format!("{name}: {conditions:?}"));
        }
        Ok(holds("Established"))
    }
}

/// Where an object is, by its kind, namespace and name. Plurals are those of the kinds that
/// manifests of a cluster's network have.
#[must_use]
pub fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let base = if version.contains('/') { "apis" } else { "api" };
    let kind = text(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |it| format!("{it}ies"));
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{base}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{base}/{version}/{plural}/{name}"),
    }
}

/// The HTTP status that a server refused with; none if it did not answer.
#[must_use]
pub fn code_of(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What a server answered, in its own words, or why it did not.
#[must_use]
pub fn words_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_where_kubernetes_has_them() {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "n"}});
        let path = "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies/p";
        assert_eq!(path_of(&policy), path);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
        assert_eq!(path_of(&node), "/api/v1/nodes/n1");
    }
}
