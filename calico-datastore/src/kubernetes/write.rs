//! Writing: one request for each object, whose answer decides.

use std::time::Duration;

use calico_core::datastore::{Expect, Revision, StoreError, Write};
use calico_core::key::Key;
use calico_core::kind::Kind;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Inner;
use super::failure::{Failure, FailureKind};
use super::listing::now;
use super::reading::{Read, Reading, revision};
use super::server::Change;
use super::source::{Source, What};
use crate::conversion::{custom, ipam};

/// Attempts at an object that others write at the same time, where the caller expects nothing.
const TRIES: u32 = 30;

const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";

/// A custom resource on its way.
struct Custom<'a> {
    inner: &'a Inner,
    reading: &'a Reading,
    source: Source,
    write: &'a Write,
}

/// What is stored now, as far as a writer must know.
struct Stored {
    revision: Revision,
    uid: String,
    /// The whole object.
    object: Value,
}

/// Carries out a write of a custom resource.
pub(super) async fn custom_resource(
    inner: &Inner,
    reading: &Reading,
    source: Source,
    write: &Write,
) -> Result<Revision, StoreError> {
    let mut custom = Custom { inner, reading, source, write };
    match (&write.value, write.expect) {
        (Some(value), Expect::Absent) => custom.create(value).await,
        (Some(value), Expect::At(expected)) => custom.update(value, expected).await,
        (Some(value), expect) => custom.put(value, expect == Expect::Any).await,
        (None, expect) => custom.delete(expect).await,
    }
}

impl Custom<'_> {
    fn key(&self) -> Key {
        self.write.key.clone()
    }

    fn not_found(&self) -> StoreError {
        StoreError::NotFound { key: self.key() }
    }

    /// The object to send, without a version.
    fn object(&self, value: &str) -> Result<Value, StoreError> {
        let (group, key) = (self.reading.group, &self.write.key);
        let made = match self.source.what {
            What::Ipam(_) => ipam::to_custom(group, key, value),
            _ => custom::to_custom(group, key, self.source.name.as_deref(), value),
        };
        made.map_err(|reason| StoreError::bad_object(key, &reason))
    }

    async fn create(&mut self, value: &str) -> Result<Revision, StoreError> {
        let object = self.object(value)?;
        for first in [true, false] {
            let path = self.source.collection(self.reading.group);
            match self.send(Method::POST, path, &object).await {
                Ok(made) => return self.status(&object, made).await,
                // What another left half deleted is not there.
                Err(failure) if first && failure.kind == FailureKind::AlreadyExists => {
                    match self.stored().await? {
                        Some(stored) if self.is_hidden(&stored) => self.finish(&stored).await?,
                        _ => return Err(StoreError::AlreadyExists { key: self.key() }),
                    }
                }
                // It is the collection that is not there.
                Err(failure) if failure.kind == FailureKind::NotFound => {
                    let collection = self.source.collection(self.reading.group);
                    let plural = collection.rsplit('/').next().unwrap_or_default();
                    return Err(StoreError::Unsupported {
                        what: format!(
                            "the cluster has no {plural} of {}; install Calico's \
                             CustomResourceDefinitions",
                            self.reading.group
                        ),
                    });
                }
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(StoreError::AlreadyExists { key: self.key() })
    }

    async fn update(&mut self, value: &str, expected: Revision) -> Result<Revision, StoreError> {
        let mut object = self.object(value)?;
        if expected.0 == 0 {
            // No object is at that version; to the server it would mean any.
            return Err(self.at_another(expected).await);
        }
        object["metadata"]["resourceVersion"] = expected.to_string().into();
        for first in [true, false] {
            let path = self.source.object(self.reading.group);
            match self.send(Method::PUT, path, &object).await {
                Ok(made) => return self.status(&object, made).await,
                Err(failure) if failure.kind == FailureKind::Conflict => {
                    return Err(self.at_another(expected).await);
                }
                Err(failure) if first && failure.kind == FailureKind::NotFound => {
                    // Policies of before are stored under another name.
                    let Some(older) = self.source.older(self.reading.group) else {
                        return Err(self.not_found());
                    };
                    self.source = older;
                    object["metadata"]["name"] = self.source.name.clone().into();
                }
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(self.not_found())
    }

    async fn put(&mut self, value: &str, create: bool) -> Result<Revision, StoreError> {
        for attempt in 0..TRIES {
            let result = match self.stored().await? {
                Some(stored) if !self.is_hidden(&stored) => {
                    self.update(value, stored.revision).await
                }
                _ if create => self.create(value).await,
                _ => Err(self.not_found()),
            };
            match result {
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_not_found() && create => {}
                result => return result,
            }
            sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
        }
        Err(StoreError::Unavailable { reason: format!("others keep writing {}", self.write.key) })
    }

    async fn delete(&mut self, expect: Expect) -> Result<Revision, StoreError> {
        for attempt in 0..TRIES {
            let mut stored = match self.stored().await? {
                Some(stored) if self.is_hidden(&stored) => {
                    self.finish(&stored).await?;
                    return Err(self.not_found());
                }
                Some(stored) => stored,
                None => return Err(self.not_found()),
            };
            self.write.check(Some(stored.revision))?;
            // IPAM's objects are marked first, so that nobody takes an old copy for a living one.
            if matches!(self.source.what, What::Ipam(kind) if kind != Kind::IpamConfiguration) {
                let word = stored.object["spec"]["deleted"].is_string();
                let marked = if word { Value::from("true") } else { true.into() };
                // The older group's affinities have a word even where it is missing.
                let older = self.source.what == What::Ipam(Kind::BlockAffinity)
                    && self.reading.group == custom::ApiGroup::Crd;
                stored.object["spec"]["deleted"] = if older { Value::from("true") } else { marked };
                let path = self.source.object(self.reading.group);
                match self.send(Method::PUT, path, &stored.object).await {
                    Ok(made) => stored.revision = version(&made).map_err(|e| self.bad(&e))?,
                    Err(failure) if failure.kind == FailureKind::NotFound => {
                        return Err(self.not_found());
                    }
                    Err(failure) if failure.kind == FailureKind::Conflict => {
                        if let Expect::At(expected) = expect {
                            return Err(self.at_another(expected).await);
                        }
                        sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
                        continue;
                    }
                    Err(failure) => return Err(self.error(failure)),
                }
            }
            match self.remove(&stored).await {
                Ok(()) => return self.after().await,
                Err(failure) if failure.kind == FailureKind::NotFound => {
                    return Err(self.not_found());
                }
                Err(failure) if failure.kind == FailureKind::Conflict => {
                    if let Expect::At(expected) = expect {
                        return Err(self.at_another(expected).await);
                    }
                    sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
                }
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(StoreError::Unavailable { reason: format!("others keep writing {}", self.write.key) })
    }

    /// A revision at which the object is gone. The server does not tell the deletion's own.
    async fn after(&self) -> Result<Revision, StoreError> {
        let now = now(&self.inner.server, &self.source, self.reading).await;
        now.map_err(Failure::into_error)
    }

    /// Writes the status, which the server takes by itself only.
    async fn status(&self, wanted: &Value, made: String) -> Result<Revision, StoreError> {
        let made: Value = serde_json::from_str(&made).map_err(|error| self.bad(&error))?;
        let of_kind = matches!(self.source.what, What::Custom(_));
        let status = wanted.get("status").filter(|status| of_kind && !is_empty(status));
        let Some(status) = status.filter(|status| made.get("status") != Some(*status)) else {
            return version_of(&made).map_err(|error| self.bad(&error));
        };
        let mut object = made;
        object["status"] = status.clone();
        let mut source = self.source.clone();
        source.name = object["metadata"]["name"].as_str().map(str::to_owned);
        let path = format!("{}/status", source.object(self.reading.group));
        match self.send(Method::PUT, path, &object).await {
            Ok(made) => version(&made).map_err(|error| self.bad(&error)),
            // No such thing there: the status was taken along.
            Err(failure) if failure.kind == FailureKind::NotFound => {
                version_of(&object).map_err(|error| self.bad(&error))
            }
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// Sends an object. A field that the server would silently drop is an error, except in IPAM's
    /// data: that must work with older custom resources, too.
    async fn send(&self, method: Method, path: String, object: &Value) -> Result<String, Failure> {
        let strict = matches!(self.source.what, What::Custom(_));
        let validation = if strict { "Strict" } else { "Ignore" };
        let path = format!("{path}?fieldManager=calico&fieldValidation={validation}");
        let change = Change { method, path, content_type: JSON, body: object.to_string() };
        self.inner.server.change(&change).await
    }

    async fn remove(&self, stored: &Stored) -> Result<(), Failure> {
        let preconditions =
            json!({"uid": stored.uid, "resourceVersion": stored.revision.to_string()});
        let body =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
        let change = Change {
            method: Method::DELETE,
            path: self.source.object(self.reading.group),
            content_type: JSON,
            body: body.to_string(),
        };
        self.inner.server.change(&change).await.map(drop)
    }

    /// Ends a deletion that another began.
    async fn finish(&self, stored: &Stored) -> Result<(), StoreError> {
        match self.remove(stored).await {
            Ok(()) => Ok(()),
            Err(failure) => match failure.kind {
                FailureKind::NotFound | FailureKind::Conflict => Ok(()),
                _ => Err(self.error(failure)),
            },
        }
    }

    fn is_hidden(&self, stored: &Stored) -> bool {
        let text = stored.object.to_string();
        matches!(self.source.read(&text, self.reading), Ok(Read::Hidden(_)))
    }

    /// What the server has; policies of before are found under their older name.
    async fn stored(&mut self) -> Result<Option<Stored>, StoreError> {
        let mut text = self.inner.server.get(self.source.object(self.reading.group)).await;
        if let (Err(failure), Some(older)) = (&text, self.source.older(self.reading.group))
            && failure.kind == FailureKind::NotFound
        {
            match self.inner.server.get(older.object(self.reading.group)).await {
                Ok(found) => (text, self.source) = (Ok(found), older),
                Err(failure) => text = Err(failure),
            }
        }
        let text = match text {
            Ok(text) => text,
            Err(failure) if failure.kind == FailureKind::NotFound => return Ok(None),
            Err(failure) => return Err(self.error(failure)),
        };
        let object: Value = serde_json::from_str(&text).map_err(|error| self.bad(&error))?;
        let revision = version_of(&object).map_err(|error| self.bad(&error))?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(Some(Stored { revision, uid, object }))
    }

    /// The object is not at the version that was expected: which one it is at.
    async fn at_another(&mut self, expected: Revision) -> StoreError {
        match self.stored().await {
            Ok(Some(stored)) if !self.is_hidden(&stored) => {
                StoreError::Conflict { key: self.key(), expected, found: stored.revision }
            }
            Ok(_) => self.not_found(),
            Err(error) => error,
        }
    }

    fn bad(&self, reason: &dyn std::fmt::Display) -> StoreError {
        StoreError::bad_object(&self.write.key, reason)
    }

    fn error(&self, failure: Failure) -> StoreError {
        of_object(&self.write.key, failure)
    }
}

/// The failure of a request about one object.
pub(super) fn of_object(key: &Key, failure: Failure) -> StoreError {
    match failure.kind {
        FailureKind::NotFound => StoreError::NotFound { key: key.clone() },
        FailureKind::AlreadyExists => StoreError::AlreadyExists { key: key.clone() },
        FailureKind::Invalid => StoreError::bad_object(key, &failure.reason),
        FailureKind::NoNamespace => {
            StoreError::bad_object(key, &format!("{}; create the namespace first", failure.reason))
        }
        _ => failure.into_error(),
    }
}

fn version(text: &str) -> Result<Revision, String> {
    version_of(&serde_json::from_str(text).map_err(|error| error.to_string())?)
}

pub(super) fn version_of(object: &Value) -> Result<Revision, String> {
    revision(object["metadata"]["resourceVersion"].as_str().unwrap_or_default())
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}
