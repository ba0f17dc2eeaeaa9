//! Readiness gates: URLs that must answer before a pod is attached.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::spec::{CniError, Code};

/// Time between two questions, and how long to go on. Upstream's values.
const INTERVAL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits until each URL answers with a status from 200 to 299.
///
/// # Errors
///
/// Code 11 names the one that does not; code 2 one that is not `http://`.
pub(super) async fn wait(urls: &[String]) -> Result<(), CniError> {
    let started = Instant::now();
    for url in urls {
        let target = Target::parse(url)?;
        loop {
            let reason = match timeout(ANSWER, target.ask()).await {
                Ok(Ok(200..=299)) => break,
                Ok(Ok(status)) => format!("it answers with status {status}"),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "it does not answer".to_owned(),
            };
            if started.elapsed() + INTERVAL > PATIENCE {
                let message = format!("the readiness gate {url} is not open");
                return Err(CniError::new(Code::TryAgain, message).details(reason));
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    authority: &'a str,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn parse(url: &'a str) -> Result<Self, CniError> {
        let bad = |details: &str| {
            let message = format!("the readiness gate {url:?} cannot be used");
            Err(CniError::new(Code::UnsupportedField, message).details(details))
        };
        let Some(rest) = url.strip_prefix("http://") else {
            return bad("only http:// is possible");
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad("a URL has no spaces or control characters");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() {
            return bad("it names no host");
        }
        Ok(Self { authority, path: if path.is_empty() { "/" } else { path } })
    }

    /// The status of one GET, by HTTP 1.0 (RFC 1945): one line is all that is read.
    async fn ask(&self) -> std::io::Result<u16> {
        let port = self.authority.rsplit(']').next().unwrap_or_default().contains(':');
        let address =
            if port { self.authority.to_owned() } else { format!("{}:80", self.authority) };
        let mut stream = TcpStream::connect(address).await?;
        let Self { authority, path } = self;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        let status = std::str::from_utf8(&head)
            .ok()
            .and_then(|head| head.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok());
        status.ok_or_else(|| std::io::Error::other("it does not speak HTTP"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn server(answer: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 256];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /ready HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn an_open_gate_lets_through_and_a_closed_one_is_named() {
        let open = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        wait(std::slice::from_ref(&open)).await.unwrap();
        for (url, words) in [
            (server("HTTP/1.1 503 no\r\n\r\n").await, "status 503"),
            (server("what do you want").await, "HTTP"),
        ] {
            let target = Target::parse(&url).unwrap();
            let text = match target.ask().await {
                Ok(status) => format!("status {status}"),
                Err(error) => error.to_string(),
            };
            assert!(text.contains(words), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        // Port 1 of the loopback: nobody listens there.
        let started = Instant::now();
        let error = wait(&["http://127.0.0.1:1/x".to_owned()]).await.unwrap_err();
        assert_eq!(error.code, Code::TryAgain);
        assert!(started.elapsed() <= PATIENCE, "{:?}", started.elapsed());
    }

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("http://[::1]:80/a?b").unwrap();
        assert_eq!(target, Target { authority: "[::1]:80", path: "/a?b" });
        assert_eq!(Target::parse("http://host").unwrap().path, "/");
        for bad in ["https://host/", "host", "http:///x", "http://a b/", "http://a/\r\nX: y"] {
            assert_eq!(Target::parse(bad).unwrap_err().code, Code::UnsupportedField, "{bad}");
        }
    }
}
