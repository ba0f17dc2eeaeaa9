//! Programs of a lab: started, crashed, killed.

use std::fs;
use std::path::Path;

use super::Lab;
use crate::error::LabError;
use crate::process::Program;
use crate::topology::{Node, SECRET_KEY, StoreKind, address_of};
use crate::{fabric, programs};

impl Lab {
    pub(super) fn start_agent(&mut self, node: &Node) -> Result<(), LabError> {
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

    pub(super) fn supervise(&mut self, program: Program) -> Result<(), LabError> {
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
}
