//! Waiting for a state that can be observed, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::LabError;

/// Between two looks. A lab comes up in seconds, so this is short.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a look did not find the state.
#[derive(Debug)]
pub enum Pending {
    /// It may come: this is how things stand.
    NotYet(String),
    /// It cannot come.
    Failed(LabError),
}

impl From<LabError> for Pending {
    fn from(error: LabError) -> Self {
        Self::Failed(error)
    }
}

/// Looks until `look` finds what it looks for, and at least once.
///
/// # Errors
///
/// [`LabError::Timeout`] after `limit`, with the last look's account; or what `look` failed with.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, Pending>,
) -> Result<T, LabError> {
    let end = Instant::now() + limit;
    loop {
        let last = match look().await {
            Ok(found) => return Ok(found),
            Err(Pending::Failed(error)) => return Err(error),
            Err(Pending::NotYet(last)) => last,
        };
        if Instant::now() >= end {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                limit,
                last,
                logs: String::new(),
            });
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_account_is_in_the_error() {
        let mut looks = 0;
        let outcome: Result<(), _> = until("rain", Duration::from_secs(1), async || {
            looks += 1;
            Err(Pending::NotYet(format!("{looks} clouds")))
        })
        .await;
        let text = outcome.unwrap_err().to_string();
        assert_eq!(text, "rain did not happen within 1 s: 21 clouds");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_come_ends_the_wait() {
        let outcome: Result<(), _> = until("rain", Duration::from_secs(1), async || {
            Err(LabError::Machine("desert".into()).into())
        })
        .await;
        assert_eq!(outcome.unwrap_err().to_string(), "desert");
    }
}
