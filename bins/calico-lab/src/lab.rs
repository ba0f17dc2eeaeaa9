//! A running lab.

mod ready;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use calico_control::Status;
use ipnet::IpNet;
use serde_json::Value;

use crate::cni::{self, Attachment, Network, Sandbox};
use crate::control::{self, Verdicts};
use crate::error::LabError;
use crate::process::Program;
use crate::record::{self, Record, Standing};
use crate::store::{self, Store};
use crate::topology::{
    Node, Pod, RouterKind, SECRET_KEY, StaticRoute, StoreKind, Topology, address_of,
};
use crate::{cleanup, fabric, frr, ip, netns, programs, reflector, router, service};

pub use ready::Route;

/// How long programs may take to come up, sessions to be established, routes to be learned.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A pod that was made.
#[derive(Debug, Clone)]
pub struct RunningPod {
    /// As in the topology.
    pub pod: Pod,
    /// What CNI gave it.
    pub attachment: Attachment,
    sandbox: Sandbox,
}

impl RunningPod {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.sandbox.namespace
    }

    /// Its address of a family.
    #[must_use]
    pub fn address(&self, v6: bool) -> Option<IpAddr> {
        self.attachment.addresses.iter().copied().find(|address| address.is_ipv6() == v6)
    }
}

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
        check_machine(&topology)?;
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

    /// Makes every pod of the topology: namespace, CNI ADD, listeners, its share of services.
    ///
    /// # Errors
    ///
    /// [`LabError::Cni`], or a listener that does not start.
    pub async fn add_pods(&mut self) -> Result<(), LabError> {
        for pod in self.topology.pods.clone() {
            self.add_pod(pod).await?;
        }
        Ok(())
    }

    /// Makes one pod, and answers once it has its address and its policy.
    ///
    /// # Errors
    ///
    /// As of [`add_pods`](Self::add_pods).
    pub async fn add_pod(&mut self, pod: Pod) -> Result<&RunningPod, LabError> {
        let uid = self.schedule_pod(&pod)?;
        let namespace = fabric::add_namespace(&self.topology.name, &member_of(&pod))?;
        let container = cni::container_id()?;
        self.record.add_container(&pod.id(), &container)?;
        let sandbox = Sandbox {
            container,
            uid,
            node_namespace: self.namespace(&pod.node),
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let network = self.network(&pod.node)?;
        let attachment = match network.add(&sandbox).await {
            Ok(attachment) => attachment,
            Err(error) => {
                // As a runtime does. The ADD took back what it could; what is left of a DEL that
                // fails, too, is in the agent's journal.
                let _ = network.delete(&sandbox, None).await;
                ip::output(None, &["netns", "delete", &namespace])?;
                return Err(self.with_log(error, &pod));
            }
        };
        if let Some(kubernetes) = self.store.kubernetes() {
            kubernetes.report(&pod, &attachment.addresses)?;
        }
        self.start_listeners(&pod, &namespace)?;
        self.pods.push(RunningPod { pod, attachment, sandbox });
        let index = self.pods.len() - 1;
        self.wait_for_listeners(index).await?;
        service::program(&self.topology, &self.pods, &self.pods[index].pod.node)?;
        Ok(&self.pods[index])
    }

    /// In Kubernetes, makes a pod and binds it to its node, unless that was done; elsewhere pods
    /// are nobody's objects. Its UID. A pod need not be scheduled before it is added.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] with what the API server says.
    pub fn schedule_pod(&mut self, pod: &Pod) -> Result<Option<String>, LabError> {
        let Some(kubernetes) = self.store.kubernetes() else { return Ok(None) };
        if let Some(uid) = self.scheduled.get(&pod.id()) {
            return Ok(Some(uid.clone()));
        }
        let uid = kubernetes.schedule(pod)?;
        self.scheduled.insert(pod.id(), uid.clone());
        Ok(Some(uid))
    }

    /// The plugin is a messenger: the reason is in the agent's log.
    fn with_log(&self, error: LabError, pod: &Pod) -> LabError {
        let LabError::Cni { verb, pod: id, plugin, reason } = error else { return error };
        let log = crate::process::tail(&self.log_of_agent(&pod.node));
        let reason = format!("{reason}\nthe end of the log of {}'s agent:\n{log}", pod.node);
        LabError::Cni { verb, pod: id, plugin, reason }
    }

    /// Removes a pod: CNI DEL, then its namespace.
    ///
    /// # Errors
    ///
    /// [`LabError::Cni`]; [`LabError::Request`] if there is no such pod.
    pub async fn delete_pod(&mut self, id: &str) -> Result<(), LabError> {
        let pod = self.pods.iter().find(|it| it.pod.id() == id).map(|it| it.pod.clone());
        if let (Some(pod), Some(kubernetes)) = (&pod, self.store.kubernetes()) {
            kubernetes.begin_end(pod)?;
        }
        let stopped = self.stop_pod(id).await?;
        self.forget_pod(&stopped.pod)
    }

    /// The runtime's part of a pod's end: CNI DEL, then its namespace goes.
    ///
    /// # Errors
    ///
    /// As of [`delete_pod`](Self::delete_pod).
    pub async fn stop_pod(&mut self, id: &str) -> Result<RunningPod, LabError> {
        let position = self.pods.iter().position(|it| it.pod.id() == id);
        let position =
            position.ok_or_else(|| LabError::Request(format!("there is no pod {id}")))?;
        let running = self.pods.remove(position);
        service::program(&self.topology, &self.pods, &running.pod.node)?;
        let network = self.network(&running.pod.node)?;
        network.delete(&running.sandbox, Some(&running.attachment)).await?;
        let listeners: Vec<_> = netns::processes(running.namespace())?
            .into_iter()
            .filter_map(crate::process::Identity::of)
            .collect();
        let title = listeners_title(&running.pod);
        self.programs.retain(|program| program.title != title);
        crate::process::end(&listeners, Duration::from_secs(1));
        ip::output(None, &["netns", "delete", running.namespace()])?;
        Ok(running)
    }

    /// In Kubernetes, says that nothing of a pod is left.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] with what the API server says.
    pub fn forget_pod(&mut self, pod: &Pod) -> Result<(), LabError> {
        self.scheduled.remove(&pod.id());
        self.store.kubernetes().map_or(Ok(()), |kubernetes| kubernetes.finish_end(pod))
    }

    /// Applies manifests with calicoctl, as a user does.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with calicoctl's words.
    pub async fn apply(&self, manifests: &[Value]) -> Result<(), LabError> {
        let mut text = String::new();
        for manifest in manifests {
            let yaml = serde_saphyr::to_string(manifest).map_err(|error| {
                LabError::Request(format!("a manifest cannot be written as YAML: {error}"))
            })?;
            text.push_str("---\n");
            text.push_str(&yaml);
        }
        self.apply_text(&text).await
    }

    /// Applies manifests as they are written.
    ///
    /// # Errors
    ///
    /// As of [`apply`](Self::apply).
    pub async fn apply_text(&self, yaml: &str) -> Result<(), LabError> {
        let path = self.record.directory().join("apply.yaml");
        fs::write(&path, yaml).map_err(LabError::file("write", &path))?;
        self.calicoctl(&["apply", "-f", &path.to_string_lossy()]).await.map(drop)
    }

    /// Runs calicoctl at the datastore of the lab.
    ///
    /// # Errors
    ///
    /// As of [`apply`](Self::apply).
    pub async fn calicoctl(&self, args: &[&str]) -> Result<String, LabError> {
        let program = programs::own("calicoctl")?;
        let client = self.store.client();
        let mut command = match &client.namespace {
            Some(namespace) => {
                let mut command = tokio::process::Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => tokio::process::Command::new(program),
        };
        let output = command
            .args(args)
            .envs(client.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| LabError::Machine(format!("cannot run calicoctl: {error}")))?;
        ip::check(&output, || format!("calicoctl {}", args.join(" ")))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies manifests to Kubernetes, as `kubectl apply` does.
    ///
    /// # Errors
    ///
    /// [`LabError::Machine`] with what the API server answers; [`LabError::Request`] if the lab
    /// has none.
    pub fn kubectl_apply(&self, yaml: &str) -> Result<(), LabError> {
        self.kubernetes()?.apply_text(yaml)
    }

    /// Asks the API server of Kubernetes as an administrator. Nothing is sent for a `body` of null.
    ///
    /// # Errors
    ///
    /// As of [`kubectl_apply`](Self::kubectl_apply).
    pub fn ask_kubernetes(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, LabError> {
        self.kubernetes()?.must(method, path, body)
    }

    fn kubernetes(&self) -> Result<&crate::store::kubernetes::Kubernetes, LabError> {
        let missing = || LabError::Request("the lab has no Kubernetes".to_owned());
        self.store.kubernetes().ok_or_else(missing)
    }

    /// How a client of the lab's datastore is run, such as calicoctl.
    #[must_use]
    pub fn client(&self) -> store::Client {
        self.store.client()
    }

    /// Addresses of the member that the datastore is, if it is one of its own.
    #[must_use]
    pub fn store_addresses(&self) -> Vec<IpNet> {
        self.store.site().map(|site| site.addresses()).unwrap_or_default()
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

    fn start_agent(&mut self, node: &Node) -> Result<(), LabError> {
        let run_dir = self.record.member(&node.name)?;
        let store = self.store.settings(node);
        let secrets = self.write_secrets(&run_dir)?;
        // Where others than the lab make a node known, it says its addresses itself.
        let startup = match self.topology.store {
            StoreKind::Kubernetes => {
                let v6 = address_of(&node.addresses, true).map_or("none", |_| "autodetect");
                let v4 = address_of(&node.addresses, false).map_or("none", |_| "autodetect");
                format!("\n[startup]\nIP = {v4:?}\nIP6 = {v6:?}\nNO_DEFAULT_POOLS = \"true\"\n")
            }
            _ => String::new(),
        };
        let text = format!(
            "node = {:?}\nrun_dir = {run_dir:?}\nstate_dir = {:?}\n\n[datastore]\n{store}\n{startup}\n[bgp]\n{secrets}",
            node.name,
            run_dir.join("state"),
        );
        let path = run_dir.join("agent.toml");
        fs::write(&path, text).map_err(LabError::file("write", &path))?;
        let program = Program::start(
            format!("calico-agent on {}", node.name),
            &self.namespace(&node.name),
            &programs::own("calico-agent")?,
            &["--config", &path.to_string_lossy()],
            self.log_of_agent(&node.name),
        )?;
        self.supervise(program)
    }

    /// Writes the passwords of routers as a kubelet mounts Secrets, and says where, as a line of
    /// the agent's configuration.
    fn write_secrets(&self, run_dir: &Path) -> Result<String, LabError> {
        let directory = run_dir.join("secrets");
        let mut line = String::new();
        for router in &self.topology.routers {
            let Some(password) = &router.password else { continue };
            let secret = directory.join(&router.name);
            fs::create_dir_all(&secret).map_err(LabError::file("make", &secret))?;
            let path = secret.join(SECRET_KEY);
            fs::write(&path, password).map_err(LabError::file("write", &path))?;
            line = format!("secrets_dir = {directory:?}\n");
        }
        Ok(line)
    }

    fn start_listeners(&mut self, pod: &Pod, namespace: &str) -> Result<(), LabError> {
        if pod.tcp.is_empty() && pod.udp.is_empty() {
            return Ok(());
        }
        let directory = self.record.member(&member_of(pod))?;
        let mut args = vec!["serve".to_owned(), pod.name.clone()];
        args.extend(pod.tcp.iter().map(|port| format!("--tcp={port}")));
        args.extend(pod.udp.iter().map(|port| format!("--udp={port}")));
        let program = Program::start(
            listeners_title(pod),
            namespace,
            &programs::own("calico-lab")?,
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            directory.join("listeners.log"),
        )?;
        self.supervise(program)
    }

    fn supervise(&mut self, program: Program) -> Result<(), LabError> {
        let identity = program.identity();
        self.programs.push(program);
        identity.map_or(Ok(()), |identity| self.record.add_process(identity))
    }

    /// Ends the agent of a node as a crash does, and starts it again.
    ///
    /// # Errors
    ///
    /// [`LabError::Request`] if the node has no agent.
    pub fn crash_agent(&mut self, node: &str) -> Result<(), LabError> {
        let title = format!("calico-agent on {node}");
        let position = self.programs.iter().position(|program| program.title == title);
        let position = position.ok_or_else(|| LabError::Request(format!("there is no {title}")))?;
        self.programs.remove(position).kill();
        match self.topology.node(node).cloned() {
            Some(node) => self.start_agent(&node),
            None => Err(LabError::Request(format!("there is no node {node}"))),
        }
    }

    /// Starts the datastore's own programs, also again after [`kill`](Self::kill) of the member
    /// `store`, and waits until they answer.
    ///
    /// # Errors
    ///
    /// A program that is missing, ends or does not answer.
    pub async fn start_store(&mut self) -> Result<(), LabError> {
        for program in self.store.start()? {
            self.supervise(program)?;
        }
        self.wait_for_store().await
    }

    /// Kills the programs of a reflector, router or the datastore, which stay dead. The kernel closes their
    /// connections, so that their peers learn of it at once.
    ///
    /// # Errors
    ///
    /// [`LabError::Request`] if nothing runs there.
    pub fn kill(&mut self, member: &str) -> Result<(), LabError> {
        let on = format!(" on {member}");
        let (dead, alive) = std::mem::take(&mut self.programs)
            .into_iter()
            .partition::<Vec<_>, _>(|program| program.title.ends_with(&on));
        self.programs = alive;
        if dead.is_empty() {
            return Err(LabError::Request(format!("nothing runs on {member}")));
        }
        dead.into_iter().for_each(|mut program| program.kill());
        Ok(())
    }

    /// Pulls the plug of a member: it loses its link first, so that nobody is told, and then its
    /// programs.
    ///
    /// # Errors
    ///
    /// As of [`kill`](Self::kill); [`LabError::Command`] if there is no such member.
    pub fn power_off(&mut self, member: &str) -> Result<(), LabError> {
        fabric::unplug(&self.topology.name, member)?;
        self.kill(member)
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

    fn network(&self, node: &str) -> Result<Network, LabError> {
        let plugins = self.record.directory().join("cni-bin");
        let (v4, v6) = (self.topology.has_pool(false), self.topology.has_pool(true));
        let network = Network::of_node(node, &self.run_dir(node), plugins, v4, v6)?;
        let path = self.run_dir(node).join("10-calico.conflist");
        let text = format!("{:#}\n", network.list());
        fs::write(&path, text).map_err(LabError::file("write", &path))?;
        Ok(network)
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

/// The member that a pod is; no other member's name has a dot.
#[must_use]
pub fn member_of(pod: &Pod) -> String {
    format!("{}.{}", pod.namespace, pod.name)
}

fn listeners_title(pod: &Pod) -> String {
    format!("listeners of {}", pod.id())
}

/// Everything that the lab will need, looked up before anything is made.
fn check_machine(topology: &Topology) -> Result<(), LabError> {
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
