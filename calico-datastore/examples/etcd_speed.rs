//! How fast the etcd backend is, beside a bare client that asks the same server for the same in
//! the same run: `cargo run -p calico-datastore --example etcd_speed -- http://127.0.0.1:2379`.
//!
//! The cluster must be for this alone: what lies under `/calico/` is overwritten.

use std::error::Error;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;
use futures_util::StreamExt as _;

const ROUNDS: usize = 300;
const VALUE: usize = 600;
const OBJECTS: usize = 100_000;
const UPDATES: usize = 10_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).ok_or("which endpoint? http://host:port")?;
    let store = EtcdStore::connect(EtcdConfig::new([url.as_str()]))?;
    let mut bare = bare::Client::connect(url).await?;
    println!("{ROUNDS} rounds, values of {VALUE} bytes; median and 99th percentile");
    writes(&store, &mut bare).await?;
    lists(&store, &mut bare).await?;
    watches(&store, &mut bare).await
}

async fn writes(store: &EtcdStore, bare: &mut bare::Client) -> Result<()> {
    let value = "x".repeat(VALUE);
    let mut floor = Vec::new();
    for n in 0..ROUNDS {
        let start = Instant::now();
        bare.put(&key(n).to_string(), &value).await?;
        floor.push(start.elapsed());
    }
    let floor = report("bare put", floor, None);
    for (label, count) in [("1 write", 1), ("3 writes in one call", 3)] {
        let mut times = Vec::new();
        for n in 0..ROUNDS {
            let writes = (0..count).map(|at| Write::put(key(n * 3 + at), value.as_str()));
            let start = Instant::now();
            store.write(writes.collect()).await?;
            times.push(start.elapsed());
        }
        report(label, times, Some(floor));
    }
    let mut times = Vec::new();
    for n in 0..ROUNDS {
        let current = store.get(&key(n)).await?.revision;
        let writes = vec![
            Write::put(key(n + 1), value.as_str()),
            Write::put(key(n + 2), value.as_str()),
            Write::update(key(n), value.as_str(), Revision(current.0 - 1)),
        ];
        let start = Instant::now();
        let failed = store.write(writes).await.err().ok_or("a conflict was expected")?;
        times.push(start.elapsed());
        assert_eq!(failed.done.len(), 2);
    }
    report("3 writes, the last one in conflict", times, Some(floor));
    Ok(())
}

async fn lists(store: &EtcdStore, bare: &mut bare::Client) -> Result<()> {
    let value = format!("{{\"x\":\"{}\"}}", "x".repeat(VALUE));
    let writes = (0..OBJECTS).map(|n| Write::put(key(n), value.as_str()));
    store.write(writes.collect()).await?;
    let scope = Scope::Kind(Kind::IpPool);
    let prefix = &scope.prefixes()[0];
    let mut best = [Duration::MAX; 2];
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(bare.list(prefix).await?, OBJECTS);
        best[0] = best[0].min(start.elapsed());
        let start = Instant::now();
        assert_eq!(store.list(&scope).await?.entries.len(), OBJECTS);
        best[1] = best[1].min(start.elapsed());
    }
    println!(
        "listing {OBJECTS}: bare {:.0} ms, with names and in pages {:.0} ms: {:.2} times",
        best[0].as_secs_f64() * 1e3,
        best[1].as_secs_f64() * 1e3,
        best[1].as_secs_f64() / best[0].as_secs_f64()
    );
    Ok(())
}

async fn watches(store: &EtcdStore, bare: &mut bare::Client) -> Result<()> {
    let scope = Scope::Kind(Kind::IpPool);
    let from = store.revision().await?;
    for n in 0..UPDATES / 100 {
        let writes = (0..100).map(|at| Write::put(key(n * 100 + at), "y".repeat(VALUE)));
        store.write(writes.collect()).await?;
    }
    let mut best = [Duration::MAX; 2];
    for _ in 0..3 {
        let start = Instant::now();
        bare.watch(&scope.prefixes()[0], from.0 + 1, UPDATES).await?;
        best[0] = best[0].min(start.elapsed());
        let start = Instant::now();
        let mut watch = store.watch(scope.clone(), Some(from));
        let mut seen = 0;
        while seen < UPDATES {
            match watch.next().await {
                Some(WatchEvent::Put(_)) => seen += 1,
                other => return Err(format!("{other:?}").into()),
            }
        }
        best[1] = best[1].min(start.elapsed());
    }
    println!(
        "{UPDATES} updates: bare {:.0} ms, with names {:.0} ms: {:.2} times",
        best[0].as_secs_f64() * 1e3,
        best[1].as_secs_f64() * 1e3,
        best[1].as_secs_f64() / best[0].as_secs_f64()
    );
    Ok(())
}

fn key(n: usize) -> Key {
    Key::resource(Kind::IpPool, None, &format!("p{n:06}"))
}

/// Prints median and 99th percentile; returns the median.
fn report(label: &str, mut times: Vec<Duration>, floor: Option<Duration>) -> Duration {
    times.sort();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let ratio = floor.map_or_else(String::new, |floor| {
        format!("{:>6.2} times bare", median.as_secs_f64() / floor.as_secs_f64())
    });
    println!("{label:<36} {:>8.0} us {:>8.0} us {ratio}", us(median), us(late));
    median
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A client that does nothing but what is measured.
mod bare {
    use bytes::Bytes;
    use futures_util::stream::{StreamExt as _, once, pending};
    use http::uri::PathAndQuery;
    use prost::Message;
    use tonic::Request;
    use tonic::client::Grpc;
    use tonic::transport::Channel;
    use tonic_prost::ProstCodec;

    use super::Result;

    pub(super) struct Client(Grpc<Channel>);

    #[derive(Clone, PartialEq, Message)]
    struct Pair {
        #[prost(bytes = "bytes", tag = "1")]
        first: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        second: Bytes,
    }

    #[derive(Clone, PartialEq, Message)]
    struct KeyValue {
        #[prost(bytes = "bytes", tag = "1")]
        key: Bytes,
        #[prost(int64, tag = "3")]
        revision: i64,
        #[prost(bytes = "bytes", tag = "5")]
        value: Bytes,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Range {
        #[prost(message, repeated, tag = "2")]
        kvs: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Create {
        #[prost(bytes = "bytes", tag = "1")]
        key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        end: Bytes,
        #[prost(int64, tag = "3")]
        start: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Watch {
        #[prost(message, optional, tag = "1")]
        create: Option<Create>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Event {
        #[prost(message, optional, tag = "2")]
        kv: Option<KeyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Events {
        #[prost(message, repeated, tag = "11")]
        events: Vec<Event>,
    }

    impl Client {
        pub(super) async fn connect(url: String) -> Result<Self> {
            let channel = Channel::from_shared(url)?
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size((1 << 31) - 1)
                .connect()
                .await?;
            Ok(Self(Grpc::new(channel).max_decoding_message_size(usize::MAX)))
        }

        async fn call<A>(&mut self, path: &'static str, request: Pair) -> Result<A>
        where
            A: Message + Default + 'static,
        {
            self.0.ready().await?;
            let codec = ProstCodec::<Pair, A>::default();
            let path = PathAndQuery::from_static(path);
            Ok(self.0.unary(Request::new(request), path, codec).await?.into_inner())
        }

        pub(super) async fn put(&mut self, key: &str, value: &str) -> Result<()> {
            let (first, second) = (key.to_owned().into(), value.to_owned().into());
            self.call::<Range>("/etcdserverpb.KV/Put", Pair { first, second }).await.map(drop)
        }

        pub(super) async fn list(&mut self, prefix: &str) -> Result<usize> {
            let (first, second) = range(prefix);
            let answer: Range = self.call("/etcdserverpb.KV/Range", Pair { first, second }).await?;
            Ok(answer.kvs.len())
        }

        pub(super) async fn watch(&mut self, prefix: &str, from: u64, count: usize) -> Result<()> {
            let (key, end) = range(prefix);
            let create = Some(Create { key, end, start: i64::try_from(from)? });
            let requests = once(async { Watch { create } }).chain(pending());
            self.0.ready().await?;
            let codec = ProstCodec::<Watch, Events>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let mut answers =
                self.0.streaming(Request::new(requests), path, codec).await?.into_inner();
            let mut seen = 0;
            while seen < count {
                seen += answers.message().await?.ok_or("the watch ended")?.events.len();
            }
            Ok(())
        }
    }

    fn range(prefix: &str) -> (Bytes, Bytes) {
        let end = format!("{}0", &prefix[..prefix.len() - 1]);
        (prefix.to_owned().into(), end.into())
    }
}
