//! Asking an agent, over its control socket.

use std::path::Path;
use std::time::Duration;

use calico_control::{Client, Heard, Status};
use calico_core::dataplane::VerdictEvent;
use tokio::time::{Instant, timeout, timeout_at};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the agent with this run directory is.
///
/// # Errors
///
/// In words: it is not there yet, or does not answer.
pub async fn status(run_dir: &Path) -> Result<Status, String> {
    in_time(async { connect(run_dir).await?.status().await.map_err(text) }).await
}

/// Verdicts of an agent, from the moment of [`Verdicts::listen`] on.
#[derive(Debug)]
pub struct Verdicts(calico_control::Verdicts);

impl Verdicts {
    /// Listens at the agent with this run directory.
    ///
    /// # Errors
    ///
    /// In words, as of [`status`].
    pub async fn listen(run_dir: &Path) -> Result<Self, String> {
        in_time(async {
            let mut verdicts = connect(run_dir).await?.verdicts(false).await.map_err(text)?;
            match verdicts.next().await.map_err(text)? {
                Heard::Listening => Ok(Self(verdicts)),
                other => Err(format!("{other:?} came before the agent listens")),
            }
        })
        .await
    }

    /// The next verdict that `wanted` accepts; none if `limit` passes before it comes.
    ///
    /// # Errors
    ///
    /// In words, if the agent hangs up.
    pub async fn find(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&VerdictEvent) -> bool,
    ) -> Result<Option<VerdictEvent>, String> {
        let end = Instant::now() + limit;
        loop {
            let Ok(heard) = timeout_at(end, self.0.next()).await else { return Ok(None) };
            match heard.map_err(text)? {
                Heard::Verdict(recorded) if wanted(&recorded.event) => {
                    return Ok(Some(recorded.event));
                }
                _ => {}
            }
        }
    }
}

async fn connect(run_dir: &Path) -> Result<Client, String> {
    Client::connect(&run_dir.join("control.sock")).await.map_err(text)
}

async fn in_time<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let answer = timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_elapsed| Err(format!("the agent gave no answer in {PATIENCE:?}")))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: calico_control::AskError) -> String {
    error.to_string()
}
