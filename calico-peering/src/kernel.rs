//! Which learned routes go into the kernel.

use calico_core::resource::{EncapMode, IpPoolSpec, ProgramClusterRoutes};
use ipnet::IpNet;

/// Says which learned routes the kernel gets (upstream: `calico_kernel_programming`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Ranges of services: their traffic is for the service proxy, not for other nodes.
    services: Vec<IpNet>,
    /// Pools whose routes are somebody else's business.
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
        let left_out = |pool: &&IpPoolSpec| {
            !plain
                && pool.ipip_mode.unwrap_or_default() == EncapMode::Never
                && pool.vxlan_mode.unwrap_or_default() == EncapMode::Never
        };
        Self { services, pools: pools.filter(left_out).map(|pool| pool.cidr.trunc()).collect() }
    }

    /// Whether a learned route to this destination goes into the kernel.
    #[must_use]
    pub fn programs(&self, destination: &IpNet) -> bool {
        !self.services.iter().chain(&self.pools).any(|range| range.contains(destination))
    }
}
