//! A running lab.

mod machine;
mod pods;
mod ready;
mod resources;
mod routes;
mod running;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use calico_control::Status;
use ipnet::IpNet;

use crate::control::{self, Verdicts};
use crate::error::LabError;
use crate::process::Program;
use crate::record::{self, Record, Standing};
use crate::store::Store;
use crate::topology::{StaticRoute, Topology};
use crate::{cleanup, fabric, frr, ip, netns, reflector, router};

pub use pods::{RunningPod, member_of};
pub use routes::Route;

/// How long programs may take to come up, sessions to be established, routes to be learned.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A lab that this process builds. Dropping it removes it, unless it was told to stay.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    record: Record,
    store: Store,
    programs: Vec<Program>,
    pods: Vec<RunningPod>,
    /// UIDs of the pods that Kubernetes knows, by namespace and name.
    scheduled: BTreeMap<String, String>,
    kept: bool,
}

impl Lab {
    /// Builds namespaces and fabric; nothing runs yet. `text` is the topology's file, kept for
    /// later commands. What a killed lab of the same name left is removed first.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] without root or a program that it takes, before anything is made;
    /// [`LabError::Request`] if a lab of this name is in use.
    pub fn create(topology: Topology, text: &str) -> Result<Self, LabError> {
        machine::check(&topology)?;
        let name = topology.name.clone();
        match Record::open(&name).map(|record| record.standing()) {
            Ok(Standing::Owned | Standing::Kept) => {
                return Err(LabError::Request(format!(
                    "lab {name} is up already; `calico-lab down {name}` removes it"
                )));
            }
            _ => cleanup::remove(&name)?,
        };
        let record = Record::create(&name, text)?;
        let store = Store::plan(&topology, &record)?;
        let lab = Self {
            topology,
            record,
            store,
            programs: Vec::new(),
            pods: Vec::new(),
            scheduled: BTreeMap::new(),
            kept: false,
        };
        fabric::create(&lab.topology)?;
        lab.store.attach()?;
        for node in &lab.topology.nodes {
            let interface = (node.network.as_str(), &node.addresses[..]);
            lab.attach(&node.name, interface, &node.routes)?;
        }
        for host in &lab.topology.hosts {
            let interface = (host.network.as_str(), &host.addresses[..]);
            lab.attach(&host.name, interface, &host.routes)?;
        }
        Ok(lab)
    }

    /// The whole way up: agents, resources, reflectors, routers, sessions, pods, routes.
    ///
    /// # Errors
    ///
    /// As of the steps.
    pub async fn up(topology: Topology, text: &str) -> Result<Self, LabError> {
        let mut lab = Self::create(topology, text)?;
        lab.start().await?;
        lab.wait_for_sessions().await?;
        lab.wait_for_tunnels().await?;
        lab.add_pods().await?;
        lab.wait_for_routes().await?;
        Ok(lab)
    }

    /// Starts every program but the pods', and applies the resources.
    ///
    /// # Errors
    ///
    /// A program that ends or does not answer, with the end of its log; what calicoctl says.
    pub async fn start(&mut self) -> Result<(), LabError> {
        if self.store.site().is_some() {
            self.start_store().await?;
        }
        if let Some(kubernetes) = self.store.kubernetes() {
            kubernetes.furnish(&self.topology).await?;
        }
        // The holder of the datastore first: the others connect to it.
        let holder = self.topology.store_node().clone();
        self.start_agent(&holder)?;
        for node in self.topology.nodes.clone() {
            if node.name != holder.name {
                self.start_agent(&node)?;
            }
        }
        for reflector in self.topology.reflectors.clone() {
            let program = reflector::start(&self.record, &self.topology, &reflector)?;
            self.supervise(program)?;
        }
        for router in self.topology.routers.clone() {
            let program = router::start(&self.record, &self.topology, &router)?;
            self.supervise(program)?;
        }
        self.configure_routers().await?;
        self.wait_for_store().await?;
        // A peer that is not there yet would be tried again only after the retry time.
        self.wait_for_peers().await?;
        self.apply(&self.topology.manifests()).await
    }

    /// The topology.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The pods that were made.
    #[must_use]
    pub fn pods(&self) -> &[RunningPod] {
        &self.pods
    }

    /// The running pod of this name, with or without its namespace.
    ///
    /// # Errors
    ///
    /// [`LabError::Request`] if none or several have it.
    pub fn pod(&self, name: &str) -> Result<&RunningPod, LabError> {
        let mut found = self.pods.iter().filter(|it| it.pod.name == name || it.pod.id() == name);
        match (found.next(), found.next()) {
            (Some(pod), None) => Ok(pod),
            (None, _) => Err(LabError::Request(format!("no pod {name} runs"))),
            (Some(_), Some(_)) => Err(LabError::Request(format!("several pods are called {name}"))),
        }
    }

    /// Network namespace of a node, reflector or router.
    #[must_use]
    pub fn namespace(&self, member: &str) -> String {
        netns::name_of(&self.topology.name, member)
    }

    /// Status of a node's agent.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn status(&self, node: &str) -> Result<Status, String> {
        control::status(&self.run_dir(node)).await
    }

    /// Listens to the verdicts of a node's agent.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] with the words of [`Verdicts::listen`].
    pub async fn verdicts(&self, node: &str) -> Result<Verdicts, LabError> {
        Verdicts::listen(&self.run_dir(node)).await.map_err(LabError::Machine)
    }

    /// What `birdc` answers on a router.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with its words.
    pub async fn birdc(&self, router: &str, command: &str) -> Result<String, LabError> {
        router::ask(&self.run_dir(router), command).await
    }

    /// What `vtysh` answers on a router of kind `frr`.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with its words.
    pub async fn vtysh(&self, router: &str, command: &str) -> Result<String, LabError> {
        frr::ask(&self.run_dir(router), command).await
    }

    /// Lets the lab stay when this process ends.
    ///
    /// # Errors
    ///
    /// [`LabError::File`]; the lab is then removed after all.
    pub fn keep(mut self) -> Result<(), LabError> {
        self.record.keep()?;
        self.kept = true;
        Ok(())
    }

    /// Removes the lab.
    ///
    /// # Errors
    ///
    /// [`LabError::Leftovers`].
    pub fn remove(mut self) -> Result<cleanup::Removed, LabError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<cleanup::Removed, LabError> {
        self.kept = true;
        let removed = cleanup::remove(&self.topology.name);
        self.programs.iter_mut().for_each(Program::reap);
        removed
    }

    /// Makes a member that only has routes of its own.
    fn attach(
        &self,
        member: &str,
        interface: (&str, &[IpNet]),
        routes: &[StaticRoute],
    ) -> Result<(), LabError> {
        let namespace = fabric::attach(&self.topology.name, member, [interface])?;
        let routes: Vec<String> = routes.iter().map(StaticRoute::command).collect();
        ip::batch(Some(&namespace), &routes)
    }

    /// Directory of a member's sockets, settings and logs.
    #[must_use]
    pub fn run_dir(&self, member: &str) -> PathBuf {
        record::directory(&self.topology.name).join(member)
    }

    fn log_of_agent(&self, node: &str) -> PathBuf {
        self.run_dir(node).join("agent.log")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.take_down() {
            eprintln!("calico-lab: {error}");
        }
    }
}
