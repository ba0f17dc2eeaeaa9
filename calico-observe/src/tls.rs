//! Pages for those who show a certificate, or over TLS at all.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// Who may connect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Everybody; nobody is asked for a certificate.
    #[default]
    NotAsked,
    /// Everybody whose certificate, if one is shown, the authority has signed.
    Verified,
    /// Only who shows a certificate that the authority has signed.
    Required,
}

/// Files of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, and those between it and the authority (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authority of clients (PEM); needed unless they are not asked.
    pub authority: Option<PathBuf>,
    /// Who may connect.
    pub clients: ClientCertificate,
}

/// Why a server cannot offer TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Clients are to show certificates, and no file says whose.
    #[error("certificates of clients cannot be verified without an authority's file")]
    NoAuthority,
    /// Certificate and key do not fit each other, or cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// TLS, as a server speaks it.
#[derive(Clone)]
pub struct Tls(pub(crate) TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`]
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| bad(&files.key, error.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let unusable = |error: &dyn fmt::Display| TlsError::Unusable(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let builder = if files.clients == ClientCertificate::NotAsked {
            builder.with_no_client_auth()
        } else {
            let path = files.authority.as_ref().ok_or(TlsError::NoAuthority)?;
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| bad(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.clients {
                ClientCertificate::Verified => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

/// What a file looked like: whoever replaces it changes one of these.
type Stamp = Option<(SystemTime, u64, u64)>;

/// [`Tls`] that follows its files: certificates are renewed long before a server ends.
#[derive(Debug)]
pub struct FollowedTls {
    files: TlsFiles,
    seen: Vec<Stamp>,
    current: watch::Sender<Tls>,
}

impl FollowedTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`]
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        // Looked at before they are read: a change between is seen by the next look.
        let seen = files.stamps();
        let current = watch::Sender::new(Tls::read(&files)?);
        Ok(Self { files, seen, current })
    }

    /// What holds, for [`serve_over`](crate::serve_over).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Tls> {
        self.current.subscribe()
    }

    /// Reads the files again if one of them changed; says whether it did. New connections have
    /// what they say.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if they cannot be used, as while only one of certificate and key is new: what
    /// held before holds on, and the next look tries again.
    pub fn look(&mut self) -> Result<bool, TlsError> {
        let stamps = self.files.stamps();
        if stamps == self.seen {
            return Ok(false);
        }
        let tls = Tls::read(&self.files)?;
        self.seen = stamps;
        self.current.send_replace(tls);
        Ok(true)
    }

    /// Looks at the files this often, until it is dropped.
    pub async fn follow(mut self, every: Duration) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(every).await;
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    told.clear();
                    info!(certificate = %self.files.certificate.display(), "read new certificates");
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        warn!(error, "new certificates cannot be used; the old ones stay");
                    }
                    told = error;
                }
            }
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        [&self.certificate, &self.key].into_iter().chain(&self.authority).map(stamp).collect()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| bad(path, error.to_string()))?;
    if all.is_empty() { Err(bad(path, "it has no certificate".to_owned())) } else { Ok(all) }
}

fn bad(path: &Path, reason: String) -> TlsError {
    TlsError::File { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{Page, serve_over};

    /// An authority, and the directory of `<name>.pem` and `<name>.key` that it signed.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
            for name in ["server", "client"] {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
                let certificate = params.signed_by(&key, &ca).unwrap();
                std::fs::write(dir.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
                let key = key.serialize_pem();
                std::fs::write(dir.path().join(format!("{name}.key")), key).unwrap();
            }
            Self(dir)
        }

        fn server(&self, clients: ClientCertificate) -> TlsFiles {
            let at = |name: &str| self.0.path().join(name);
            let (certificate, key) = (at("server.pem"), at("server.key"));
            TlsFiles { certificate, key, authority: Some(at("ca.pem")), clients }
        }

        async fn ask(&self, clients: ClientCertificate, shows: bool) -> std::io::Result<String> {
            let tls = Tls::read(&self.server(clients)).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pages = |_path| std::future::ready(Some(Page::text(200, "metrics\n")));
            let tls = watch::Sender::new(tls).subscribe();
            let server = tokio::spawn(serve_over(Some(tls), listener, pages));
            let answer = self.get(address, shows).await;
            server.abort();
            answer
        }

        /// What a client of this authority is answered.
        async fn get(&self, address: SocketAddr, shows: bool) -> std::io::Result<String> {
            let at = |name: &str| self.0.path().join(name);
            let mut roots = RootCertStore::empty();
            roots.add(certificates(&at("ca.pem")).unwrap().remove(0)).unwrap();
            let provider = Arc::new(ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let builder = builder.with_root_certificates(roots);
            let config = if shows {
                let key = PrivateKeyDer::from_pem_file(at("client.key")).unwrap();
                let chain = certificates(&at("client.pem")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            } else {
                builder.with_no_client_auth()
            };
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("server").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        }
    }

    #[tokio::test]
    async fn renewed_certificates_hold_for_new_connections() {
        let (old, new) = (Files::new(), Files::new());
        let mut tls = FollowedTls::read(old.server(ClientCertificate::NotAsked)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = |_path| std::future::ready(Some(Page::text(200, "metrics\n")));
        let server = tokio::spawn(serve_over(Some(tls.subscribe()), listener, pages));
        assert!(old.get(address, false).await.is_ok());
        assert!(new.get(address, false).await.is_err(), "another authority's");
        assert!(!tls.look().unwrap(), "nothing is new");

        // As a renewal that is half done: the certificate is there, its key is not yet.
        let copy = |name: &str| {
            let from = std::fs::read(new.0.path().join(name)).unwrap();
            let aside = old.0.path().join("aside");
            std::fs::write(&aside, from).unwrap();
            std::fs::rename(aside, old.0.path().join(name)).unwrap();
        };
        copy("server.pem");
        assert!(matches!(tls.look(), Err(TlsError::Unusable(_))));
        assert!(old.get(address, false).await.is_ok(), "the old one holds on");
        copy("server.key");
        tokio::spawn(tls.follow(Duration::from_millis(10)));
        let mut answer = new.get(address, false).await;
        for _ in 0..2000 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer = new.get(address, false).await;
        }
        assert!(answer.unwrap().ends_with("metrics\n"));
        assert!(old.get(address, false).await.is_err());
        server.abort();
    }

    #[tokio::test]
    async fn clients_show_certificates_if_they_must() {
        let files = Files::new();
        for (clients, shows, answered) in [
            (ClientCertificate::NotAsked, false, true),
            (ClientCertificate::Verified, false, true),
            (ClientCertificate::Verified, true, true),
            (ClientCertificate::Required, false, false),
            (ClientCertificate::Required, true, true),
        ] {
            let answer = files.ask(clients, shows).await;
            let got = answer.as_ref().is_ok_and(|answer| answer.ends_with("metrics\n"));
            assert_eq!(got, answered, "{clients:?} {shows}: {answer:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told() {
        let files = Files::new();
        let mut server = files.server(ClientCertificate::Required);
        server.authority = None;
        assert!(matches!(Tls::read(&server), Err(TlsError::NoAuthority)));
        server.certificate = files.0.path().join("client.key");
        let error = Tls::read(&server).unwrap_err().to_string();
        assert!(error.contains("client.key: it has no certificate"), "{error}");
        server.certificate = files.0.path().join("client.pem");
        assert!(matches!(
            Tls::read(&TlsFiles { clients: ClientCertificate::NotAsked, ..server }),
            Err(TlsError::Unusable(_))
        ));
    }
}
