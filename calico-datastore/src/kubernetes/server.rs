//! Requests to the API server: one client, its limits, and repetitions.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calico_core::datastore::StoreError;
use futures_util::io::{AsyncBufRead, AsyncBufReadExt as _};
use http::{Method, Request};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::connect;
use super::failure::{Failure, FailureKind};
use super::source::{Optional, Source, What};
use crate::config::KubernetesConfig;
use crate::conversion::ApiGroup;
use crate::joint::Joint;

/// Time for an answer: the server checks large objects for many seconds.
const REQUEST: Duration = Duration::from_secs(30);
/// Time for repetitions while the server answers that it is busy, or breaks off.
const REPEAT: Duration = Duration::from_secs(8);
/// Time for repetitions while nothing takes connections. Who waits for a pod's network is told
/// soon and comes again; a server that another takes the place of is passed over by then.
const NOBODY: Duration = Duration::from_secs(2);
/// Pauses between repetitions grow from here to there.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// Credentials that were refused are read again, but not more often than this.
const RENEWAL: Duration = Duration::from_secs(5);
/// Longest event of a watch: the server refuses larger objects by far.
const LONGEST_LINE: usize = 32 << 20;

/// The API server that the settings name.
pub(super) struct Server {
    pub(super) settings: KubernetesConfig,
    client: Joint<Client, Failure>,
    found: Joint<Found, Failure>,
    bucket: Mutex<(f32, Instant)>,
}

/// The client, and what to call its server.
#[derive(Clone)]
struct Client {
    client: kube::Client,
    server: String,
    made: Instant,
}

/// What a cluster has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The group of the custom resources.
    pub(super) group: ApiGroup,
    /// What else there is.
    pub(super) optional: Optional,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A change of an object.
pub(super) struct Change<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) content_type: &'a str,
    pub(super) body: String,
}

impl Server {
    pub(super) fn new(settings: KubernetesConfig) -> Result<Self, StoreError> {
        settings.check().map_err(|reason| StoreError::Settings { reason })?;
        Ok(Self {
            settings,
            client: Joint::default(),
            found: Joint::default(),
            bucket: Mutex::new((f32::INFINITY, Instant::now())),
        })
    }

    /// Which group the cluster uses.
    pub(super) async fn found(self: &Arc<Self>) -> Result<Found, Failure> {
        let server = Arc::clone(self);
        self.found.get(|| async move { server.discover().await }).await
    }

    async fn discover(&self) -> Result<Found, Failure> {
        #[derive(Deserialize)]
        struct Groups {
            groups: Vec<Group>,
        }
        #[derive(Deserialize)]
        struct Group {
            name: String,
            #[serde(default)]
            versions: Vec<Version>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            group_version: String,
        }
        let text = self.get("/apis".to_owned()).await?;
        let Groups { groups } = serde_json::from_str(&text).map_err(|error| {
            Failure::new(FailureKind::Lost, format!("the answer is no Kubernetes API's: {error}"))
        })?;
        let has = |version: &str| {
            groups.iter().flat_map(|group| &group.versions).any(|v| v.group_version == version)
        };
        let there = |group: &ApiGroup| groups.iter().any(|found| found.name == group.name());
        let group = match self.settings.api_group {
            Some(group) => group,
            // An aggregated API server offers the newer group, too: it is a view of the older.
            None => ApiGroup::ALL.into_iter().find(there).ok_or_else(|| {
                Failure::new(
                    FailureKind::Lost,
                    "the cluster has neither crd.projectcalico.org nor projectcalico.org; install \
                     Calico's CustomResourceDefinitions",
                )
            })?,
        };
        let older = has("policy.networking.k8s.io/v1alpha1");
        let optional = Optional {
            cluster_policies: has("policy.networking.k8s.io/v1alpha2"),
            admin_policies: older && self.serves(What::AdminPolicies, group).await?,
            baseline_policies: older && self.serves(What::BaselinePolicies, group).await?,
            migrations: has("kubevirt.io/v1") && self.serves(What::Migrations, group).await?,
        };
        Ok(Found { group, optional })
    }

    /// Whether a collection that not every cluster has can be read here. One that may not be
    /// read is named, and done without: it must not keep everything else from being seen.
    async fn serves(&self, what: What, group: ApiGroup) -> Result<bool, Failure> {
        let path = Source::all(what).collection(group);
        match self.get(format!("{path}?limit=1")).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(false),
            Err(failure) if failure.kind == FailureKind::Forbidden => {
                let reason = failure.reason;
                tracing::warn!(path, reason, "left out, for want of a permission to list them");
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn client(&self) -> Result<(kube::Client, String), Failure> {
        let made = self.client.get(|| connect(self.settings.clone()));
        let Client { client, server, .. } = made.await?;
        Ok((client, server))
    }

    /// Lets the credentials be read again: they may have been renewed.
    fn refused(&self) {
        self.client.forget_if(|client| client.made.elapsed() > RENEWAL);
    }

    /// Reads something.
    pub(super) async fn get(&self, path: String) -> Result<String, Failure> {
        let change = Change { method: Method::GET, path, content_type: "", body: String::new() };
        self.repeated(&change, Failure::is_passing).await
    }

    /// Changes something. It is sent again only if it certainly was not carried out.
    pub(super) async fn change(&self, change: &Change<'_>) -> Result<String, Failure> {
        self.repeated(change, Failure::is_harmless).await
    }

    async fn repeated(
        &self,
        change: &Change<'_>,
        again: fn(&Failure) -> bool,
    ) -> Result<String, Failure> {
        let start = Instant::now();
        let mut pause = SHORTEST;
        loop {
            let failure = match timeout(REQUEST, self.once(change)).await {
                Ok(Ok(text)) => return Ok(text),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let reason = format!("no answer within {} s", REQUEST.as_secs());
                    return Err(Failure::new(FailureKind::Lost, reason));
                }
            };
            if failure.kind == FailureKind::Unauthorized {
                self.refused();
            }
            let wait = failure.pause.unwrap_or(pause);
            let patience = if failure.kind == FailureKind::NotSent { NOBODY } else { REPEAT };
            if !again(&failure) || start.elapsed() + wait > patience {
                return Err(failure);
            }
            tracing::debug!(reason = failure.reason, "asking the API server again");
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    async fn once(&self, change: &Change<'_>) -> Result<String, Failure> {
        let (client, server) = self.client().await?;
        let mut request = Request::builder().method(change.method.clone()).uri(&change.path);
        if !change.content_type.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, change.content_type);
        }
        let request = request
            .body(change.body.clone().into_bytes())
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        self.throttle().await;
        client.request_text(request).await.map_err(|error| Failure::of_client(&server, &error))
    }

    /// Opens a watch.
    pub(super) async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let open = async {
            let (client, server) = self.client().await?;
            let request = Request::get(path)
                .body(Vec::new())
                .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
            self.throttle().await;
            let opened = client.request_stream(request).await;
            opened.map_err(|error| Failure::of_client(&server, &error))
        };
        match timeout(REQUEST, open).await {
            Ok(Ok(body)) => Ok(Lines { body: Box::pin(body), line: Vec::new() }),
            Ok(Err(failure)) => {
                if failure.kind == FailureKind::Unauthorized {
                    self.refused();
                }
                Err(failure)
            }
            Err(_) => Err(Failure::new(FailureKind::Lost, "no answer to a watch")),
        }
    }

    /// Waits until the settings allow another request.
    async fn throttle(&self) {
        let qps = self.settings.qps;
        if qps <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "bursts are small")]
        let burst = if self.settings.burst == 0 { 100.0 } else { self.settings.burst as f32 };
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            let filled = bucket.0 + now.duration_since(bucket.1).as_secs_f32() * qps;
            *bucket = (filled.min(burst) - 1.0, now);
            (-bucket.0).max(0.0) / qps
        };
        if wait > 0.0 {
            sleep(Duration::from_secs_f32(wait)).await;
        }
    }
}

async fn connect(settings: KubernetesConfig) -> Result<Client, Failure> {
    let unusable = |reason: String| Failure::new(FailureKind::Setup, reason);
    let config = connect::client_config(&settings).await.map_err(unusable)?;
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = kube::Client::try_from(config).map_err(|e| Failure::of_client(&server, &e))?;
    Ok(Client { client, server, made: Instant::now() })
}

/// The lines of an answer that does not end.
pub(super) struct Lines {
    body: Pin<Box<dyn AsyncBufRead + Send>>,
    line: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at the end. May be dropped and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let (used, ended) = {
                let available = self.body.fill_buf().await?;
                if available.is_empty() {
                    return Ok(None);
                }
                let end = available.iter().position(|byte| *byte == b'\n');
                let used = end.map_or(available.len(), |end| end + 1);
                self.line.extend_from_slice(&available[..used]);
                (used, end.is_some())
            };
            self.body.as_mut().consume(used);
            if self.line.len() > LONGEST_LINE {
                return Err(io::Error::other("an event is too long"));
            }
            if ended {
                let line = std::mem::take(&mut self.line);
                return String::from_utf8(line).map(Some).map_err(io::Error::other);
            }
        }
    }
}
