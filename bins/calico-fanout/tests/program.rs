//! The program as it runs: an embedded store behind it, a client with a certificate in front.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../calico-datastore/tests/etcd/authority.rs"]
mod authority;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// The page of metrics; it may take a moment to be served.
fn metrics(port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut text = String::new();
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut text)
        });
        if asked.is_ok() && text.contains("typha_cache_size") {
            return text;
        }
        assert!(Instant::now() < deadline, "no metrics: {asked:?} {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
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
    let pages = free_port();
    let store = format!("[datastore]\ntype = 'embedded'\npath = {:?}\n", dir.path().join("store"));
    let config = write_config(dir.path(), port, &store);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("pages = '127.0.0.1:{pages}'\n{text}")).unwrap();
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

    let text = metrics(pages);
    for expected in [
        "typha_cache_size 1\n",
        "typha_connections_active 1\n",
        "calico_fanout_clients_slow 0\n",
        "typha_snapshots_generated 1\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in {text}");
    }
    let value = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))[name.len() + 1..].parse().unwrap()
    };
    assert!(value("calico_fanout_sent_bytes") > 20, "{text}");
    assert!(value("typha_updates_total") > 0 && value("calico_fanout_events_sent") > 0, "{text}");

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
