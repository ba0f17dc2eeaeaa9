//! Credentials, certificates, and servers of the wrong kind.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use calico_core::Datastore as _;
use calico_core::datastore::{StoreError, WatchEvent};
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_datastore::config::{KubernetesConfig, Secret};
use calico_datastore::conversion::ApiGroup;
use calico_datastore::kubernetes::KubernetesStore;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{ADMIN, Etcd, NOBODY, Turn, any, next};

fn pools() -> Scope {
    Scope::Kind(Kind::IpPool)
}

/// Settings without a kubeconfig, as environment variables give them.
fn direct(turn: &Turn, token: &str) -> KubernetesConfig {
    KubernetesConfig {
        endpoint: Some(turn.cluster.url()),
        ca: Some(turn.cluster.ca()),
        token: Some(Secret::new(token)),
        api_group: Some(ApiGroup::Crd),
        ..KubernetesConfig::default()
    }
}

async fn failure(config: &KubernetesConfig) -> StoreError {
    let store = KubernetesStore::connect(config).unwrap();
    let error = store.list(&pools()).await.unwrap_err();
    let line = error.to_string();
    println!("{line}");
    assert!(!line.contains('\n') && line.len() < 500, "one line: {line}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_the_server_in_every_way() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    let token = ADMIN;
    let check = async |config: KubernetesConfig| {
        let store = KubernetesStore::connect(&config).unwrap();
        store.list(&pools()).await.unwrap_or_else(|error| panic!("{config:?}: {error}"));
    };
    check(direct(&turn, token)).await;
    let insecure =
        KubernetesConfig { ca: None, insecure_skip_tls_verify: true, ..direct(&turn, token) };
    check(insecure).await;
    let file = turn.cluster.dir.path().join("kubeconfig");
    std::fs::write(&file, turn.cluster.kubeconfig(token)).unwrap();
    let kubeconfig = Some(file.display().to_string());
    check(KubernetesConfig { kubeconfig: kubeconfig.clone(), ..KubernetesConfig::default() }).await;
    let limited = KubernetesConfig { qps: 200.0, burst: 5, ..direct(&turn, token) };
    check(limited).await;
    let other =
        KubernetesConfig { kubeconfig, context: Some("other".into()), ..Default::default() };
    assert!(failure(&other).await.to_string().contains("no context \"other\""));
    let none = KubernetesConfig { kubeconfig: Some("/nonexistent".into()), ..Default::default() };
    assert!(failure(&none).await.to_string().contains("/nonexistent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_and_goes_on_when_allowed() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    let config = direct(&turn, NOBODY);
    let denied = failure(&config).await;
    assert!(
        matches!(&denied, StoreError::Denied { reason } if reason.contains("cannot list")),
        "{denied:?}"
    );
    let store = KubernetesStore::connect(&config).unwrap();
    let mut watch = store.watch(pools(), None);
    assert!(matches!(any(&mut watch).await, WatchEvent::Interrupted { .. }));
    // It is told once, however often it is tried.
    let more = tokio::time::timeout(Duration::from_secs(2), watch.next()).await;
    assert!(more.is_err(), "{more:?}");
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let body = json!({"metadata": {"name": "nobody"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}]});
    turn.cluster.must("POST", BINDINGS, body).await;
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    turn.cluster.must("DELETE", &format!("{BINDINGS}/nobody"), Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_are_used() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    let refused = failure(&direct(&turn, "expired")).await;
    assert!(
        matches!(&refused, StoreError::Denied { reason } if reason.contains("may have expired")),
        "{refused:?}"
    );
    let file = turn.cluster.dir.path().join("token");
    std::fs::write(&file, "expired").unwrap();
    let config =
        KubernetesConfig { token: None, token_file: Some(file.clone()), ..direct(&turn, "") };
    let store = KubernetesStore::connect(&config).unwrap();
    assert!(matches!(store.list(&pools()).await, Err(StoreError::Denied { .. })));
    std::fs::write(&file, ADMIN).unwrap();
    turn.until(async || store.list(&pools()).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_none() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    let direct = || direct(&turn, ADMIN);
    let certificate = failure(&KubernetesConfig { ca: None, ..direct() }).await.to_string();
    assert!(certificate.contains("certificate"), "{certificate}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let nobody = KubernetesConfig { endpoint: Some(format!("https://{address}")), ..direct() };
    let start = Instant::now();
    let line = failure(&nobody).await.to_string();
    // Some attempts, but no more: somebody waits for a pod's network.
    let waited = start.elapsed();
    assert!((1..6).contains(&waited.as_secs()), "{waited:?}");
    assert!(line.contains(&address.to_string()) && line.contains("refused"), "{line}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let page = "<html>\n<body>\nHello!</body></html>";
            let _ = write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}",
                page.len()
            );
        }
    });
    let foreign = KubernetesConfig { endpoint: Some(foreign), api_group: None, ..direct() };
    let line = failure(&foreign).await.to_string();
    assert!(line.contains("no Kubernetes API"), "{line}");
}
