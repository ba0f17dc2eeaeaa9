//! What can go wrong with a request, and what it means.

use std::time::Duration;

use calico_core::datastore::StoreError;
use kube::core::Status;

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No such object, or no such kind of object.
    NotFound,
    /// The namespace of a new object does not exist.
    NoNamespace,
    AlreadyExists,
    /// The object is at another version.
    Conflict,
    /// The server has forgotten the version that was asked for, or does not know it yet.
    Expired,
    /// The server refuses the object.
    Invalid,
    /// The credentials are not accepted.
    Unauthorized,
    /// Their owner may not do this.
    Forbidden,
    /// The settings, or a certificate: asking again at once does not help.
    Setup,
    /// Later: nothing was done.
    Busy,
    /// The server did not get the request.
    NotSent,
    /// Nobody knows whether it was carried out.
    Lost,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// One line.
    pub(super) reason: String,
    /// How long the server wants to be left alone.
    pub(super) pause: Option<Duration>,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, reason: impl AsRef<str>) -> Self {
        // Servers and proxies may answer with a page of HTML.
        const LONGEST: usize = 600;
        let line = reason.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
        let reason = match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        };
        Self { kind, reason, pause: None }
    }

    /// Whether a request that changes nothing may be sent again.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(self.kind, FailureKind::Busy | FailureKind::NotSent | FailureKind::Lost)
    }

    /// Whether the request was certainly not carried out, and may be later.
    pub(super) const fn is_harmless(&self) -> bool {
        matches!(self.kind, FailureKind::Busy | FailureKind::NotSent)
    }

    /// The failure of a request that is not about a certain object.
    pub(super) fn into_error(self) -> StoreError {
        let Self { kind, reason, .. } = self;
        match kind {
            FailureKind::Unauthorized => StoreError::Denied {
                reason: format!(
                    "the Kubernetes API server does not accept the credentials ({reason}); a \
                     token or certificate may have expired"
                ),
            },
            FailureKind::Forbidden => StoreError::Denied { reason },
            FailureKind::Invalid => StoreError::BadObject { path: String::new(), reason },
            _ => StoreError::Unavailable { reason },
        }
    }

    pub(super) fn of_status(status: &Status) -> Self {
        let message = if status.message.is_empty() { &status.reason } else { &status.message };
        let details = status.details.as_ref();
        let of_namespace = details.is_some_and(|details| details.kind == "namespaces");
        let kind = match (status.code, status.reason.as_str()) {
            (404, "NotFound") if of_namespace => FailureKind::NoNamespace,
            (404, _) => FailureKind::NotFound,
            (409, "AlreadyExists") => FailureKind::AlreadyExists,
            (409, _) => FailureKind::Conflict,
            (410, _) => FailureKind::Expired,
            // "Too large resource version": the server has not come that far.
            (504, _) if message.contains("oo large resource version") => FailureKind::Expired,
            (401, _) => FailureKind::Unauthorized,
            (403, _) => FailureKind::Forbidden,
            (400 | 405 | 406 | 413 | 415 | 422, _) => FailureKind::Invalid,
            (429, _) => FailureKind::Busy,
            _ => FailureKind::Lost,
        };
        let message = match (status.code, message.as_str()) {
            (code, "") => format!("the Kubernetes API server answers with status {code}"),
            (code, text) if code >= 500 => {
                format!("the Kubernetes API server answers with status {code}: {text}")
            }
            (_, text) => text.to_owned(),
        };
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        let pause = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { pause, ..Self::new(kind, message) }
    }

    /// A failure of the client, of a request to `server`.
    pub(super) fn of_client(server: &str, error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status);
        }
        // What the layers say is "error sending request", one after the other; the cause is last.
        let mut cause: &dyn std::error::Error = error;
        let mut connecting = false;
        while let Some(next) = cause.source() {
            connecting |= cause.to_string().contains("(Connect)");
            cause = next;
        }
        let kind = match error {
            kube::Error::Auth(_) => FailureKind::Unauthorized,
            _ if cause.to_string().contains("certificate") => FailureKind::Setup,
            _ if connecting => FailureKind::NotSent,
            _ => FailureKind::Lost,
        };
        Self::new(kind, format!("{server}: {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Failure {
        Failure::of_status(&Status::failure(message, reason).with_code(code))
    }

    #[test]
    fn answers_are_sorted_by_what_to_do() {
        let check = |code, reason, message: &str, kind| {
            assert_eq!(status(code, reason, message).kind, kind, "{code} {reason}");
        };
        check(404, "NotFound", "", FailureKind::NotFound);
        check(409, "AlreadyExists", "", FailureKind::AlreadyExists);
        check(409, "Conflict", "", FailureKind::Conflict);
        check(410, "Expired", "too old resource version", FailureKind::Expired);
        check(504, "Timeout", "Too large resource version: 9", FailureKind::Expired);
        check(504, "Timeout", "", FailureKind::Lost);
        check(401, "Unauthorized", "Unauthorized", FailureKind::Unauthorized);
        check(403, "Forbidden", "", FailureKind::Forbidden);
        check(422, "Invalid", "", FailureKind::Invalid);
        check(429, "TooManyRequests", "", FailureKind::Busy);
        check(500, "InternalError", "", FailureKind::Lost);
    }

    #[test]
    fn reasons_are_one_line() {
        let page = format!("<html>\n{}</html>", "x ".repeat(10_000));
        let failure = status(502, "", &page);
        assert!(failure.reason.len() < 700 && !failure.reason.contains('\n'));
        assert!(failure.reason.contains("502"), "{}", failure.reason);
    }
}
