//! Pods of a lab: what a container runtime does with them.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use super::Lab;
use crate::cni::{self, Attachment, Network, Sandbox};
use crate::error::LabError;
use crate::process::Program;
use crate::topology::Pod;
use crate::{fabric, ip, netns, programs, service};

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

impl Lab {
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

    /// The plugin is a messenger: the reason is in the agent's log.
    fn with_log(&self, error: LabError, pod: &Pod) -> LabError {
        let LabError::Cni { verb, pod: id, plugin, reason } = error else { return error };
        let log = crate::process::tail(&self.log_of_agent(&pod.node));
        let reason = format!("{reason}\nthe end of the log of {}'s agent:\n{log}", pod.node);
        LabError::Cni { verb, pod: id, plugin, reason }
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

    fn network(&self, node: &str) -> Result<Network, LabError> {
        let plugins = self.record.directory().join("cni-bin");
        let (v4, v6) = (self.topology.has_pool(false), self.topology.has_pool(true));
        let network = Network::of_node(node, &self.run_dir(node), plugins, v4, v6)?;
        let path = self.run_dir(node).join("10-calico.conflist");
        let text = format!("{:#}\n", network.list());
        fs::write(&path, text).map_err(LabError::file("write", &path))?;
        Ok(network)
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
