//! Clients and requests that the server does not take.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, Write};
use calico_core::key::Scope;
use calico_core::memory::MemoryStore;
use calico_datastore::remote::RemoteStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{node, place, serve};

#[tokio::test]
async fn garbage_from_a_client_hurts_nobody_else() {
    let (_dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let store = RemoteStore::connect(&socket);
    store.put(node("a"), "{}".into()).await.unwrap();
    let hello = br#"{"protocol":"calico-datastore","version":1}"#;
    let hello = [&(hello.len() as u32).to_be_bytes()[..], hello].concat();
    let after_hello = |bytes: &[u8]| [&hello, bytes].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\xff\xff\xff\xff".to_vec(),
        b"\0\0\0\x02[]".to_vec(),
        after_hello(b"\0\0\0\x03nul"),
        after_hello(b"\xff\xff\xff\xff"),
        after_hello(&[&b"\0\x10\0\0"[..], &[b'['; 0x10_0000]].concat()),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let hung_up = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(hung_up.is_ok(), "{:?}...", &bytes[..16.min(bytes.len())]);
        assert!(store.get(&node("a")).await.is_ok());
    }
}

#[tokio::test]
async fn another_version_is_refused_in_words() {
    let (_dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let hello = br#"{"protocol":"calico-datastore","version":9}"#;
    stream.write_all(&(hello.len() as u32).to_be_bytes()).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_u32().await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("refused") && answer.contains("version 9"), "{answer}");
}

#[tokio::test]
async fn a_large_store_is_listed_and_too_large_a_request_is_explained() {
    let (_dir, socket) = place();
    let inner = MemoryStore::new();
    let value: Arc<str> = "y".repeat(10_000).into();
    for n in 0..3000 {
        inner.put(node(&format!("n{n}")), Arc::clone(&value)).await.unwrap();
    }
    let _server = serve(&socket, Arc::new(inner));
    let store = RemoteStore::connect(&socket);
    let listing = store.list(&Scope::All).await.unwrap();
    assert_eq!((listing.entries.len(), listing.revision), (3000, Revision(3000)));
    let writes = (0..3000).map(|n| Write::put(node(&format!("m{n}")), Arc::clone(&value)));
    let failed = store.write(writes.collect()).await.unwrap_err();
    assert!(matches!(failed.error, StoreError::Unsupported { .. }), "{:?}", failed.error);
    assert!(store.get(&node("m0")).await.is_err());
}

const AS_NOBODY: &str = "CALICO_TEST_SOCKET_AS_NOBODY";

/// Not a test of its own: what the child of the next test does.
#[tokio::test]
async fn child() {
    let Some(socket) = std::env::var_os(AS_NOBODY) else { return };
    let error = RemoteStore::connect(PathBuf::from(socket)).get(&node("a")).await.unwrap_err();
    println!("said: {error}");
}

/// Needs root, to become another user.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_even_if_the_socket_lets_everyone_in() {
    use std::fs::{self, Permissions};
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1)");
        return;
    }
    let (dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&program, 0o755), (&socket, 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let output = std::process::Command::new(&program)
        .args(["strangers::child", "--exact", "--nocapture"])
        .env(AS_NOBODY, &socket)
        .uid(65534)
        .output()
        .expect("this test needs root; set CALICO_SKIP_PRIVILEGED=1 to skip it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("user 65534 may not use it; run as root"), "{text}");
}
