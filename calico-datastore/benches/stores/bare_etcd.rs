//! A client that does nothing but what is measured.

use std::error::Error;

use bytes::Bytes;
use calico_core::datastore::Write;
use futures_util::stream::{StreamExt as _, once, pending};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::pace::Seen;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) struct Client(Grpc<Channel>);

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    first: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    second: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Op {
    #[prost(message, optional, tag = "2")]
    put: Option<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Txn {
    #[prost(message, repeated, tag = "2")]
    success: Vec<Op>,
}

/// An answer of which nothing is read.
#[derive(Clone, Copy, PartialEq, Message)]
struct Done {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
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
    pub(crate) async fn connect(url: String) -> Result<Self> {
        let channel = Channel::from_shared(url)?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size((1 << 31) - 1)
            .connect()
            .await?;
        Ok(Self(Grpc::new(channel).max_decoding_message_size(usize::MAX)))
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.0.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// A transaction, as every conditional write is one.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let (first, second) = (key.to_owned().into(), value.to_owned().into());
        let put = Op { put: Some(Pair { first, second }) };
        self.call::<_, Done>("/etcdserverpb.KV/Txn", Txn { success: vec![put] }).await.map(drop)
    }

    /// The same of several objects.
    pub(crate) async fn put_all(&mut self, writes: &[Write]) -> Result<()> {
        let put = |write: &Write| {
            let value = write.value.as_deref().unwrap_or_default();
            let (first, second) = (write.key.to_string().into(), value.to_owned().into());
            Op { put: Some(Pair { first, second }) }
        };
        let success = writes.iter().map(put).collect();
        self.call::<_, Done>("/etcdserverpb.KV/Txn", Txn { success }).await.map(drop)
    }

    /// Every object, in one message: slices of it are what this client keeps.
    pub(crate) async fn list(&mut self, prefix: &str) -> Result<Vec<KeyValue>> {
        let (first, second) = range(prefix);
        let answer: Range = self.call("/etcdserverpb.KV/Range", Pair { first, second }).await?;
        Ok(answer.kvs)
    }

    /// Hands out changes as they come.
    pub(crate) async fn watch(&mut self, prefix: &str, from: u64, seen: &mut Seen) -> Result<()> {
        let (key, end) = range(prefix);
        let create = Some(Create { key, end, start: i64::try_from(from)? });
        let requests = once(async { Watch { create } }).chain(pending());
        self.0.ready().await?;
        let codec = ProstCodec::<Watch, Events>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let mut answers = self.0.streaming(Request::new(requests), path, codec).await?.into_inner();
        loop {
            let events = answers.message().await?.ok_or("the watch ended")?.events;
            for event in events {
                if std::hint::black_box(event.kv).is_some() && seen.saw(1) {
                    return Ok(());
                }
            }
        }
    }
}

fn range(prefix: &str) -> (Bytes, Bytes) {
    let end = format!("{}0", &prefix[..prefix.len() - 1]);
    (prefix.to_owned().into(), end.into())
}
