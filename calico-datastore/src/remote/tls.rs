//! TCP with TLS, where both sides show certificates.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::client::{Connect, Transport};
use super::server::Listen;
use crate::config::{FanoutConfig, TlsConfig};

/// Handshakes at a time; more connections wait.
const HANDSHAKES: usize = 64;
/// Time for a handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time for each server where there are several, out of what a client has for all of them.
const EACH: Duration = Duration::from_millis(1500);

/// A connection on which nothing comes is probed after this time, in seconds. Who listens only
/// would never know that the other host has vanished, as a kernel's own patience is two hours.
const IDLE: u32 = 10;
/// Seconds between probes, and how many of them may stay without an answer.
const INTERVAL: u32 = 3;
const PROBES: u32 = 3;
/// Milliseconds until what was sent must have arrived.
const UNACKNOWLEDGED: u32 = 20_000;

/// Lets in who shows a certificate that our authority signed. Certificates are read anew for each
/// connection: they may be replaced at any time.
#[derive(Debug)]
pub struct TlsListener {
    listener: TcpListener,
    config: TlsConfig,
    handshakes: JoinSet<io::Result<server::TlsStream<TcpStream>>>,
}

impl TlsListener {
    /// Serves on `listener`.
    ///
    /// # Errors
    ///
    /// A certificate or key that cannot be read or used.
    pub fn new(listener: TcpListener, config: TlsConfig) -> io::Result<Self> {
        server_config(&config)?;
        Ok(Self { listener, config, handshakes: JoinSet::new() })
    }

    fn greet(&mut self, stream: TcpStream) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(server_config(&self.config)?);
        prepare(&stream)?;
        self.handshakes.spawn(async move {
            match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(result) => result,
                Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        Ok(())
    }
}

#[async_trait]
impl Listen for TlsListener {
    type Io = server::TlsStream<TcpStream>;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        loop {
            let has_room = self.handshakes.len() < HANDSHAKES;
            tokio::select! {
                accepted = self.listener.accept(), if has_room => {
                    let (stream, client) = accepted?;
                    tracing::debug!(%client, "a datastore client connects");
                    self.greet(stream)?;
                }
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => tracing::info!(%error, "refused a datastore client"),
                    Err(error) => tracing::warn!(%error, "a handshake ended badly"),
                },
            }
        }
    }
}

/// Where a [`RemoteStore`](super::RemoteStore) finds a server over TLS.
#[derive(Debug, Clone)]
pub struct TlsAddress(pub FanoutConfig);

#[async_trait]
impl Connect for TlsAddress {
    async fn connect(&self) -> io::Result<Box<dyn Transport>> {
        let connector = TlsConnector::from(client_config(&self.0.tls)?);
        let (mut servers, mut last) = (Vec::new(), None);
        for (address, name) in self.0.servers()? {
            let name = ServerName::try_from(name.to_owned()).map_err(invalid)?;
            match lookup_host(address).await {
                Ok(found) => servers.extend(found.map(|address| (address, name.clone()))),
                Err(error) => last = Some(error),
            }
        }
        if let [(address, name)] = &servers[..] {
            return open(&connector, *address, name.clone()).await;
        }
        // Many clients with the same settings must not all begin at the same server.
        let first = RandomState::new().hash_one(0) as usize % servers.len().max(1);
        servers.rotate_left(first);
        for (address, name) in servers {
            let opened = tokio::time::timeout(EACH, open(&connector, address, name)).await;
            match opened.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
                Ok(transport) => return Ok(transport),
                Err(error) => {
                    tracing::debug!(%address, %error, "a server is passed over");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("its name has no address")))
    }

    fn describe(&self) -> String {
        self.0.address.clone()
    }

    fn advice(&self, error: &io::Error) -> Option<&'static str> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => {
                Some("check that calico-fanout runs there")
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Some("check the certificates of both sides")
            }
            _ => None,
        }
    }
}

async fn open(
    connector: &TlsConnector,
    address: SocketAddr,
    name: ServerName<'static>,
) -> io::Result<Box<dyn Transport>> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// Small messages go at once, and the other side's end is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED)?;
    Ok(())
}

fn server_config(config: &TlsConfig) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(config)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let verifier = verifier.build().map_err(invalid)?;
    let (chain, key) = identity(config)?;
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(invalid)?;
    let builder = builder.with_client_cert_verifier(verifier);
    Ok(Arc::new(builder.with_single_cert(chain, key).map_err(invalid)?))
}

fn client_config(config: &TlsConfig) -> io::Result<Arc<ClientConfig>> {
    let (chain, key) = identity(config)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(invalid)?;
    let builder = builder.with_root_certificates(roots(config)?);
    Ok(Arc::new(builder.with_client_auth_cert(chain, key).map_err(invalid)?))
}

fn roots(config: &TlsConfig) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let text = config.ca.read().map_err(invalid)?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        roots.add(certificate.map_err(invalid)?).map_err(invalid)?;
    }
    if roots.is_empty() {
        return Err(invalid("the authority's file has no certificate"));
    }
    Ok(roots)
}

fn identity(
    config: &TlsConfig,
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let text = config.certificate.read().map_err(invalid)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(invalid)?;
    let key = config.key.read().map_err(invalid)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| invalid(format!("no private key is found: {error}")))?;
    Ok((chain, key))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
