//! Listening to what becomes of packets.

use crate::client::{AskError, Client};
use crate::{Recorded, Reply};

/// What is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// A packet met a verdict.
    Verdict(Box<Recorded>),
    /// Whatever happens from now on is told; what came before was remembered.
    Listening,
    /// So many verdicts came faster than they were read, and are lost.
    Missed(u64),
}

/// The verdicts of an agent; see [`Client::verdicts`].
#[derive(Debug)]
pub struct Verdicts {
    client: Client,
}

impl Verdicts {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Waits, without a limit, for what comes next. Safe to drop: nothing is lost.
    ///
    /// # Errors
    ///
    /// [`AskError`], if the agent hangs up.
    pub async fn next(&mut self) -> Result<Heard, AskError> {
        match self.client.next_reply().await? {
            Reply::Verdict(recorded) => Ok(Heard::Verdict(recorded)),
            Reply::Listening => Ok(Heard::Listening),
            Reply::Missed { count } => Ok(Heard::Missed(count)),
            other => Err(self.client.strange(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use calico_core::dataplane::VerdictCause;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_wait_that_is_dropped_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let client = Client::connect(&dir.path().join("s")).await.unwrap();
        let (mut agent, _) = listener.accept().await.unwrap();
        let mut verdicts = client.verdicts(true).await.unwrap();
        let mut question = vec![0; 64];
        let read = agent.read(&mut question).await.unwrap();
        assert_eq!(&question[..read], b"{\"ask\":\"verdicts\",\"recent\":true}\n");

        agent.write_all(b"{\"reply\":\"listening\"}\n{\"reply\":\"miss").await.unwrap();
        assert_eq!(verdicts.next().await.unwrap(), Heard::Listening);
        let early = tokio::time::timeout(Duration::from_millis(50), verdicts.next()).await;
        assert!(early.is_err(), "half a line is no answer");
        let rest = r#"ed","count":3}
{"reply":"verdict","verdict":"denied","cause":"spoofed","direction":"egress","interface":"cali1",
"flow":{"source":"10.0.0.1","destination":"10.0.0.2","protocol":6,"source_port":1,"destination_port":2}}
"#;
        let rest = rest.replace(",\n\"flow", ",\"flow");
        agent.write_all(rest.as_bytes()).await.unwrap();
        assert_eq!(verdicts.next().await.unwrap(), Heard::Missed(3));
        let Heard::Verdict(recorded) = verdicts.next().await.unwrap() else { panic!("verdict") };
        assert_eq!((recorded.at, recorded.event.cause), (0, VerdictCause::Spoofed));
        drop(agent);
        assert!(verdicts.next().await.unwrap_err().to_string().contains("closed"));
    }
}
