//! Staying logged in.

use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::Channel;

use super::endpoint::Line;
use super::failure::{Failure, FailureKind};
use super::rpc::{self, Ask as _, Call, Token};
use super::wire::AuthenticateRequest;
use crate::config::EtcdConfig;
use crate::joint::Joint;

/// What etcd gives for our name and password.
pub(super) struct Login {
    /// `None` if we have no name.
    request: Option<AuthenticateRequest>,
    /// `None` from a cluster that asks for no password.
    token: Joint<Option<Token>, Failure>,
    /// Time for an answer.
    patience: Duration,
}

impl Login {
    pub(super) fn new(config: &EtcdConfig) -> Self {
        let password = config.password.as_ref().map(|password| password.reveal().to_owned());
        let request = config
            .username
            .clone()
            .map(|name| AuthenticateRequest { name, password: password.unwrap_or_default() });
        Self { request, token: Joint::default(), patience: config.request_timeout() }
    }

    /// The token to use: a new one, if the one at hand is `stale`.
    pub(super) async fn token(
        &self,
        line: &Line,
        stale: Option<Token>,
    ) -> Result<Option<Token>, Failure> {
        let Some(request) = &self.request else { return Ok(None) };
        if let Some(token) = self.token.made()
            && (stale.is_none() || token != stale)
        {
            return Ok(token);
        }
        // By each connection on its own: one may be silent while another works.
        let ask = || authenticate(line.channel.clone(), request.clone(), self.patience);
        self.token.make(line.generation, ask).await
    }
}

async fn authenticate(
    channel: Channel,
    request: AuthenticateRequest,
    patience: Duration,
) -> Result<Option<Token>, Failure> {
    let call = Call { method: &rpc::AUTHENTICATE, request: &request };
    // Nothing that the caller wanted was sent.
    let lost = |reason: String| Failure::new(FailureKind::NotSent, reason);
    match timeout(patience, call.ask(channel, None)).await {
        Ok(Ok(answer)) => {
            let mut token: Token = answer.token.parse().map_err(|error| {
                Failure::new(FailureKind::Refused, format!("etcd's token is no header: {error}"))
            })?;
            token.set_sensitive(true);
            Ok(Some(token))
        }
        // A password for a cluster that asks for none is no error, as in upstream's client.
        Ok(Err(status)) if status.message().contains("authentication is not enabled") => Ok(None),
        Ok(Err(status)) => Err(match Failure::from(status) {
            Failure { kind: FailureKind::Lost, reason } => lost(reason),
            failure => failure,
        }),
        Err(_) => Err(lost(format!("no answer to a login within {} ms", patience.as_millis()))),
    }
}
