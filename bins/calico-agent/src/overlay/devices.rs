//! Keeps the tunnel devices of this host, and the file with the largest packet for pods.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use calico_netlink::link;
use calico_netlink::rtnl::{Connection, RtnlError};
use calico_netlink::tunnel::{self, Tunnel};
use tracing::{info, warn};

use super::addresses::TunnelKind;

/// A device to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTunnel {
    /// The device; an `mtu` of 0 means what the fabric carries, less the overhead.
    pub tunnel: Tunnel,
    /// Bytes that wrapping adds.
    pub overhead: u32,
}

/// The devices, as they are wanted and were made.
#[derive(Debug)]
pub struct Devices {
    mtu_file: PathBuf,
    /// None until the datastore was listed: then nothing is touched.
    wanted: Option<Vec<WantedTunnel>>,
    dirty: bool,
    complained: BTreeSet<String>,
}

impl Devices {
    /// None wanted yet. The CNI service reads `mtu_file`.
    #[must_use]
    pub const fn new(mtu_file: PathBuf) -> Self {
        Self { mtu_file, wanted: None, dirty: false, complained: BTreeSet::new() }
    }

    /// What is wanted from now on.
    pub fn want(&mut self, wanted: Vec<WantedTunnel>) {
        if self.wanted.as_ref() != Some(&wanted) {
            self.wanted = Some(wanted);
            self.dirty = true;
            self.complained.clear();
        }
    }

    /// Compares with the kernel at the next [`sync`](Self::sync), although nothing changed.
    pub const fn look_again(&mut self) {
        self.dirty = true;
    }

    /// Makes the kernel as it is wanted; what cannot be done is tried again by the next call.
    pub fn sync(&mut self) {
        let Some(wanted) = self.wanted.clone().filter(|_| self.dirty) else { return };
        self.dirty = false;
        if let Err(error) = self.try_sync(&wanted) {
            self.complain("tunnels", &error);
        }
    }

    fn try_sync(&mut self, wanted: &[WantedTunnel]) -> Result<(), RtnlError> {
        let mut connection = Connection::open()?;
        let mut least: Option<u32> = None;
        for WantedTunnel { tunnel, overhead } in wanted {
            let mut tunnel = tunnel.clone();
            if tunnel.mtu == 0 {
                tunnel.mtu = link::fabric_mtu(&mut connection)?.saturating_sub(*overhead);
            }
            least = Some(least.map_or(tunnel.mtu, |least| least.min(tunnel.mtu)));
            match tunnel::sync(&mut connection, &tunnel) {
                Ok(0) => {}
                Ok(changes) => info!(
                    device = tunnel.name, address = %tunnel.address, mtu = tunnel.mtu, changes,
                    "the tunnel is as it is to be"
                ),
                Err(error) => self.complain(&tunnel.name, &error),
            }
        }
        for kind in TunnelKind::ALL {
            let name = kind.device();
            if !wanted.iter().any(|it| it.tunnel.name == name)
                && tunnel::remove(&mut connection, name)?
            {
                info!(device = name, "removed a tunnel that no pool asks for");
            }
        }
        write_mtu(&self.mtu_file, least);
        Ok(())
    }

    /// Says so once, and tries again.
    fn complain(&mut self, device: &str, error: &RtnlError) {
        self.dirty = true;
        if self.complained.insert(device.to_owned()) {
            warn!(device, %error, "a tunnel cannot be made; its routes wait for it");
        }
    }
}

/// For pods that are made from now on: what fits into every tunnel.
fn write_mtu(path: &Path, mtu: Option<u32>) {
    let outcome = match mtu {
        Some(mtu) => std::fs::write(path, mtu.to_string()),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    if let Err(error) = outcome {
        warn!(path = %path.display(), %error, "pods may send larger packets than fit into a tunnel");
    }
}
