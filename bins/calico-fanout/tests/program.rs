//! The program as it runs: an embedded store behind it, a client with a certificate in front.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../calico-datastore/tests/etcd/authority.rs"]
mod authority;

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calico_core::datastore::WatchEvent;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::config::{DatastoreConfig, FanoutConfig, Pem, TlsConfig};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calico-fanout");

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_config(dir: &Path, port: u16, datastore: &str) -> std::path::PathBuf {
    let file = |name: &str| format!("{{ file = {:?} }}", dir.join(name));
    let text = format!(
        "listen = '127.0.0.1:{port}'\n[tls]\nca = {}\ncertificate = {}\nkey = {}\n{datastore}",
        file("ca.pem"),
        file("server.pem"),
        file("server-key.pem"),
    );
    let path = dir.join("fanout.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn it_serves_who_has_a_certificate_and_ends_in_good_order() {
    let dir = authority::certificates();
    let port = free_port();
    let store = format!("[datastore]\ntype = 'embedded'\npath = {:?}\n", dir.path().join("store"));
    let config = write_config(dir.path(), port, &store);
    let child = Command::new(PROGRAM).arg("--config").arg(&config).spawn().unwrap();
    let mut running = Running(child);

    let file = |name: &str| Pem::File(dir.path().join(name));
    let client = DatastoreConfig::Fanout(FanoutConfig {
        address: format!("127.0.0.1:{port}"),
        server_name: None,
        tls: TlsConfig {
            ca: file("ca.pem"),
            certificate: file("client.pem"),
            key: file("client-key.pem"),
        },
    });
    let client = calico_datastore::open(&client).unwrap();
    let node = Key::resource(Kind::Node, None, "a");
    let follow = async {
        // It may take a moment to come up.
        while client.put(node.clone(), "{}".into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut watch = client.watch(Scope::All, None);
        while !matches!(watch.next().await, Some(WatchEvent::Item(entry)) if entry.key == node) {}
    };
    tokio::time::timeout(Duration::from_secs(60), follow).await.expect("served in time");

    let pid = Pid::from_raw(running.0.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn mistakes_are_named() {
    let dir = authority::certificates();
    let check = |config: &Path| {
        let mut child = Command::new(PROGRAM)
            .args(["--check", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().success(), text)
    };
    let missing = dir.path().join("none.toml");
    let (good, text) = check(&missing);
    assert!(!good && text.contains("none.toml"), "{text}");
    let config = write_config(dir.path(), 1, "[datastore]\ntype = 'zookeeper'\n");
    let (good, text) = check(&config);
    assert!(!good && text.contains("zookeeper") && text.contains("fanout.toml"), "{text}");
    let remote = "[datastore]\ntype = 'remote'\n";
    let config = write_config(dir.path(), 1, remote);
    assert!(check(&config).0);
    std::fs::remove_file(dir.path().join("server-key.pem")).unwrap();
    let (good, text) = check(&config);
    assert!(!good && text.contains("server-key.pem"), "{text}");
}
