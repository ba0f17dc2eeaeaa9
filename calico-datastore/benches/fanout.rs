//! What a server pays for clients that follow it: `cargo bench -p calico-datastore --bench fanout`.
//!
//! This process has the store and serves it; its CPU is what counts. The clients are in another
//! process, each with a connection of its own, over a unix socket and over TLS. Updates come all
//! at once, and one by one, a thousand a second. The updates themselves, which this process writes
//! and its hub takes in, are a part of the CPU.

#[path = "../tests/etcd/authority.rs"]
#[expect(clippy::unwrap_used, reason = "the tests' own: without certificates there is no bench")]
mod authority;

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{SharedEvent, WatchEvent, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_datastore::config::{FanoutConfig, Pem, TlsConfig};
use calico_datastore::fanout::Fanout;
use calico_datastore::remote::{
    Counters, LocalListener, RemoteStore, Server, TlsAddress, TlsListener,
};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Objects that every client is given first.
const OBJECTS: usize = 2_000;

/// Updates that every client is told of.
const UPDATES: usize = 2_000;

/// Clients, where there are many.
const MANY: usize = 200;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", place, count] => runtime.block_on(clients(place, count.parse()?)),
        _ => runtime.block_on(measure()),
    }
}

fn object(n: usize) -> Key {
    Key::resource(Kind::WorkloadEndpoint, Some("prod"), &format!("node-k8s-web--{n:05}-eth0"))
}

/// About as long as a workload endpoint.
fn value(version: &str) -> Arc<str> {
    let labels: Vec<_> = (0..30).map(|n| format!("\"label-{n}\":\"value-{n}\"")).collect();
    let text = labels.join(",");
    format!("{{\"metadata\":{{\"uid\":\"{version}\",\"labels\":{{{text}}}}}}}").into()
}

fn last() -> Key {
    Key::resource(Kind::Node, None, "last")
}

async fn measure() -> Result<()> {
    println!("{UPDATES} updates of values with {} bytes", value("0").len());
    let event = WatchEvent::Put(calico_core::datastore::Entry {
        key: object(1),
        value: value("0"),
        revision: calico_core::datastore::Revision(1),
    });
    let events: Vec<_> = (0..UPDATES).map(|_| SharedEvent::new(event.clone())).collect();
    let start = Instant::now();
    let bytes: usize = events.iter().map(|event| event.json().len()).sum();
    let encode = micros(start.elapsed()) / UPDATES as f64;
    println!("an event is written as JSON in {encode:.2} us ({} bytes)", bytes / UPDATES);
    for is_paced in [false, true] {
        let idle = run("none", 0, is_paced).await?;
        for transport in ["unix", "tls"] {
            let one = run(transport, 1, is_paced).await?;
            let many = run(transport, MANY, is_paced).await?;
            let cpu = |run: &Run| micros(run.cpu) / UPDATES as f64;
            let of_client = (cpu(&many) - cpu(&one)) / (MANY - 1) as f64;
            println!(
                "{transport:<5} {:<12} us an event: {:>6.1} with no client, {:>6.1} with 1, {:>6.1} with \
                 {MANY}, {of_client:.2} for each more; JSON written {:.2} and {:.2} times an event; \
                 {:.0} MB sent in {:.2} s",
                if is_paced { "one by one" } else { "all at once" },
                cpu(&idle),
                cpu(&one),
                cpu(&many),
                one.written as f64 / UPDATES as f64,
                many.written as f64 / UPDATES as f64,
                many.sent as f64 / 1e6,
                many.time.as_secs_f64(),
            );
        }
    }
    Ok(())
}

/// What a run took.
struct Run {
    cpu: Duration,
    time: Duration,
    written: u64,
    sent: u64,
}

async fn run(transport: &str, count: usize, is_paced: bool) -> Result<Run> {
    let store = Arc::new(MemoryStore::with_history(UPDATES * 2));
    for n in 0..OBJECTS {
        store.put(object(n), value("0")).await?;
    }
    let fanout = Arc::new(Fanout::start(store.clone()));
    let counters = Arc::<Counters>::default();
    let dir = authority::certificates();
    let (place, server) = match transport {
        "tls" => {
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let place = format!("{}@{}", socket.local_addr()?, dir.path().display());
            let listener = TlsListener::new(socket, tls(dir.path(), "server"))?;
            let never = std::future::pending();
            let serve =
                Server::run_counted(MANY, counters.clone(), listener, fanout.clone(), never);
            (place, tokio::spawn(serve))
        }
        _ => {
            let socket = dir.path().join("fanout.sock");
            let listener = LocalListener::bind(&socket)?;
            let never = std::future::pending();
            let serve =
                Server::run_counted(MANY, counters.clone(), listener, fanout.clone(), never);
            (socket.display().to_string(), tokio::spawn(serve))
        }
    };
    let mut child = if count > 0 { Some(start_clients(&place, count)?) } else { None };
    let before = counters.figures();
    let (start, cpu) = (Instant::now(), used()?);
    for n in 0..UPDATES {
        let (key, value) = (object(n % OBJECTS), value(&n.to_string()));
        store.write(vec![Write::put(key, value)]).await?;
        if is_paced {
            let due = start + Duration::from_millis(n as u64);
            tokio::time::sleep_until(due.into()).await;
        }
    }
    store.put(last(), value("last")).await?;
    if let Some(child) = &mut child {
        let status = tokio::task::block_in_place(|| child.wait())?;
        if !status.success() {
            return Err("the clients failed".into());
        }
    } else {
        while fanout.objects() <= OBJECTS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let (time, cpu) = (start.elapsed(), used()?.saturating_sub(cpu));
    let after = counters.figures();
    server.abort();
    Ok(Run { cpu, time, written: after.written - before.written, sent: after.sent - before.sent })
}

/// Starts the other process, and waits until every client has the objects.
fn start_clients(place: &str, count: usize) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["client", place, &count.to_string()]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("no output")?;
    BufReader::new(out).read_line(&mut line)?;
    match line.trim() {
        "ready" => Ok(child),
        other => Err(format!("the clients say {other:?}").into()),
    }
}

async fn clients(place: &str, count: usize) -> Result<()> {
    let clients = (0..count).map(|_| match place.split_once('@') {
        Some((address, dir)) => RemoteStore::over(TlsAddress(FanoutConfig {
            address: address.to_owned(),
            server_name: None,
            tls: tls(Path::new(dir), "client"),
        })),
        None => RemoteStore::connect(place),
    });
    let mut watches: Vec<_> = clients.map(|client| client.watch(Scope::All, None)).collect();
    let listed = watches.iter_mut().map(async |watch| {
        while !matches!(watch.next().await, Some(WatchEvent::Ready(_)) | None) {}
    });
    join_all(listed).await;
    println!("ready");
    let tasks = watches.into_iter().map(|mut watch| {
        tokio::spawn(async move {
            loop {
                match watch.next().await {
                    Some(WatchEvent::Put(entry)) if entry.key == last() => return true,
                    Some(WatchEvent::Put(_)) => {}
                    other => {
                        eprintln!("{other:?}");
                        return false;
                    }
                }
            }
        })
    });
    match join_all(tasks).await.into_iter().all(|done| done.unwrap_or(false)) {
        true => Ok(()),
        false => Err("a client was not told of every update".into()),
    }
}

fn tls(dir: &Path, name: &str) -> TlsConfig {
    let file = |name: &str| Pem::File(dir.join(name));
    TlsConfig {
        ca: file("ca.pem"),
        certificate: file(&format!("{name}.pem")),
        key: file(&format!("{name}-key.pem")),
    }
}

/// CPU that this process has used.
fn used() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
