//! etcd's methods, called on one connection.

use std::marker::PhantomData;

use futures_util::stream::{StreamExt as _, once, pending};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Extensions, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{
    AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};

/// Longest answer that is read, in bytes, but for the pages of listings. A watch that has more
/// than this to catch up with at once is listed anew.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// What etcd gives for a password, and takes in its place.
pub(super) type Token = MetadataValue<Ascii>;

/// A method with one request and one answer.
pub(super) struct Method<Q, A> {
    path: &'static str,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    const fn new(path: &'static str) -> Self {
        Self { path, types: PhantomData }
    }

    pub(super) const fn path(&self) -> &'static str {
        self.path
    }
}

pub(super) const RANGE: Method<RangeRequest, RangeResponse> = Method::new("/etcdserverpb.KV/Range");
pub(super) const TXN: Method<TxnRequest, TxnResponse> = Method::new("/etcdserverpb.KV/Txn");
pub(super) const AUTHENTICATE: Method<AuthenticateRequest, AuthenticateResponse> =
    Method::new("/etcdserverpb.Auth/Authenticate");
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Something to ask a server, as often as it takes.
pub(super) trait Ask: Sync {
    type Answer: Send;

    fn ask(
        &self,
        channel: Channel,
        token: Option<Token>,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// The call of a method.
pub(super) struct Call<'a, Q, A> {
    pub(super) method: &'a Method<Q, A>,
    pub(super) request: &'a Q,
}

impl<Q, A> Ask for Call<'_, Q, A>
where
    Q: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    type Answer = A;

    async fn ask(&self, channel: Channel, token: Option<Token>) -> Result<A, Status> {
        let mut grpc = ready(channel).await?;
        let path = PathAndQuery::from_static(self.method.path);
        let codec = ProstCodec::<Q, A>::default();
        let request = with_metadata(self.request.clone(), token);
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }
}

/// A watch to open. Its first message says whether it was created.
pub(super) struct OpenWatch<'a>(pub(super) &'a WatchCreateRequest);

impl Ask for OpenWatch<'_> {
    type Answer = Streaming<WatchResponse>;

    async fn ask(
        &self,
        channel: Channel,
        token: Option<Token>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let mut grpc = ready(channel).await?;
        let create = WatchRequest { create: Some(self.0.clone()) };
        // The server ends the watch when the requests end: they stay open as long as the answers.
        let requests = once(async { create }).chain(pending());
        let path = PathAndQuery::from_static(WATCH);
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        Ok(grpc.streaming(with_metadata(requests, token), path, codec).await?.into_inner())
    }
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(grpc)
}

fn with_metadata<T>(message: T, token: Option<Token>) -> Request<T> {
    Request::from_parts(metadata(token), Extensions::default(), message)
}

/// What goes with every request.
pub(super) fn metadata(token: Option<Token>) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    // A member that has lost the others refuses at once, instead of keeping us waiting.
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("token", token);
    }
    metadata
}
