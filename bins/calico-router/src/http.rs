//! A small HTTP server for machines that look after this one: `GET` of a few pages, nothing more.
//! Requests are bounded in length, time and number.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Time for a whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients at a time; more wait.
const CLIENTS: usize = 16;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Status code with its words, such as `200 OK`.
    pub status: &'static str,
    /// Type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Page {
    /// Plain text.
    #[must_use]
    pub const fn text(status: &'static str, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }
}

/// Serves pages by their paths (without the query) until the future is dropped; `None` is a page
/// that does not exist.
pub async fn serve<F, A>(listener: TcpListener, pages: F)
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Option<Page>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(PATIENCE, client(stream, pages)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "HTTP client left"),
                        Err(_elapsed) => debug!("HTTP client was too slow"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept an HTTP client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client<F, A>(mut stream: TcpStream, pages: F) -> io::Result<()>
where
    F: Fn(String) -> A,
    A: Future<Output = Option<Page>>,
{
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            let page = Page::text("431 Request Header Fields Too Large", "too long\n".to_owned());
            return respond(&mut stream, &page, true).await;
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let page = if matches!(method, "GET" | "HEAD") {
        let missing = || Page::text("404 Not Found", format!("there is no page {path}\n"));
        pages(path.clone()).await.unwrap_or_else(missing)
    } else {
        Page::text("405 Method Not Allowed", "only GET and HEAD\n".to_owned())
    };
    respond(&mut stream, &page, method != "HEAD").await
}

async fn respond(stream: &mut TcpStream, page: &Page, with_body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.status,
        page.content_type,
        page.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if with_body {
        stream.write_all(page.body.as_bytes()).await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = |path: String| async move {
            (path == "/x").then(|| Page::text("200 OK", "yes\n".to_owned()))
        };
        let server = tokio::spawn(serve(listener, pages));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A server that refuses before it has read all may reset the connection.
        let _ = stream.read_to_string(&mut answer).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn pages_and_what_is_none() {
        let answer = ask("GET /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nyes\n"));
        let answer = ask("HEAD /x HTTP/1.1\r\n\r\n").await;
        assert!(answer.contains("Content-Length: 4") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(ask("GET /y HTTP/1.1\r\n\r\n").await.contains("404"));
        assert!(ask("POST /x HTTP/1.1\r\n\r\n").await.contains("405"));
        assert_eq!(
            ask("garbage\r\n\r\n").await.lines().next(),
            Some("HTTP/1.1 405 Method Not Allowed")
        );
    }

    #[tokio::test]
    async fn a_request_without_end_is_cut_off() {
        let answer = ask(&"x".repeat(MAX_HEAD)).await;
        assert!(answer.contains("431"), "{answer}");
    }
}
