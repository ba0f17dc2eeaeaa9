//! TLS, passwords, and what is said when they are wrong.

use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{StoreError, WatchEvent};
use calico_datastore::config::{EtcdConfig, Pem, Secret};
use calico_datastore::etcd::EtcdStore;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authority::certificates;
use super::server::Cluster;
use super::{any, listing, next, pool, pools};

/// The error of a first request; it must come soon.
async fn refusal(config: EtcdConfig) -> StoreError {
    let store = EtcdStore::connect(config).unwrap();
    let started = Instant::now();
    let error = store.get(&pool("a")).await.unwrap_err();
    println!("{:?}: {error}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(6), "{error}");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

fn says(error: &StoreError, words: &[&str]) {
    let text = error.to_string().to_lowercase();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}

#[tokio::test]
async fn client_certificates_open_the_door() {
    let dir = certificates();
    let cluster = Cluster::start_tls(dir.path()).await;
    let url = cluster.members[0].url.clone();
    let store = cluster.store();
    let mut watch = store.watch(pools(), None);
    listing(&mut watch).await;
    let put = store.put(pool("a"), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == put));

    let file = |name: &str| Pem::File(dir.path().join(name));
    let inline = |name: &str| {
        Pem::Inline(Secret::new(std::fs::read_to_string(dir.path().join(name)).unwrap()))
    };
    let good = cluster.config();
    let written_out = EtcdConfig {
        ca: Some(inline("ca.pem")),
        certificate: Some(inline("client.pem")),
        key: Some(inline("client-key.pem")),
        ..good.clone()
    };
    assert!(EtcdStore::connect(written_out).unwrap().get(&pool("a")).await.is_ok());
    let by_name =
        EtcdConfig { endpoints: vec![url.replace("127.0.0.1", "localhost")], ..good.clone() };
    assert!(EtcdStore::connect(by_name).unwrap().get(&pool("a")).await.is_ok());

    let none = EtcdConfig { certificate: None, key: None, ..good.clone() };
    says(&refusal(none).await, &[&url, "certificate"]);
    let with = |name: &str| EtcdConfig {
        certificate: Some(file(&format!("{name}.pem"))),
        key: Some(file(&format!("{name}-key.pem"))),
        ..good.clone()
    };
    says(&refusal(with("expired")).await, &[&url, "certificate"]);
    says(&refusal(with("stranger")).await, &[&url, "certificate"]);
    says(&refusal(with("missing")).await, &["missing.pem", "no such file"]);
    let wrong_ca = EtcdConfig { ca: Some(file("other-ca.pem")), ..good.clone() };
    says(&refusal(wrong_ca).await, &[&url, "certificate", "unknownissuer"]);
    let no_ca = EtcdConfig { ca: Some(Pem::Inline(Secret::new("nonsense"))), ..good.clone() };
    says(&refusal(no_ca).await, &[&url]);
    let plain = EtcdConfig { endpoints: vec![url.replace("https", "http")], ..good };
    says(&refusal(plain).await, &["http://127.0.0.1", "without tls?"]);
}

#[tokio::test]
async fn certificates_may_be_replaced_while_it_runs() {
    let dir = certificates();
    let cluster = Cluster::start_tls(dir.path()).await;
    let place = |name: &str| {
        for (from, to) in [("", "rotated"), ("-key", "rotated-key")] {
            let from = dir.path().join(format!("{name}{from}.pem"));
            std::fs::copy(from, dir.path().join(format!("{to}.pem"))).unwrap();
        }
    };
    place("expired");
    let config = EtcdConfig {
        certificate: Some(Pem::File(dir.path().join("rotated.pem"))),
        key: Some(Pem::File(dir.path().join("rotated-key.pem"))),
        ..cluster.config()
    };
    let store = EtcdStore::connect(config).unwrap();
    let mut watch = store.watch(pools(), None);
    assert!(matches!(any(&mut watch).await, WatchEvent::Interrupted { .. }));
    place("client");
    assert_eq!(any(&mut watch).await, WatchEvent::Begin);
    assert!(matches!(any(&mut watch).await, WatchEvent::Ready(_)));
}

#[tokio::test]
async fn passwords_are_used_and_kept_fresh() {
    let mut cluster = Cluster::start(1).await;
    cluster.etcdctl(&["user", "add", "root:secret"]);
    cluster.etcdctl(&["user", "grant-role", "root", "root"]);
    cluster.etcdctl(&["role", "add", "calico"]);
    cluster.etcdctl(&[
        "role",
        "grant-permission",
        "calico",
        "--prefix=true",
        "readwrite",
        "/calico/",
    ]);
    cluster.etcdctl(&["user", "add", "calico:pass"]);
    cluster.etcdctl(&["user", "grant-role", "calico", "calico"]);
    cluster.etcdctl(&["user", "add", "guest:pass"]);
    cluster.etcdctl(&["auth", "enable"]);

    let login = |name: &str, password: &str| EtcdConfig {
        username: Some(name.to_owned()),
        password: Some(Secret::new(password)),
        ..cluster.config()
    };
    let store = EtcdStore::connect(login("calico", "pass")).unwrap();
    let mut watch = store.watch(pools(), None);
    listing(&mut watch).await;
    let put = store.put(pool("a"), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == put));

    for (config, words) in [
        (login("calico", "wrong"), &["invalid user id or password"][..]),
        (cluster.config(), &["user name and password"]),
        (login("guest", "pass"), &["permission denied"]),
    ] {
        let error = refusal(config.clone()).await;
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        says(&error, words);
        let mut watch = EtcdStore::connect(config).unwrap().watch(pools(), Some(put));
        match any(&mut watch).await {
            WatchEvent::Interrupted { reason } => {
                assert!(reason.contains("refuses access"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        let quiet = tokio::time::timeout(Duration::from_millis(500), any(&mut watch)).await;
        assert!(quiet.is_err(), "said once: {quiet:?}");
    }

    // A watch that began to log in, and is left alone then, keeps nobody waiting.
    let fresh = EtcdStore::connect(login("calico", "pass")).unwrap();
    let mut left = fresh.watch(pools(), None);
    assert!(left.next().now_or_never().is_none());
    fresh.get(&pool("a")).await.expect("an answer, although a watch is left alone");
    listing(&mut left).await;

    // A server forgets its tokens when it restarts.
    cluster.members[0].kill();
    cluster.members[0].spawn();
    let put = loop {
        match store.put(pool("b"), "1".into()).await {
            Ok(revision) => break revision,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == put));
}

#[tokio::test]
async fn a_password_that_nobody_asks_for_does_no_harm() {
    let cluster = Cluster::start(1).await;
    let config = EtcdConfig {
        username: Some("calico".into()),
        password: Some(Secret::new("pass")),
        ..cluster.config()
    };
    assert!(EtcdStore::connect(config).unwrap().revision().await.is_ok());
}

#[tokio::test]
async fn a_server_of_another_kind_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 64];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            });
        }
    });
    says(&refusal(EtcdConfig::new([url.clone()])).await, &[&url, "etcd's port"]);

    // The right server, without the TLS that the settings expect.
    let cluster = Cluster::start(1).await;
    let secure = cluster.members[0].url.replace("http://", "https://");
    says(&refusal(EtcdConfig::new([secure.clone()])).await, &[&secure, "speak tls?"]);
}
