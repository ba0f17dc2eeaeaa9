//! etcd as the store of a lab: one server of Debian's.

use std::path::PathBuf;

use super::{Client, MEMBER, Site, run};
use crate::error::LabError;
use crate::process::Program;
use crate::programs;
use crate::topology::Node;

/// TCP port for clients.
pub(super) const PORT: u16 = 2379;

/// etcd, on a member of its own.
#[derive(Debug)]
pub(crate) struct Etcd {
    site: Site,
    directory: PathBuf,
}

impl Etcd {
    pub(super) const fn new(site: Site, directory: PathBuf) -> Self {
        Self { site, directory }
    }

    pub(super) const fn site(&self) -> &Site {
        &self.site
    }

    pub(super) fn start(&self) -> Result<Program, LabError> {
        const PEER: &str = "http://127.0.0.1:2380";
        let everywhere = self.site.everywhere();
        let mut urls: Vec<String> = Vec::new();
        for net in self.site.addresses() {
            urls.push(format!("http://{}", std::net::SocketAddr::from((net.addr(), PORT))));
        }
        let args = [
            format!("--name={MEMBER}"),
            format!("--data-dir={}", self.directory.join("etcd").display()),
            format!("--listen-client-urls=http://{everywhere}:{PORT}"),
            format!("--advertise-client-urls={}", urls.join(",")),
            format!("--listen-peer-urls={PEER}"),
            format!("--initial-advertise-peer-urls={PEER}"),
            format!("--initial-cluster={MEMBER}={PEER}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
            "--log-outputs=stderr".to_owned(),
        ];
        let program = programs::system("etcd", "etcd-server")?;
        run(&self.site, "etcd", &program, &args, self.directory.join("etcd.log"))
    }

    pub(super) fn settings(&self, node: &Node) -> String {
        let at = std::net::SocketAddr::from((self.site.address_for(node), PORT));
        format!("etcdv3 = {{ endpoints = [\"http://{at}\"] }}")
    }

    pub(super) fn client(&self) -> Client {
        Client {
            namespace: Some(self.site.namespace()),
            environment: vec![
                ("DATASTORE_TYPE", "etcdv3".to_owned()),
                ("ETCD_ENDPOINTS", format!("http://127.0.0.1:{PORT}")),
            ],
        }
    }
}
