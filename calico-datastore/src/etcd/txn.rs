//! Writes as transactions of etcd. Pure.

use std::collections::HashSet;

use bytes::Bytes;
use calico_core::datastore::{Expect, Revision, StoreError, Write};

use super::span::revision;
use super::stored::to_stored;
use super::wire::{
    Compare, DeleteRangeRequest, Op, Operand, PutRequest, RangeRequest, RequestOp, TxnRequest,
    TxnResponse,
};

/// Operations that one transaction may have (etcd's default `--max-txn-ops`).
pub(super) const MAX_OPS: usize = 128;

/// Bytes of a transaction of several writes; etcd's default limit is 1.5 MiB.
const MAX_BYTES: usize = 1 << 20;

/// A write that is known to fail once those before it are done, and the object's revision (0:
/// there is none) for which that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) error: StoreError,
    path: Bytes,
    found: i64,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything, at this revision.
    Done(Revision),
    /// Nothing: the write of this index fails.
    Stopped(usize, Stop),
    /// Nothing, and every write could be done now: something changed in the meantime.
    Changed,
    /// Nothing, and nobody asked why.
    Untold,
}

/// How many of `writes` one transaction may carry: at most `limit`, and never the same key twice.
pub(super) fn fits(writes: &[Write], limit: usize) -> usize {
    let (mut keys, mut bytes) = (HashSet::new(), 0);
    let fitting = writes.iter().take(limit).take_while(|write| {
        let path = write.key.to_string();
        // The path stands in the condition, the operation and the question after a failure.
        bytes += write.value.as_ref().map_or(0, |value| value.len()) + 3 * path.len() + 32;
        keys.insert(path) && bytes <= MAX_BYTES
    });
    fitting.count().clamp(1, writes.len().max(1))
}

/// Writes in one transaction of which nobody asks at first why they fail: the question is a third
/// of what many writes send, and mostly for nothing.
const UNASKED: usize = 8;

/// Whether to ask at the first attempt why it failed.
pub(super) const fn asks_at_once(writes: &[Write]) -> bool {
    writes.len() < UNASKED
}

/// All of `writes` or nothing. With `stop`, only if the write that it is about still fails; with
/// `ask`, the answer tells why nothing was done.
pub(super) fn request(writes: &[Write], stop: Option<&Stop>, ask: bool) -> TxnRequest {
    let mut request = TxnRequest::default();
    for write in writes {
        let key = Bytes::from(write.key.to_string());
        request.compare.extend(conditions(&key, write.expect));
        request.success.push(op(match &write.value {
            Some(value) => {
                let value = to_stored(&write.key, value).into_owned().into();
                Op::Put(PutRequest { key: key.clone(), value })
            }
            None => Op::Delete(DeleteRangeRequest { key: key.clone() }),
        }));
        if ask {
            let question = RangeRequest { key, keys_only: true, ..RangeRequest::default() };
            request.failure.push(op(Op::Range(question)));
        }
    }
    request.compare.extend(stop.map(|stop| is_at(&stop.path, stop.found)));
    request
}

/// Reads the answer to [`request`].
pub(super) fn outcome(writes: &[Write], response: &TxnResponse) -> Outcome {
    if response.succeeded {
        return Outcome::Done(revision(response.header.unwrap_or_default().revision));
    }
    if response.responses.is_empty() {
        return Outcome::Untold;
    }
    for (index, (write, answer)) in writes.iter().zip(&response.responses).enumerate() {
        let found = answer.range.as_ref().and_then(|range| range.kvs.first());
        let found = found.map(|kv| kv.mod_revision);
        if let Err(error) = write.check(found.map(revision)) {
            let path = Bytes::from(write.key.to_string());
            return Outcome::Stopped(index, Stop { error, path, found: found.unwrap_or_default() });
        }
    }
    Outcome::Changed
}

fn conditions(key: &Bytes, expect: Expect) -> Vec<Compare> {
    let exists = || Compare {
        result: Compare::GREATER,
        target: Compare::VERSION,
        key: key.clone(),
        operand: Some(Operand::Version(0)),
    };
    match expect {
        Expect::Any => vec![],
        Expect::Absent => vec![is_at(key, 0)],
        Expect::Present => vec![exists()],
        // Revision 0 means absent to etcd; an object is never at it.
        Expect::At(Revision(0)) => vec![exists(), is_at(key, 0)],
        Expect::At(Revision(number)) => {
            vec![is_at(key, i64::try_from(number).unwrap_or(i64::MAX))]
        }
    }
}

fn is_at(key: &Bytes, number: i64) -> Compare {
    Compare {
        result: Compare::EQUAL,
        target: Compare::MOD,
        key: key.clone(),
        operand: Some(Operand::ModRevision(number)),
    }
}

const fn op(op: Op) -> RequestOp {
    RequestOp { op: Some(op) }
}

#[cfg(test)]
mod tests {
    use calico_core::key::Key;

    use super::super::wire::{Header, KeyValue, RangeResponse, ResponseOp};
    use super::*;

    fn handle(name: &str) -> Key {
        Key::Handle(name.into())
    }

    #[test]
    fn a_key_is_written_once_per_transaction() {
        let writes: Vec<Write> =
            ["a", "b", "a", "c"].iter().map(|name| Write::put(handle(name), "1")).collect();
        assert_eq!(fits(&writes, MAX_OPS), 2);
        assert_eq!(fits(&writes[2..], MAX_OPS), 2);
        assert_eq!(fits(&writes, 1), 1);
        assert_eq!(fits(&[], MAX_OPS), 1);
    }

    #[test]
    fn large_writes_go_alone() {
        let large = "x".repeat(MAX_BYTES * 2 / 3);
        let writes: Vec<Write> =
            (0..3).map(|n| Write::put(handle(&n.to_string()), large.as_str())).collect();
        assert_eq!(fits(&writes, MAX_OPS), 1);
        let many: Vec<Write> = (0..300).map(|n| Write::put(handle(&n.to_string()), "1")).collect();
        assert_eq!(fits(&many, MAX_OPS), MAX_OPS);
    }

    #[test]
    fn the_first_write_that_fails_is_told() {
        let writes = [
            Write::create(handle("a"), "1"),
            Write::update(handle("b"), "1", Revision(5)),
            Write::delete(handle("c"), None),
        ];
        let found = |revisions: [i64; 3]| TxnResponse {
            header: Some(Header { cluster_id: 1, revision: 9 }),
            succeeded: false,
            responses: revisions
                .iter()
                .map(|&mod_revision| ResponseOp {
                    range: Some(RangeResponse {
                        kvs: (mod_revision > 0)
                            .then(|| KeyValue { mod_revision, ..KeyValue::default() })
                            .into_iter()
                            .collect(),
                        ..RangeResponse::default()
                    }),
                })
                .collect(),
        };
        let check = |revisions, index, error| match outcome(&writes, &found(revisions)) {
            Outcome::Stopped(at, stop) => assert_eq!((at, stop.error), (index, error)),
            other => panic!("{other:?}"),
        };
        check([3, 6, 0], 0, StoreError::AlreadyExists { key: handle("a") });
        let conflict =
            StoreError::Conflict { key: handle("b"), expected: Revision(5), found: Revision(6) };
        check([0, 6, 0], 1, conflict);
        check([0, 5, 0], 2, StoreError::NotFound { key: handle("c") });
        assert_eq!(outcome(&writes, &found([0, 5, 8])), Outcome::Changed);
        let done = TxnResponse { succeeded: true, ..found([0, 0, 0]) };
        assert_eq!(outcome(&writes, &done), Outcome::Done(Revision(9)));
        let silent = TxnResponse { responses: vec![], ..found([0, 0, 0]) };
        assert_eq!(outcome(&writes, &silent), Outcome::Untold);
        assert!(request(&writes, None, false).failure.is_empty());
    }

    #[test]
    fn no_object_is_at_revision_zero() {
        let request = request(&[Write::update(handle("a"), "1", Revision(0))], None, true);
        assert_eq!(request.compare.len(), 2);
        assert_eq!(request.compare[0].operand, Some(Operand::Version(0)));
    }
}
