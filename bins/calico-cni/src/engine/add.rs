use std::net::IpAddr;

use calico_core::dataplane::Limits;
use calico_core::datastore::{Revision, Write};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    Action, EntityRule, IpNat, ObjectMeta, Profile, ProfileSpec, Rule, WorkloadEndpoint,
    WorkloadEndpointSpec,
};
use calico_ipam::plan::time::rfc3339;
use calico_netlink::link::MacAddr;
use calico_netlink::pod::{PodInterface, PodInterfaces, PodRoutes, PodSpec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;
use tokio::time::timeout;
use tracing::warn;

use super::{Engine, Gone, gates, log, still_there};
use crate::facts::{Machine, PodFacts, PodInfo};
use crate::naming::{Identity, mac};
use crate::spec::{Call, CniError, CniResult, Code, Interface, IpConfig, NetConf};

/// Attempts to write an endpoint that others write too. Upstream: 5.
const ATTEMPTS: usize = 5;

/// What an ADD has made so far, to be undone if it fails.
#[derive(Debug, Default)]
struct Made {
    addresses: bool,
    /// The endpoint as written; `None` if it was there before.
    endpoint: Option<Revision>,
    /// The attachment existed before: nothing of it is ours to undo.
    repeated: bool,
    interface: bool,
    /// The pod runs this machine, whose addresses it has.
    machine: Option<Machine>,
}

/// An endpoint but for its addresses.
#[derive(Debug, Clone)]
struct Template {
    node: String,
    call: Call,
    id: Identity,
    facts: PodFacts,
    info: PodInfo,
    mac: MacAddr,
    now: String,
}

impl Template {
    fn endpoint(&self, addresses: &[IpAddr]) -> WorkloadEndpoint {
        let Self { call, id, facts, info, .. } = self;
        let profiles = match info.profiles.as_slice() {
            [] => vec![id.profile.clone()],
            profiles => profiles.to_vec(),
        };
        let nat = |external: &IpAddr| IpNat {
            internal_ip: addresses.iter().copied().find(|ip| ip.is_ipv4() == external.is_ipv4()),
            external_ip: Some(*external),
            ..IpNat::default()
        };
        let mut metadata = ObjectMeta::namespaced(&id.namespace, id.name.to_string());
        metadata.labels.clone_from(&id.labels);
        metadata.creation_timestamp = Some(self.now.clone());
        let spec = WorkloadEndpointSpec {
            orchestrator: id.name.orchestrator.clone(),
            node: self.node.clone(),
            container_id: call.container.clone(),
            pod: id.pod.clone().unwrap_or_default(),
            endpoint: call.ifname.clone(),
            ip_networks: addresses.iter().map(|ip| IpNet::from(*ip).into()).collect(),
            profiles,
            service_account_name: info.service_account.clone(),
            ports: info.ports.clone(),
            interface_name: id.host_interface.clone(),
            mac: self.mac.to_string(),
            ip_nats: facts.floating.iter().map(nat).filter(|n| n.internal_ip.is_some()).collect(),
            allow_spoofed_source_prefixes: facts.spoofed.clone(),
            qos_controls: facts.qos.clone(),
            ..WorkloadEndpointSpec::default()
        };
        WorkloadEndpoint::with_metadata(metadata, spec)
    }
}

impl Engine {
    /// Attaches a container. Repeated, it finds everything there and answers the same.
    ///
    /// # Errors
    ///
    /// With a code of the specification, or our own from 100; nothing is left behind then.
    pub async fn add(&self, conf: &NetConf, call: &Call) -> Result<CniResult, CniError> {
        self.add_for(conf, call, &|| false).await
    }

    /// [`add`](Self::add) for a caller who may be gone before it is the attachment's turn: its
    /// runtime's DEL could have been served by then, so that nobody would delete what is made now.
    /// Once the attachment's lock is held, a DEL comes later.
    pub(super) async fn add_for(
        &self,
        conf: &NetConf,
        call: &Call,
        gone: Gone<'_>,
    ) -> Result<CniResult, CniError> {
        let id = self.identity(conf, call);
        let _attaching = self.attaching.read().await;
        let _lock = self.locks.lock(&id.lock_name()).await;
        still_there(gone)?;
        self.settle(conf, call, &id).await?;
        let mut made = Made::default();
        let attached = self.attach(conf, call, &id, &mut made).await;
        match &attached {
            Ok(result) => {
                let ips: Vec<String> = result.addresses().map(|ip| ip.to_string()).collect();
                log("attached ", &id, &ips.join(", "));
            }
            Err(_) if made.repeated => {}
            Err(_) => self.undo(conf, call, &id, made).await,
        }
        attached
    }

    async fn attach(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
        made: &mut Made,
    ) -> Result<CniResult, CniError> {
        self.ready().await?;
        gates::wait(&conf.readiness_gates).await?;
        if call.netns().is_none_or(|netns| !netns.exists()) {
            let message = format!("network namespace {} does not exist", call.netns.display());
            return Err(
                CniError::new(Code::UnknownContainer, "the container is gone").details(message)
            );
        }
        self.ensure_profile(id).await?;
        let (facts, info) = self.facts(conf, call, id).await?;
        let mut id = self.as_machine(conf, id.clone(), info.as_ref()).await?;
        made.machine.clone_from(&id.machine);
        let mut info = info.unwrap_or_default();
        for (key, value) in std::mem::take(&mut info.labels) {
            id.labels.entry(key).or_insert(value);
        }
        let (id, mac) = (&id, facts.mac.unwrap_or_else(|| MacAddr(mac(&id.handle, &call.ifname))));
        let template = Template {
            node: self.node.clone(),
            call: call.clone(),
            id: id.clone(),
            facts: facts.clone(),
            info,
            mac,
            now: rfc3339((self.options.clock)()),
        };
        // The endpoint goes in one write with its addresses, unless something is in the way.
        let along = {
            let (template, key) = (template.clone(), id.key());
            move |addresses: &[IpAddr]| {
                let json = to_json(&template.endpoint(addresses));
                json.map(|json| Write::create(key.clone(), json)).into_iter().collect()
            }
        };
        let (addresses, written) = self.assign(conf, call, id, &facts, Box::new(along)).await?;
        made.addresses = true;
        made.endpoint = written;
        let written = match written {
            Some(written) => written,
            None => self.write_endpoint(id, &template.endpoint(&addresses), made).await?,
        };
        let spec = PodSpec {
            mac: Some(mac),
            routes: routes_of(conf, conf.ipam_result.as_ref())?,
            allow_spoofing: !facts.spoofed.is_empty(),
            arriving: id.machine.as_ref().is_some_and(|machine| machine.migration.is_some()),
            limits: facts.qos.as_ref().map(Limits::from).unwrap_or_default(),
            ..self.pod_spec(conf, call, id, &addresses)
        };
        let patience = conf.policy_timeout().unwrap_or(self.options.policy_patience);
        let name = id.endpoint();
        // Policy is keyed by the interface's name and does not need the interface: both at once.
        let routes = match &spec.routes {
            PodRoutes::Only(routes) => routes.clone(),
            PodRoutes::Default => Vec::new(),
        };
        let policy = self.policy.wait_programmed(&name, written, patience);
        let (interfaces, policy) = tokio::join!(self.network.setup(spec), policy);
        let interfaces = interfaces?;
        made.interface = true;
        policy.map_err(|reason| {
            CniError::new(Code::Policy, "the policy of the pod could not be brought into force")
                .details(reason)
        })?;
        Ok(result(call, &interfaces, &addresses, routes))
    }

    /// What the dataplane is to make; also what a CHECK compares with.
    pub(super) fn pod_spec(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
        addresses: &[IpAddr],
    ) -> PodSpec {
        PodSpec {
            netns: call.netns.clone(),
            ifname: call.ifname.clone(),
            host_ifname: id.host_interface.clone(),
            addresses: addresses.to_vec(),
            mtu: self.mtu(conf),
            mac: Some(MacAddr(mac(&id.handle, &call.ifname))),
            allow_ip_forwarding: conf.container_settings.allow_ip_forwarding,
            queues: conf.num_queues,
            ..PodSpec::default()
        }
    }

    /// Writes the endpoint. One of the same name that another container left is replaced; its own
    /// DEL, if it still comes, will see that it is not its any more.
    async fn write_endpoint(
        &self,
        id: &Identity,
        endpoint: &WorkloadEndpoint,
        made: &mut Made,
    ) -> Result<Revision, CniError> {
        let key = id.key();
        let json: std::sync::Arc<str> = to_json(endpoint)?.into();
        for _ in 0..ATTEMPTS {
            match self.store.create(key.clone(), std::sync::Arc::clone(&json)).await {
                Ok(revision) => {
                    made.endpoint = Some(revision);
                    return Ok(revision);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
            let Some(stored) = self.store.find(&key).await? else { continue };
            // One that cannot be read is replaced like one of another container.
            let known = stored.decode::<WorkloadEndpoint>().ok();
            let same = known.filter(|known| known.spec.container_id == endpoint.spec.container_id);
            if let Some(known) = same {
                made.repeated = true;
                if known.spec == endpoint.spec && known.metadata.labels == endpoint.metadata.labels
                {
                    return Ok(stored.revision);
                }
            }
            let json = std::sync::Arc::clone(&json);
            match self.store.update(key.clone(), json, stored.revision).await {
                Ok(revision) => {
                    made.endpoint = Some(revision);
                    return Ok(revision);
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CniError::new(Code::TryAgain, format!("others keep writing {key}")))
    }

    /// Sees to the profile that applies where no policy does: without it, the endpoint could
    /// neither send nor receive. Where Kubernetes is the datastore it exists by definition.
    async fn ensure_profile(&self, id: &Identity) -> Result<(), CniError> {
        let key = Key::resource(Kind::Profile, None, &id.profile);
        if self.store.find(&key).await?.is_some() {
            return Ok(());
        }
        let profile = match &id.pod {
            Some(_) => Profile::for_namespace(&id.namespace, &std::collections::BTreeMap::new()),
            None => network_profile(&id.profile),
        };
        match self.store.create(key, to_json(&profile)?.into()).await {
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes back, in reverse, what a failed ADD made.
    async fn undo(&self, conf: &NetConf, call: &Call, id: &Identity, made: Made) {
        let undo = async {
            if made.interface {
                let host = Some(id.host_interface.as_str());
                if let Err(error) = self.network.teardown(host, call.netns(), &call.ifname).await {
                    warn!(%error, interface = id.host_interface, "a half-made interface stays");
                    return Ok(());
                }
            }
            if let Some(revision) = made.endpoint {
                match self.store.delete(id.key(), Some(revision)).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => {
                        return Err(CniError::from(error));
                    }
                    _ => {}
                }
            }
            if made.addresses {
                self.give_up(conf, call, id, made.machine).await?;
            }
            Ok(())
        };
        let error = match timeout(self.options.store_patience, undo).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_elapsed) => self.slow(),
        };
        // The runtime's DEL would do the rest; should none come, the journal does.
        let request = self.deletion(conf, call);
        if let Err(error) = self.postpone(conf, &request, &error) {
            warn!(%error, "a failed ADD left its address or endpoint; `calicoctl ipam check` finds it");
        }
    }
}

/// Upstream's profile of a network without an orchestrator: its containers reach one another and
/// everything outside.
fn network_profile(network: &str) -> Profile {
    let ingress = Rule {
        source: EntityRule { selector: format!("has({network})"), ..EntityRule::default() },
        ..Rule::new(Action::Allow)
    };
    let spec = ProfileSpec {
        ingress: vec![ingress],
        egress: vec![Rule::new(Action::Allow)],
        labels_to_apply: [(network.to_owned(), String::new())].into(),
        ..ProfileSpec::default()
    };
    Profile::new(network, spec)
}

/// Routes inside, if an IPAM plugin that is not ours gave some; our own answers have them too.
pub(super) fn routes_of(conf: &NetConf, result: Option<&Value>) -> Result<PodRoutes, CniError> {
    let routes = match result {
        Some(result) if !conf.ipam.is_ours() => CniResult::read(result)?.routes,
        _ => Vec::new(),
    };
    if routes.is_empty() {
        return Ok(PodRoutes::Default);
    }
    let defaults = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let families = |net: &IpNet| routes.iter().any(|route| same_family(route, net));
    let wanted =
        |net: &IpNet| conf.include_default_routes && families(net) && !routes.contains(net);
    let more: Vec<IpNet> = defaults.into_iter().filter(wanted).collect();
    Ok(PodRoutes::Only(routes.into_iter().chain(more).collect()))
}

const fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!((a, b), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, CniError> {
    serde_json::to_string(value).map_err(|error| CniError::new(Code::Datastore, error.to_string()))
}

/// The interfaces on both sides, and each address, which is inside.
fn result(
    call: &Call,
    interfaces: &PodInterfaces,
    addresses: &[IpAddr],
    routes: Vec<IpNet>,
) -> CniResult {
    let interface = |of: &PodInterface, sandbox: String| Interface {
        name: of.name.clone(),
        mac: of.mac.to_string(),
        mtu: of.mtu,
        sandbox,
    };
    let ip = |ip: &IpAddr| IpConfig { address: (*ip).into(), gateway: None, interface: Some(1) };
    CniResult {
        interfaces: vec![
            interface(&interfaces.host, String::new()),
            interface(&interfaces.container, call.netns.display().to_string()),
        ],
        ips: addresses.iter().map(ip).collect(),
        routes,
    }
}
