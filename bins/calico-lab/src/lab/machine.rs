//! What a lab takes of the machine.

use std::path::Path;

use crate::error::LabError;
use crate::topology::{RouterKind, Topology};
use crate::{frr, programs, service, store};

/// Everything that the lab will need, looked up before anything is made.
pub(super) fn check(topology: &Topology) -> Result<(), LabError> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(LabError::Machine("a lab needs root, to make network namespaces".to_owned()));
    }
    programs::system("ip", "iproute2")?;
    store::check_machine(topology.store)?;
    for name in ["calico-agent", "calicoctl"] {
        programs::own(name)?;
    }
    if !topology.pods.is_empty() {
        programs::own("calico-cni")?;
        programs::own("calico-lab")?;
        programs::system("ping", "iputils-ping")?;
        if !Path::new("/usr/lib/cni/portmap").exists() {
            return Err(LabError::Machine(
                "the plugin portmap is missing; run `apt-get install containernetworking-plugins`"
                    .to_owned(),
            ));
        }
    }
    if !topology.reflectors.is_empty() {
        programs::own("calico-rr")?;
    }
    for router in &topology.routers {
        match router.kind {
            RouterKind::Bird => {
                programs::system("bird", "bird2")?;
                programs::system("birdc", "bird2")?;
            }
            RouterKind::Frr => {
                frr::daemons()?;
                programs::system("vtysh", frr::PACKAGE)?;
            }
        }
    }
    if !topology.services.is_empty() {
        programs::system("nft", service::PACKAGE)?;
    }
    Ok(())
}
