//! The node's own resource: its addresses and its number.

use std::net::IpAddr;

use calico_core::Datastore;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{Node, NodeAddress, NodeAddressType, NodeBgp, NodeCidr, OrchRef};
use ipnet::IpNet;
use serde_json::json;
use tracing::info;

use super::detect::{Interface, with_network};
use super::{ATTEMPTS, Startup, StartupError, Wish};

impl Startup {
    /// Writes the node's addresses and number, unless others have the addresses.
    pub(super) async fn write_node(
        &self,
        store: &dyn Datastore,
        wishes: &[Wish; 2],
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let key = Key::resource(Kind::Node, None, &self.node);
        for _ in 0..ATTEMPTS {
            let stored = store.find(&key).await?;
            let mut node: Node = match &stored {
                Some(entry) => entry.decode()?,
                None => Node::new(&self.node, <_>::default()),
            };
            let before = node.clone();
            self.fill(&mut node, wishes, interfaces)?;
            if node == before && stored.is_some() {
                return Ok(());
            }
            self.check_conflicts(store, &node).await?;
            let written = match stored {
                Some(entry) => store.update(key.clone(), node.to_json(), entry.revision).await,
                None => store.create(key.clone(), node.to_json()).await,
            };
            match written {
                Ok(_) => {
                    let bgp = node.spec.bgp.unwrap_or_default();
                    let text = |cidr: Option<NodeCidr>| {
                        cidr.map_or_else(|| "none".to_owned(), |cidr| cidr.0.to_string())
                    };
                    let (ipv4, ipv6) = (text(bgp.ipv4_address), text(bgp.ipv6_address));
                    info!(node = self.node, ipv4, ipv6, "wrote this node's addresses");
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StartupError::Wrong(format!("others keep writing {key}")))
    }

    fn fill(
        &self,
        node: &mut Node,
        wishes: &[Wish; 2],
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let known = node.spec.addresses.iter();
        let known = known.filter(|it| it.kind == Some(NodeAddressType::InternalIp));
        let internal: Vec<IpAddr> =
            known.filter_map(|it| it.address.split('/').next()?.parse().ok()).collect();
        let mut bgp: NodeBgp = node.spec.bgp.clone().unwrap_or_default();
        for (v6, wish) in [false, true].into_iter().zip(wishes) {
            let current = if v6 { &mut bgp.ipv6_address } else { &mut bgp.ipv4_address };
            let found = match wish {
                Wish::Keep => continue,
                Wish::FindIfMissing(_) if current.is_some() => continue,
                Wish::Never => None,
                Wish::This(address, net) => {
                    let net = net.or_else(|| with_network(*address, interfaces));
                    Some(net.unwrap_or_else(|| IpNet::from(*address)))
                }
                Wish::Find(method) | Wish::FindIfMissing(method) => {
                    match method.find(v6, interfaces, &internal) {
                        Some(found) => Some(found),
                        // A cable that is out for a moment is no reason to forget the address.
                        None if current.is_some() => continue,
                        None => {
                            let digit = if v6 { 6 } else { 4 };
                            return Err(StartupError::Wrong(format!(
                                "no IPv{digit} address of this host fits; set IP or its \
                                 autodetection method"
                            )));
                        }
                    }
                }
            };
            *current = found.map(NodeCidr::from);
        }
        if let Some(text) = self.variable("AS") {
            let number = serde_json::from_value(json!(text));
            let number =
                number.map_err(|error| StartupError::Wrong(format!("AS={text}: {error}")))?;
            bgp.as_number = Some(number);
        }
        if bgp != NodeBgp::default() || node.spec.bgp.is_some() {
            node.spec.bgp = Some(bgp.clone());
        }
        // Kubernetes has both of its own.
        if self.kubernetes.is_none() {
            let own = [&bgp.ipv4_address, &bgp.ipv6_address].into_iter().flatten();
            let own = own.map(|cidr| NodeAddress {
                address: cidr.0.to_string(),
                kind: Some(NodeAddressType::CalicoNodeIp),
                ..NodeAddress::default()
            });
            let others = node.spec.addresses.iter();
            let others =
                others.filter(|it| it.kind != Some(NodeAddressType::CalicoNodeIp)).cloned();
            node.spec.addresses = own.chain(others.collect::<Vec<_>>()).collect();
            if let Some(name) = self.variable("CALICO_K8S_NODE_REF") {
                let reference =
                    OrchRef { node_name: name, orchestrator: "k8s".into(), ..OrchRef::default() };
                node.spec.orch_refs.retain(|it| it.orchestrator != "k8s");
                node.spec.orch_refs.push(reference);
            }
        }
        Ok(())
    }

    async fn check_conflicts(&self, store: &dyn Datastore, own: &Node) -> Result<(), StartupError> {
        if self.variable("DISABLE_NODE_IP_CHECK").is_some_and(|text| text == "true") {
            return Ok(());
        }
        for entry in store.list(&Scope::Kind(Kind::Node)).await?.entries {
            // One that cannot be read takes nobody's address.
            let Ok(other) = entry.decode::<Node>() else { continue };
            if other.metadata.name == self.node {
                continue;
            }
            let (Some(bgp), Some(own)) = (&other.spec.bgp, &own.spec.bgp) else { continue };
            for (own, theirs) in
                [(&own.ipv4_address, &bgp.ipv4_address), (&own.ipv6_address, &bgp.ipv6_address)]
            {
                if let (Some(own), Some(theirs)) = (own, theirs)
                    && own.0.addr() == theirs.0.addr()
                {
                    return Err(StartupError::Wrong(format!(
                        "node {} has the address {} already; give each node its own, or set \
                         DISABLE_NODE_IP_CHECK",
                        other.metadata.name,
                        own.0.addr()
                    )));
                }
            }
        }
        Ok(())
    }
}
