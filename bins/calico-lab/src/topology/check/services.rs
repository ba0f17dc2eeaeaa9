//! What must hold for services.

use std::collections::BTreeSet;

use super::{Report, Topology, check_name};

impl Topology {
    pub(super) fn check_services(&self, report: &mut Report) {
        let mut names = BTreeSet::new();
        for (index, service) in self.services.iter().enumerate() {
            let place = format!("services[{index}]");
            check_name(report, &format!("{place}.name"), &service.name, 63);
            report.unless(
                names.insert(&service.name),
                format!("{place}.name"),
                format!("{} exists twice", service.name),
            );
            let families: BTreeSet<bool> =
                service.addresses.iter().map(std::net::IpAddr::is_ipv6).collect();
            report.unless(
                !families.is_empty() && families.len() == service.addresses.len(),
                format!("{place}.addresses"),
                "one address of a family, and one at least",
            );
            for name in &service.pods {
                match self.pod(name) {
                    None => report.add(
                        format!("{place}.pods"),
                        format!("there is no pod {name:?}, or several: write namespace/name"),
                    ),
                    Some(pod) => report.unless(
                        pod.tcp.contains(&service.port),
                        format!("{place}.pods"),
                        format!("{name} does not listen on TCP port {}", service.port),
                    ),
                }
            }
            // A range is announced by every node, and a node forwards to pods of its own.
            for node in &self.nodes {
                let mut pods = service.pods.iter().filter_map(|name| self.pod(name));
                report.unless(
                    pods.any(|pod| pod.node == node.name),
                    format!("{place}.pods"),
                    format!("{} has no pod of the service", node.name),
                );
            }
        }
    }
}
