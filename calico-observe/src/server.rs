//! Answers requests for pages.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::Tls;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 32;

/// Time for a request to arrive, and for a connection as a whole.
const HEADER_TIME: Duration = Duration::from_secs(5);
const CONNECTION_TIME: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// What is read.
    pub body: String,
}

impl Page {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Answers GET and HEAD with what `pages` has for the path, until it is dropped. The number of
/// connections, their requests and their time are bounded.
pub async fn serve<F, A>(listener: TcpListener, pages: F)
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Option<Page>> + Send + 'static,
{
    serve_over(None, listener, pages).await;
}

/// Likewise, over TLS if there is any: as it is said to be when a connection begins.
pub async fn serve_over<F, A>(tls: Option<watch::Receiver<Tls>>, listener: TcpListener, pages: F)
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Option<Page>> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (pages, tls) = (pages.clone(), tls.as_ref().map(|tls| tls.borrow().clone()));
        connections.spawn(async move {
            let _permit = permit;
            let Some(tls) = tls else { return talk(stream, pages).await };
            match tokio::time::timeout(HEADER_TIME, tls.0.accept(stream)).await {
                Ok(Ok(stream)) => talk(stream, pages).await,
                Ok(Err(error)) => debug!(%error, "a client and this side do not agree on TLS"),
                Err(_elapsed) => debug!("a client took too long to agree on TLS"),
            }
        });
    }
}

async fn talk<F, A>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pages: F)
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Option<Page>> + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(answer(&request, pages).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), answer);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, connection).await {
        debug!(%error, "a connection ended early");
    }
}

async fn answer<F, A>(request: &Request<Incoming>, pages: F) -> Response<Full<Bytes>>
where
    F: Fn(String) -> A,
    A: Future<Output = Option<Page>>,
{
    let (method, path) = (request.method(), request.uri().path());
    let allowed = method == Method::GET || method == Method::HEAD;
    let page = match allowed {
        true => pages(path.to_owned())
            .await
            .unwrap_or_else(|| Page::text(404, format!("there is no page {path}\n"))),
        false => Page::text(405, "only GET and HEAD\n"),
    };
    let body = if method == Method::HEAD { String::new() } else { page.body };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if !allowed {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages =
            |path: String| async move { (path == "/readiness").then(|| Page::text(503, "no\n")) };
        let server = tokio::spawn(serve(listener, pages));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn pages_are_answered_and_nothing_else() {
        let get =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = ask(&get("/readiness?x=1")).await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nno\n"),
            "{answer}"
        );
        assert!(ask(&get("/etc/passwd")).await.starts_with("HTTP/1.1 404 "));
        let post = "POST /readiness HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(ask(post).await.starts_with("HTTP/1.1 405 "));
        assert!(ask("rubbish\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let head = ask(&get("/readiness").replace("GET", "HEAD")).await;
        assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with("\r\n\r\n"), "{head}");
    }
}
