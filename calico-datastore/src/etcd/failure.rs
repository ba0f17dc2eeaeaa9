//! What failed calls mean.

use std::error::Error;

use calico_core::datastore::StoreError;
use calico_core::key::Key;
use tonic::{Code, ConnectError, Status};

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// What happened; part of a sentence.
    pub(super) reason: String,
}

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// It reached no server: another one may take it.
    NotSent,
    /// The cluster is not ready, and has not carried it out: the same call may succeed soon.
    NotReady,
    /// Nobody knows whether it was carried out.
    Lost,
    /// The token is no longer good.
    Token,
    /// The revision asked for is forgotten.
    Compacted,
    /// The request is too large for the server, or its answer for us.
    TooLarge,
    /// The cluster has no room; a person has to make some.
    Full,
    /// The credentials are wrong, or do not suffice.
    Denied,
    /// The cluster knows that its data is damaged.
    Corrupt,
    /// The server does not understand the request.
    Refused,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// Whether another endpoint, or the same one later, may answer where this one did not.
    pub(super) const fn is_of_endpoint(&self) -> bool {
        matches!(self.kind, FailureKind::NotSent | FailureKind::NotReady | FailureKind::Lost)
    }

    /// The error for a caller who reads.
    pub(super) fn into_error(self) -> StoreError {
        let reason = self.reason;
        match self.kind {
            FailureKind::Denied | FailureKind::Token => StoreError::Denied { reason },
            FailureKind::Corrupt => StoreError::Corrupt { reason },
            FailureKind::Refused => StoreError::Unsupported { what: reason },
            _ => StoreError::Unavailable { reason },
        }
    }

    /// The error for a caller who writes `key`, among others.
    pub(super) fn into_write_error(self, key: &Key) -> StoreError {
        match self.kind {
            FailureKind::TooLarge => StoreError::bad_object(
                key,
                &format!("{}; etcd's --max-request-bytes is the limit", self.reason),
            ),
            FailureKind::Lost => StoreError::Unavailable {
                reason: format!("{}; the write may or may not have happened", self.reason),
            },
            _ => self.into_error(),
        }
    }
}

/// Says what a status means. etcd tells most failures apart by text only.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message();
        let own = message.strip_prefix("etcdserver: ");
        let kind = match (status.code(), own.unwrap_or(message)) {
            (Code::OutOfRange, text) if text.contains("compacted") => FailureKind::Compacted,
            (Code::OutOfRange | Code::ResourceExhausted, text)
                if text.contains("too large") || text.contains("larger than max") =>
            {
                FailureKind::TooLarge
            }
            (
                Code::InvalidArgument,
                "request is too large" | "too many operations in txn request",
            ) => FailureKind::TooLarge,
            (Code::ResourceExhausted, "too many requests")
            | (Code::Unavailable, "no leader" | "not capable" | "rpc not supported for learner") => {
                FailureKind::NotReady
            }
            (Code::ResourceExhausted, _) => FailureKind::Full,
            (Code::Unauthenticated, _) | (_, "revision of auth store is old") => FailureKind::Token,
            (Code::PermissionDenied, _) => FailureKind::Denied,
            (Code::InvalidArgument, text)
                if text.starts_with("authentication failed") || text == "user name is empty" =>
            {
                FailureKind::Denied
            }
            (Code::DataLoss, _) => FailureKind::Corrupt,
            (Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented, _) => {
                FailureKind::Refused
            }
            _ if connects(&status) => FailureKind::NotSent,
            _ => FailureKind::Lost,
        };
        Self { kind, reason: explain(&status, own) }
    }
}

/// Whether the connection itself could not be made.
fn connects(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |error: &&(dyn Error + 'static)| (*error).source())
}

fn explain(status: &Status, own: Option<&str>) -> String {
    match own {
        Some("user name is empty") => "etcd asks for a user name and password".to_owned(),
        Some("mvcc: database space exceeded") => {
            "etcd's database is full; compact and defragment it, or raise \
             --quota-backend-bytes, then disarm its NOSPACE alarm"
                .to_owned()
        }
        Some(text) => format!("etcd says: {text}"),
        None if status.code() == Code::Unimplemented => {
            "this is no etcd v3 server: it does not know the method".to_owned()
        }
        None => {
            // The innermost cause is what the kernel or the TLS library said; the layers above
            // say "transport error" and the like.
            let innermost = causes(status).last().map(ToString::to_string);
            let text = innermost.unwrap_or_else(|| status.message().to_owned());
            match status.message() {
                message if message.is_empty() || message.contains(&text) => text,
                message if text.is_empty() => message.to_owned(),
                _ => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Code, message: &str, expected: FailureKind) {
        assert_eq!(Failure::from(Status::new(code, message)).kind, expected, "{message}");
    }

    #[test]
    fn what_etcd_says_is_understood() {
        use FailureKind::*;
        check(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
            Compacted,
        );
        check(Code::InvalidArgument, "etcdserver: request is too large", TooLarge);
        check(Code::InvalidArgument, "etcdserver: too many operations in txn request", TooLarge);
        check(
            Code::OutOfRange,
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
            TooLarge,
        );
        check(
            Code::ResourceExhausted,
            "grpc: received message larger than max (2097289 vs. 2097152)",
            TooLarge,
        );
        check(Code::ResourceExhausted, "etcdserver: too many requests", NotReady);
        check(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Full);
        check(Code::Unavailable, "etcdserver: no leader", NotReady);
        check(Code::Unavailable, "etcdserver: request timed out", Lost);
        check(Code::Unavailable, "etcdserver: leader changed", Lost);
        check(Code::Unauthenticated, "etcdserver: invalid auth token", Token);
        check(Code::InvalidArgument, "etcdserver: revision of auth store is old", Token);
        check(Code::InvalidArgument, "etcdserver: user name is empty", Denied);
        check(
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
            Denied,
        );
        check(Code::PermissionDenied, "etcdserver: permission denied", Denied);
        check(Code::DataLoss, "etcdserver: corrupt cluster", Corrupt);
        check(Code::Unimplemented, "", Refused);
        check(Code::Unknown, "transport error", Lost);
    }
}
