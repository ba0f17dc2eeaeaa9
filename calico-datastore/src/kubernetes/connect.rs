//! From settings to a client.

use std::time::Duration;

use kube::Config;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::config::KubernetesConfig;

/// Time for a connection, which a server that has much to do takes long before it answers.
const CONNECT: Duration = Duration::from_secs(10);

/// Reads what the settings refer to, files among it.
pub(super) async fn client_config(settings: &KubernetesConfig) -> Result<Config, String> {
    let mut config = match source(settings)? {
        Some(kubeconfig) => {
            let one = with_overrides(kubeconfig, settings)?;
            Config::from_custom_kubeconfig(one, &KubeConfigOptions::default())
                .await
                .map_err(|error| format!("the settings for Kubernetes: {}", chain(&error)))?
        }
        None => Config::incluster()
            .map_err(|error| format!("the pod's own account: {}", chain(&error)))?,
    };
    // Retries are our own: a write must not be sent twice unless it certainly did not arrive.
    config.default_retry = false;
    config.read_timeout = None;
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}

/// The kubeconfig to use; `None` for the account of the pod that the program runs in.
fn source(settings: &KubernetesConfig) -> Result<Option<Kubeconfig>, String> {
    if let Some(text) = &settings.kubeconfig_inline {
        let read = Kubeconfig::from_yaml(text.reveal());
        return read.map(Some).map_err(|error| format!("kubeconfigInline: {}", chain(&error)));
    }
    if let Some(paths) = &settings.kubeconfig {
        let mut merged: Option<Kubeconfig> = None;
        for path in paths.split(':').filter(|path| !path.is_empty()) {
            let read = Kubeconfig::read_from(path)
                .map_err(|error| format!("kubeconfig {path}: {}", chain(&error)))?;
            merged = Some(match merged {
                None => read,
                Some(first) => first
                    .merge(read)
                    .map_err(|error| format!("kubeconfig {path}: {}", chain(&error)))?,
            });
        }
        return Ok(merged);
    }
    if settings.endpoint.is_some() {
        return Ok(Some(Kubeconfig::default()));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(None);
    }
    let path =
        std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".kube/config"));
    match path.filter(|path| path.exists()) {
        Some(path) => Kubeconfig::read_from(&path)
            .map(Some)
            .map_err(|error| format!("kubeconfig {}: {}", path.display(), chain(&error))),
        None => Err("nothing says how to reach Kubernetes; name a kubeconfig (KUBECONFIG) or the \
                     URL of the API server (K8S_API_ENDPOINT)"
            .to_owned()),
    }
}

/// One cluster and one user: those of the context, with what the settings say instead.
fn with_overrides(
    kubeconfig: Kubeconfig,
    settings: &KubernetesConfig,
) -> Result<Kubeconfig, String> {
    let (mut cluster, mut user) = chosen(kubeconfig, settings)?;
    let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    if let Some(endpoint) = &settings.endpoint {
        cluster.server = Some(endpoint.clone());
    }
    if let Some(ca) = &settings.ca {
        cluster.certificate_authority = Some(text(ca));
        cluster.certificate_authority_data = None;
    }
    if settings.insecure_skip_tls_verify {
        cluster.insecure_skip_tls_verify = Some(true);
    }
    if let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) {
        user.client_certificate = Some(text(certificate));
        user.client_key = Some(text(key));
        (user.client_certificate_data, user.client_key_data) = (None, None);
    }
    if let Some(token) = &settings.token {
        let made: AuthInfo = serde_json::from_value(json!({"token": token.reveal()}))
            .map_err(|error| error.to_string())?;
        (user.token, user.token_file) = (made.token, None);
    }
    if let Some(file) = &settings.token_file {
        (user.token, user.token_file) = (None, Some(text(file)));
    }
    let mut one: Kubeconfig = serde_json::from_value(json!({
        "clusters": [{"name": "calico"}], "users": [{"name": "calico"}],
        "contexts": [{"name": "calico", "context": {"cluster": "calico", "user": "calico"}}],
        "current-context": "calico",
    }))
    .map_err(|error| error.to_string())?;
    if let (Some(named), Some(account)) = (one.clusters.first_mut(), one.auth_infos.first_mut()) {
        (named.cluster, account.auth_info) = (Some(cluster), Some(user));
    }
    Ok(one)
}

/// Cluster and user of the context that is meant.
fn chosen(
    mut kubeconfig: Kubeconfig,
    settings: &KubernetesConfig,
) -> Result<(Cluster, AuthInfo), String> {
    let current = kubeconfig.current_context.take().filter(|name| !name.is_empty());
    let Some(name) = settings.context.clone().or(current) else {
        return match settings.endpoint {
            Some(_) => Ok((Cluster::default(), AuthInfo::default())),
            None => {
                Err("the kubeconfig has no current context; name one (K8S_CURRENT_CONTEXT)"
                    .to_owned())
            }
        };
    };
    let context = kubeconfig.contexts.into_iter().find(|context| context.name == name);
    let context = context.and_then(|context| context.context);
    let context = context.ok_or_else(|| format!("the kubeconfig has no context {name:?}"))?;
    let cluster = kubeconfig.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|cluster| cluster.cluster).ok_or_else(|| {
        format!(
            "the kubeconfig's context {name:?} names cluster {:?}, which it lacks",
            context.cluster
        )
    })?;
    let user = context.user.unwrap_or_default();
    let found = kubeconfig.auth_infos.into_iter().find(|account| account.name == user);
    Ok((cluster, found.and_then(|account| account.auth_info).unwrap_or_default()))
}

/// An error with its causes, in one line and without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error;
    while let Some(next) = at.source() {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        at = next;
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
