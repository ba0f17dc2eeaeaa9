//! The messages of etcd's v3 API that this client uses, with the field numbers of etcd's published
//! protocol (`rpc.proto`, `kv.proto`). Fields that are neither sent nor read are left out; protobuf
//! skips them.
//!
//! They are written down here instead of generated, so that building needs no `protoc`.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::field::{self, Malformed, Value};

/// In every answer: who gave it, and when.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Header {
    /// Another number means another cluster, whose revisions mean other things.
    #[prost(uint64, tag = "1")]
    pub(super) cluster_id: u64,
    /// The store's revision as of the answer.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    /// The revision of the last write; of the deletion, in an event that tells of one.
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
}

impl KeyValue {
    pub(super) fn stored(&self) -> StoredObject<'_> {
        StoredObject { key: &self.key, mod_revision: self.mod_revision, value: &self.value }
    }
}

/// A [`KeyValue`] whose parts stay where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StoredObject<'a> {
    pub(super) key: &'a [u8],
    pub(super) mod_revision: i64,
    pub(super) value: &'a [u8],
}

impl<'a> StoredObject<'a> {
    /// Reads a message.
    pub(super) fn read(mut message: &'a [u8]) -> Result<Self, Malformed> {
        let mut object = Self::default();
        while !message.is_empty() {
            let (number, value, used) = field::next(message)?.ok_or(Malformed)?;
            match (number, value) {
                (1, Value::Bytes(key)) => object.key = key,
                (3, Value::Number(revision)) => object.mod_revision = revision.cast_signed(),
                (5, Value::Bytes(value)) => object.value = value,
                _ => {}
            }
            message = &message[used..];
        }
        Ok(object)
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    /// First key that is not wanted any more; empty for `key` alone.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
    /// 0: no limit.
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    /// 0: the newest.
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
    #[prost(bool, tag = "8")]
    pub(super) keys_only: bool,
    #[prost(bool, tag = "9")]
    pub(super) count_only: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    /// Whether `limit` cut the answer.
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Op", tags = "1, 2, 3")]
    pub(super) op: Option<Op>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum Op {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

/// The answer to one operation; those to writes say nothing that is needed.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<RangeResponse>,
}

/// A condition of a transaction on the `mod_revision` or `version` of one key; both are 0 if
/// there is no such key.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Compare {
    /// [`EQUAL`](Self::EQUAL) or [`GREATER`](Self::GREATER).
    #[prost(int32, tag = "1")]
    pub(super) result: i32,
    /// [`VERSION`](Self::VERSION) or [`MOD`](Self::MOD).
    #[prost(int32, tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) key: Bytes,
    #[prost(oneof = "Operand", tags = "4, 6")]
    pub(super) operand: Option<Operand>,
}

impl Compare {
    pub(super) const EQUAL: i32 = 0;
    pub(super) const GREATER: i32 = 1;
    pub(super) const VERSION: i32 = 0;
    pub(super) const MOD: i32 = 2;
}

#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub(super) enum Operand {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
    /// First revision that is wanted; 0: from now on.
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
    /// Whether an idle watch is told now and then how far it is.
    #[prost(bool, tag = "4")]
    pub(super) progress_notify: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    /// Not 0 if what was asked for is compacted; what is left begins here.
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Event {
    /// [`DELETE`](Self::DELETE), or a write.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
}

impl Event {
    pub(super) const DELETE: i32 = 1;
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}
