//! Which learned routes go into the kernel.

use calico_core::resource::{EncapMode, IpPoolSpec, ProgramClusterRoutes};
use ipnet::IpNet;

/// Says which learned routes the kernel gets (upstream: `calico_kernel_programming`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Ranges of services: their traffic is for the service proxy, not for other nodes.
    services: Vec<IpNet>,
    /// Pools whose routes are somebody else's business, such as those of tunnels.
    pools: Vec<IpNet>,
}

impl KernelFilter {
    pub(crate) fn new<'a>(
        services: Vec<IpNet>,
        pools: impl Iterator<Item = &'a IpPoolSpec>,
        program: Option<ProgramClusterRoutes>,
    ) -> Self {
        let plain = matches!(
            program,
            None | Some(ProgramClusterRoutes::Enabled | ProgramClusterRoutes::EnabledNoEncapOnly)
        );
        // Those of tunnels follow from the blocks of IPAM, whatever other routers tell.
        let left_out = |pool: &&IpPoolSpec| !plain || is_encapsulated(pool);
        Self { services, pools: pools.filter(left_out).map(|pool| pool.cidr.trunc()).collect() }
    }

    /// Whether a learned route to this destination goes into the kernel.
    #[must_use]
    pub fn programs(&self, destination: &IpNet) -> bool {
        !self.services.iter().chain(&self.pools).any(|range| range.contains(destination))
    }
}

fn is_encapsulated(pool: &IpPoolSpec) -> bool {
    let on = |mode: EncapMode| mode != EncapMode::Never;
    on(pool.vxlan_mode()) || (on(pool.ipip_mode()) && pool.cidr.addr().is_ipv4())
}
