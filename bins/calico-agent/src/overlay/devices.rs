//! Keeps the tunnel devices of this host, and the file with the largest packet for pods.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use calico_netlink::link;
use calico_netlink::rtnl::{Connection, RtnlError};
use calico_netlink::tunnel::{self, Tunnel};
use regex::Regex;
use tracing::{info, warn};

use super::addresses::TunnelKind;

/// The largest packet that fits into a tunnel, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// As it was set; else what the fabric carries, less the overhead.
    pub mtu: Option<u32>,
    /// Bytes that wrapping adds.
    pub overhead: u32,
}

/// A device to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTunnel {
    /// The device; of its `mtu`, `size` decides.
    pub tunnel: Tunnel,
    /// How large its packets may be.
    pub size: Size,
}

impl Size {
    fn of(self, fabric: u32) -> u32 {
        self.mtu.unwrap_or_else(|| fabric.saturating_sub(self.overhead))
    }
}

/// The devices, as they are wanted and were made.
#[derive(Debug)]
pub struct Devices {
    mtu_file: PathBuf,
    /// None until the datastore was listed: then nothing is touched.
    wanted: Option<(Vec<WantedTunnel>, Vec<Size>)>,
    /// Interfaces whose MTU counts, if somebody says so.
    fabric: Option<Regex>,
    dirty: bool,
    complained: BTreeSet<String>,
}

impl Devices {
    /// None wanted yet. The CNI service reads `mtu_file`.
    #[must_use]
    pub const fn new(mtu_file: PathBuf) -> Self {
        let complained = BTreeSet::new();
        Self { mtu_file, wanted: None, fabric: None, dirty: false, complained }
    }

    /// The MTU of these interfaces counts (a regular expression); without it, that of the one
    /// towards the rest of the world.
    pub fn set_fabric(&mut self, pattern: Option<&str>) {
        if pattern == self.fabric.as_ref().map(Regex::as_str) {
            return;
        }
        let compiled = pattern.map(Regex::new).transpose();
        self.fabric = compiled.unwrap_or_else(|error| {
            warn!(%error, "mtuIfacePattern has no effect");
            None
        });
        self.dirty = true;
    }

    /// What is wanted from now on: devices, and packets of pods of at most these sizes.
    pub fn want(&mut self, tunnels: Vec<WantedTunnel>, sizes: Vec<Size>) {
        let wanted = (tunnels, sizes);
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
        let Some((wanted, sizes)) = self.wanted.clone().filter(|_| self.dirty) else { return };
        self.dirty = false;
        if let Err(error) = self.try_sync(&wanted, &sizes) {
            self.complain("tunnels", &error);
        }
    }

    fn try_sync(&mut self, wanted: &[WantedTunnel], sizes: &[Size]) -> Result<(), RtnlError> {
        let mut connection = Connection::open()?;
        let chosen = match &self.fabric {
            Some(pattern) => link::least_mtu(&mut connection, |name| pattern.is_match(name))?,
            None => None,
        };
        let fabric = match chosen {
            Some(least) => least,
            None => link::fabric_mtu(&mut connection)?,
        };
        // First of all: pods that are made meanwhile are to get it. What somebody chose is for
        // pods without tunnels, too.
        let sizes = sizes.iter().map(|size| size.of(fabric));
        write_mtu(&self.mtu_file, sizes.chain(chosen).min());
        for WantedTunnel { tunnel, size } in wanted {
            let tunnel = Tunnel { mtu: size.of(fabric), ..tunnel.clone() };
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

#[cfg(test)]
mod tests {
    use calico_netlink::testing::TestNet;

    use super::*;

    /// In a namespace without a way to anywhere.
    #[test]
    fn the_mtu_is_that_of_the_interfaces_that_count() {
        let Some(net) = TestNet::new("devices") else { return };
        for command in [
            "link add fab0 mtu 1400 type veth peer name far0",
            "link add eth0 mtu 1300 type veth peer name far1",
            "link set fab0 up",
            "link set eth0 up",
        ] {
            net.output("ip", &command.split(' ').collect::<Vec<_>>());
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mtu");
        let mut devices = Devices::new(file.clone());
        let mut written = |sizes: Vec<Size>, pattern: Option<&str>| {
            devices.set_fabric(pattern);
            devices.want(Vec::new(), sizes);
            net.run(|| devices.sync());
            std::fs::read_to_string(&file).ok()
        };
        let vxlan = || vec![Size { mtu: None, overhead: 50 }];
        assert_eq!(written(vxlan(), None).as_deref(), Some("1250"), "by upstream's default");
        assert_eq!(written(vxlan(), Some("^fab")).as_deref(), Some("1350"));
        assert_eq!(written(Vec::new(), Some("^fab")).as_deref(), Some("1400"), "without tunnels");
        assert_eq!(written(Vec::new(), None), None, "pods find it out themselves");
        assert_eq!(written(vxlan(), Some("[")).as_deref(), Some("1250"), "no expression");
    }
}
