//! Members that DNS names: a real name server (Debian: `dnsmasq-base`) and real etcd servers, in
//! namespaces of a thread's own, which has a `/etc/resolv.conf` of its own, too.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_core::Datastore as _;
use calico_core::datastore::{Revision, StoreError};
use calico_datastore::config::{EtcdConfig, Pem};
use calico_datastore::etcd::EtcdStore;
use futures_util::{FutureExt as _, StreamExt as _};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::server::Cluster;
use super::{LIMIT, pool, pools};

const DOMAIN: &str = "etcd.test";

/// A name server, while this lives.
struct Dns(Child);

impl Dns {
    fn start(records: &[String]) -> Self {
        let child = Command::new("dnsmasq")
            .args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file"])
            .arg(format!("--local=/{DOMAIN}/"))
            .arg(format!("--host-record=member.{DOMAIN},127.0.0.1"))
            .args(records)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("dnsmasq: {error}; install dnsmasq-base")))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn record(service: &str, url: &str) -> String {
    let port = url.rsplit_once(':').unwrap().1;
    format!("--srv-host={service}._tcp.{DOMAIN},member.{DOMAIN},{port}")
}

fn config() -> EtcdConfig {
    let mut config = EtcdConfig::new(Vec::<String>::new());
    config.discovery_srv = Some(DOMAIN.to_owned());
    config
}

/// Why the store does not answer; asked again until that is it, as the server may still start.
async fn fails(config: EtcdConfig, expected: &str) {
    let begin = Instant::now();
    loop {
        let store = EtcdStore::connect(config.clone()).unwrap();
        let text = match store.revision().await {
            Err(error @ StoreError::Unavailable { .. }) => error.to_string(),
            other => format!("{other:?}"),
        };
        if text.contains(expected) {
            return println!("{text}");
        }
        assert!(begin.elapsed() < LIMIT, "no {expected:?} in {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(store: &EtcdStore) -> Revision {
    let begin = Instant::now();
    loop {
        match store.revision().await {
            Ok(revision) => return revision,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn members_are_found_by_their_records() {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some() {
        return println!("SKIPPED (needs root for namespaces)");
    }
    // The thread, and those that it starts, are in its namespaces.
    std::thread::spawn(|| {
        let dir = tempfile::tempdir().unwrap();
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "# nobody\n").unwrap();
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(flags).expect("namespaces, for which this test must run as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let place = "/etc/resolv.conf";
        mount(Some(&resolv), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip; install iproute2").success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(discovery(&resolv));
    })
    .join()
    .unwrap();
}

async fn discovery(resolv: &Path) {
    fails(config(), "no resolver").await;
    std::fs::write(resolv, "nameserver 127.0.0.1\noptions attempts:5 timeout:30\n").unwrap();
    let begin = Instant::now();
    fails(config(), "are not known").await;
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());

    let dns = Dns::start(&[]);
    fails(config(), "NXDOMAIN").await;
    drop(dns);

    // Without certificates a member without TLS will do; with them it will not.
    let first = Cluster::start(1).await;
    let plain = record("_etcd-client", &first.members[0].url);
    let dns = Dns::start(std::slice::from_ref(&plain));
    let store = EtcdStore::connect(config()).unwrap();
    // A watch that began to ask DNS, and is left alone then, keeps nobody waiting.
    let mut left = store.watch(pools(), None);
    assert!(left.next().now_or_never().is_none());
    timeout(LIMIT, answers(&store)).await.expect("an answer, although a watch is left alone");
    store.create(pool("a"), "{}".into()).await.unwrap();
    let mut secure = config();
    secure.ca = Some(Pem::File("/none".into()));
    fails(secure, "only members with TLS").await;
    drop(dns);

    // A member that DNS does not tell of just now is used as long as it answers.
    assert_eq!(&*store.get(&pool("a")).await.unwrap().value, "{}");

    // One that is gone is looked for again.
    let second = Cluster::start(1).await;
    let dns = Dns::start(&[record("_etcd-client", &second.members[0].url)]);
    drop(first);
    answers(&store).await;
    assert!(matches!(store.get(&pool("a")).await, Err(StoreError::NotFound { .. })));
    drop(dns);

    // TLS goes first: nothing answers there, and nothing else is tried.
    let _dns = Dns::start(&[plain, record("_etcd-client-ssl", "x:1")]);
    fails(config(), "https://member.etcd.test:1").await;
}
