//! How long a write takes: `cargo run -p calico-datastore --example write_latency [directory]`.
//!
//! Each line is measured beside its floor, the `fdatasync` of a file that grows by as many bytes,
//! in the same directory and the same run.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::Write;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::embedded::{Durability, Options};
use calico_datastore::remote::{LocalListener, RemoteStore, Server};
use futures_util::future::try_join_all;

const ROUNDS: usize = 300;
const VALUE: usize = 600;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("calico-write-latency-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn measure(dir: &std::path::Path) -> Result<()> {
    println!(
        "{ROUNDS} rounds in {}, values of {VALUE} bytes; median and 99th percentile",
        dir.display()
    );
    let mut file = File::create(dir.join("floor"))?;
    let bytes = [b'x'; VALUE];
    let mut floor = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        floor.push(start.elapsed());
    }
    let floor = report("append + fdatasync (floor)", floor, None);

    for durability in [Durability::Disk, Durability::Process] {
        let name = format!("{durability:?}");
        let store = Arc::new(Options::new().durability(durability).open(dir.join(&name))?);
        let socket = dir.join(format!("{name}.sock"));
        let server =
            Server::run(LocalListener::bind(&socket)?, store.clone(), std::future::pending());
        let server = tokio::spawn(server);
        let remote = RemoteStore::connect(&socket);
        let stores: [(&str, &dyn Datastore); 2] = [("embedded", &*store), ("remote", &remote)];
        for (kind, store) in stores {
            for writes in [1, 3] {
                let label = format!("{kind}, {name}: {writes} in one call");
                report(&label, rounds(store, writes).await?, Some(floor));
            }
        }
        let start = Instant::now();
        let calls = (0..ROUNDS).map(|n| store.put(key(n), "x".repeat(VALUE).into()));
        try_join_all(calls).await?;
        let per_call = start.elapsed() / ROUNDS as u32;
        println!(
            "{:<36} {:>9.1} us each",
            format!("embedded, {name}: {ROUNDS} at once"),
            us(per_call)
        );
        server.abort();
    }
    Ok(())
}

async fn rounds(store: &dyn Datastore, writes: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let batch = (0..writes).map(|n| Write::put(key(n), format!("{round:0VALUE$}"))).collect();
        let start = Instant::now();
        store.write(batch).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn key(n: usize) -> Key {
    Key::resource(Kind::WorkloadEndpoint, Some("default"), &format!("w{n}"))
}

fn report(label: &str, mut times: Vec<Duration>, floor: Option<Duration>) -> Duration {
    times.sort_unstable();
    let (median, high) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let ratio = floor.map_or(String::new(), |floor| {
        format!("  {:.2} x floor", median.as_secs_f64() / floor.as_secs_f64())
    });
    println!("{label:<36} {:>9.1} us {:>9.1} us{ratio}", us(median), us(high));
    median
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
