//! What an API server and its etcd are started with. Runs nothing.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::{ADMIN, NOBODY};

/// An API server and its etcd, in a directory of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Certificates, tokens, and the data of etcd.
    pub dir: PathBuf,
    /// Addresses that the API server is reached at; the first one is in its URL.
    pub addresses: Vec<IpAddr>,
    /// TCP port of the API server.
    pub port: u16,
    /// TCP ports of etcd on loopback: for clients, and for its peers.
    pub etcd_ports: [u16; 2],
}

impl ControlPlane {
    /// Writes an authority, the server's certificate, keys of accounts, and tokens.
    ///
    /// # Errors
    ///
    /// What cannot be made or written.
    pub fn prepare(&self) -> Result<(), String> {
        let write = |name: &str, text: String| {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        let failed = |error: rcgen::Error| format!("cannot make certificates: {error}");
        let ca_key = KeyPair::generate().map_err(failed)?;
        let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", ca.self_signed(&ca_key).map_err(failed)?.pem())?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().map_err(failed)?;
        let mut names: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        names.extend(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        names.dedup();
        let server = CertificateParams::new(names).map_err(failed)?;
        write("server.pem", server.signed_by(&key, &issuer).map_err(failed)?.pem())?;
        write("server-key.pem", key.serialize_pem())?;
        let account = KeyPair::generate().map_err(failed)?;
        write("account-key.pem", account.serialize_pem())?;
        write("account.pub", account.public_key_pem())?;
        write("tokens.csv", format!("{ADMIN},admin,1,system:masters\n{NOBODY},nobody,2\n"))
    }

    /// URL of the API server at its first address.
    #[must_use]
    pub fn url(&self) -> String {
        self.addresses.first().map_or_else(String::new, |address| self.url_at(*address))
    }

    /// URL of the API server at one of its addresses.
    #[must_use]
    pub fn url_at(&self, address: IpAddr) -> String {
        format!("https://{}", std::net::SocketAddr::from((address, self.port)))
    }

    /// URL of etcd.
    #[must_use]
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_ports[0])
    }

    /// The file with the authority that signed the API server's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Arguments of etcd.
    #[must_use]
    pub fn etcd_args(&self) -> Vec<String> {
        let (url, peer) = (self.etcd_url(), format!("http://127.0.0.1:{}", self.etcd_ports[1]));
        let mut args = vec!["--log-level=error".to_owned(), "--unsafe-no-fsync".to_owned()];
        args.push(format!("--data-dir={}", self.dir.join("etcd").display()));
        args.push(format!("--listen-client-urls={url}"));
        args.push(format!("--advertise-client-urls={url}"));
        args.push(format!("--listen-peer-urls={peer}"));
        args.push(format!("--initial-advertise-peer-urls={peer}"));
        args.push(format!("--initial-cluster=default={peer}"));
        args
    }

    /// Arguments of kube-apiserver: RBAC, service accounts' tokens, and [`ADMIN`] and [`NOBODY`].
    #[must_use]
    pub fn apiserver_args(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let local = self.addresses.iter().all(IpAddr::is_loopback);
        let everywhere = if self.addresses.iter().any(IpAddr::is_ipv6) { "::" } else { "0.0.0.0" };
        let mut args = vec![
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--bind-address={}", if local { "127.0.0.1" } else { everywhere }),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", path("certs")),
            format!("--tls-cert-file={}", path("server.pem")),
            format!("--tls-private-key-file={}", path("server-key.pem")),
            format!("--client-ca-file={}", path("ca.pem")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("account.pub")),
            format!("--service-account-signing-key-file={}", path("account-key.pem")),
            format!("--token-auth-file={}", path("tokens.csv")),
        ];
        if let (false, Some(address)) = (local, self.addresses.first()) {
            args.push(format!("--advertise-address={address}"));
        }
        let fixed = [
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--etcd-compaction-interval=0",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
            "--shutdown-delay-duration=0s",
            "--endpoint-reconciler-type=none",
        ];
        args.extend(fixed.map(str::to_owned));
        args
    }
}

/// A directory that has room for a control plane on loopback.
pub(crate) fn on_loopback(dir: &Path, port: u16, etcd_ports: [u16; 2]) -> ControlPlane {
    let addresses = vec![IpAddr::from([127, 0, 0, 1])];
    ControlPlane { dir: dir.to_owned(), addresses, port, etcd_ports }
}
