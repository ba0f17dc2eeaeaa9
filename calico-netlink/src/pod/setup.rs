use std::path::Path;
use std::thread;

use nix::errno::Errno;
use rtnetlink::LinkUnspec;

use super::error::Step as _;
use super::spec::{HOST_MAC, PodInterfaces, PodSpec};
use super::{PodError, check, inside, outside, removal};
use crate::link::{self, Link, VethEnd};
use crate::netns::{Netns, NetnsError};
use crate::qos;
use crate::rtnl::Connection;

/// Makes the network of a pod, in the namespace of the calling thread and in the pod's.
///
/// If it is there already and complete, nothing changes. A host interface of the same name that
/// leads elsewhere or lacks something is replaced. Blocks for about a millisecond; asynchronous
/// programs use [`setup_async`], and those that make many pods [`Workers`](super::Workers).
///
/// # Errors
///
/// See [`PodError`]. Nothing half made stays.
pub fn setup(spec: &PodSpec) -> Result<PodInterfaces, PodError> {
    thread::scope(|scope| {
        let work = || Workplace::open()?.setup(spec);
        let thread = thread::Builder::new().name("pod".into()).spawn_scoped(scope, work);
        thread
            .map_err(PodError::Thread)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// [`setup`] for asynchronous programs.
///
/// Safe to drop: the work goes on to its end in the background.
///
/// # Errors
///
/// See [`setup`].
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn setup_async(spec: PodSpec) -> Result<PodInterfaces, PodError> {
    blocking(move || setup(&spec)).await
}

/// Removes the network of a pod: the host's end, and what is left of the pod's. Done if there is
/// nothing (any more), whatever became of the namespace.
///
/// # Errors
///
/// [`PodError::Kernel`] if an interface is there and cannot be removed.
pub fn teardown(host_ifname: &str, netns: Option<&Path>, ifname: &str) -> Result<(), PodError> {
    let mut host = Connection::open().step(|| "reach the kernel".into())?;
    // Takes the pod's end along, and the addresses and routes of both.
    link::delete(&mut host, host_ifname).step(|| format!("remove {host_ifname}"))?;
    qos::forget(&mut host, host_ifname).step(|| format!("remove the queue of {host_ifname}"))?;
    let Some(path) = netns else { return Ok(()) };
    let netns = match Netns::open(path) {
        // Never look for a pod's interface among the host's own.
        Ok(netns) if netns.is_same(&Netns::current()?)? => return Ok(()),
        Ok(netns) => netns,
        Err(NetnsError::Gone { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut inside = match netns.run(Connection::open) {
        Ok(connection) => connection.step(|| "reach the kernel".into())?,
        // The mount is gone, the file it covered is not: a crash of the runtime leaves this.
        Err(NetnsError::NotANamespace { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let step = || format!("remove {ifname} in {}", path.display());
    link::delete(&mut inside, ifname).step(step).map(drop)
}

/// [`teardown`] for asynchronous programs. Safe to drop, like [`setup_async`].
///
/// # Errors
///
/// See [`teardown`].
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn teardown_async(
    host_ifname: String,
    netns: Option<std::path::PathBuf>,
    ifname: String,
) -> Result<(), PodError> {
    blocking(move || teardown(&host_ifname, netns.as_deref(), &ifname)).await
}

/// What a thread makes pods with: nobody else may depend on the namespace that it is in.
///
/// All steps of a pod run on one thread, which goes into the pod's namespace and comes back: a
/// second one would only wait for the first, since the kernel's routing lock is one for both.
#[derive(Debug)]
pub(super) struct Workplace {
    home: Netns,
    host: Connection,
    /// Whether the thread is not where it should be any more.
    lost: bool,
}

impl Workplace {
    /// In the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, PodError> {
        let host = Connection::open().step(|| "reach the kernel".into())?;
        Ok(Self { home: Netns::current()?, host, lost: false })
    }

    /// The connection of the host's side.
    pub(super) const fn host(&mut self) -> &mut Connection {
        &mut self.host
    }

    /// Whether the thread cannot be used any more.
    pub(super) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// See [`setup`].
    pub(super) fn setup(&mut self, spec: &PodSpec) -> Result<PodInterfaces, PodError> {
        spec.validate()?;
        let netns = Netns::open(&spec.netns)?;
        if netns.is_same(&self.home)? {
            return Err(PodError::HostNamespace { netns: spec.netns.clone() });
        }
        let mtu = match spec.mtu {
            0 => link::fabric_mtu(&mut self.host).step(|| "find the MTU of the fabric".into())?,
            mtu => mtu,
        };
        match self.build(spec, &netns, mtu)? {
            Some(interfaces) => return Ok(interfaces),
            None => {
                if let Some(interfaces) = resolve_conflict(spec, &mut self.host)? {
                    return Ok(interfaces);
                }
            }
        }
        self.build(spec, &netns, mtu)?.ok_or_else(|| PodError::InterfaceTaken {
            ifname: spec.ifname.clone(),
            netns: spec.netns.clone(),
        })
    }

    /// `None` if one of the names is taken; nothing was made then.
    fn build(
        &mut self,
        spec: &PodSpec,
        netns: &Netns,
        mtu: u32,
    ) -> Result<Option<PodInterfaces>, PodError> {
        let built = self.try_build(spec, netns, mtu);
        if built.is_err() {
            roll_back(spec);
        }
        built
    }

    fn try_build(
        &mut self,
        spec: &PodSpec,
        netns: &Netns,
        mtu: u32,
    ) -> Result<Option<PodInterfaces>, PodError> {
        let Some(near) = create(spec, netns, &mut self.host, mtu)? else { return Ok(None) };
        outside::settings(spec, &near)?;
        let (mut inside, container) = self.within(netns, || {
            let mut inside = Connection::open().step(|| "reach the kernel".into())?;
            let container = inside::configure(spec, &mut inside)?;
            Ok((inside, container))
        })?;
        limit(spec, &mut self.host);
        outside::connect(spec, &mut self.host, near.index)?;
        // The kernel tells a device of its carrier a little later; being asked, it does at
        // once. Until then the pod's first packets would be dropped.
        let settled = inside.query(link::get_request(LinkUnspec::new_with_name(&spec.ifname)));
        settled.step(|| format!("look at {}", spec.ifname))?;
        Ok(Some(PodInterfaces { host: check::describe(&near)?, container }))
    }

    /// Does `work` in the namespace of a pod.
    fn within<T>(
        &mut self,
        netns: &Netns,
        work: impl FnOnce() -> Result<T, PodError>,
    ) -> Result<T, PodError> {
        netns.enter()?;
        // Should the work panic, the thread ends with it.
        let done = work();
        if let Err(error) = self.home.enter() {
            self.lost = true;
            return Err(error.into());
        }
        done
    }
}

/// Before the first packet passes. What cannot be limited is no reason to have no network: an agent
/// tries again.
fn limit(spec: &PodSpec, host: &mut Connection) {
    if spec.limits.ingress.bandwidth.is_none() && spec.limits.egress.bandwidth.is_none() {
        return;
    }
    let name = &spec.host_ifname;
    if let Err(error) = qos::apply(host, name, &spec.limits) {
        tracing::warn!(interface = %name, %error, "the bandwidth is not limited");
    }
}

/// Makes the veth and looks at the host's end.
fn create(
    spec: &PodSpec,
    netns: &Netns,
    host: &mut Connection,
    mtu: u32,
) -> Result<Option<Link>, PodError> {
    let near = VethEnd {
        name: &spec.host_ifname,
        mac: Some(HOST_MAC),
        mtu,
        queues: spec.queues,
        ..VethEnd::default()
    };
    let far = VethEnd {
        name: &spec.ifname,
        netns: Some(netns),
        mac: spec.mac,
        mtu,
        queues: spec.queues,
        ..VethEnd::default()
    };
    let named = || LinkUnspec::new_with_name(&spec.host_ifname);
    let requests = [
        link::veth_request(&near, &far),
        link::conf_request(named(), outside::conf(spec)),
        link::get_request(named()),
    ];
    let step = || format!("make a veth {} into {}", spec.host_ifname, spec.netns.display());
    let mut outcomes = host.exchange(&requests).step(step)?.into_iter();
    match outcomes.next().unwrap_or(Ok(None)) {
        Err(refusal) if refusal.errno == Errno::EEXIST => return Ok(None),
        // What the kernel says of a descriptor of another kind.
        Err(refusal) if refusal.errno == Errno::EINVAL && !netns.is_netns() => {
            return Err(NetnsError::NotANamespace { path: spec.netns.clone() }.into());
        }
        outcome => outcome.step(step)?,
    };
    // What is not set by this is seen in the answer, and set otherwise.
    drop(outcomes.next());
    let answer = outcomes.next().unwrap_or(Ok(None)).step(step)?;
    match answer.as_ref().and_then(link::link_of) {
        Some(link) => Ok(Some(link)),
        None => Err(PodError::Incomplete { what: format!("there is no {}", spec.host_ifname) }),
    }
}

/// Someone has one of the names. Returns the interfaces if they are what is wanted; otherwise
/// makes room, if that takes nothing from others.
fn resolve_conflict(
    spec: &PodSpec,
    host: &mut Connection,
) -> Result<Option<PodInterfaces>, PodError> {
    let name = &spec.host_ifname;
    let Some(link) = link::by_name(host, name).step(|| format!("look at {name}"))? else {
        // The name inside is taken; perhaps by one that was cut off and not removed yet.
        removal::remove_group(host).step(|| "remove interfaces that are cut off".into())?;
        return Ok(None);
    };
    if link.kind.as_deref() != Some("veth") {
        return Err(PodError::HostInterfaceTaken { name: name.clone() });
    }
    match check::check(spec) {
        Ok(interfaces) => return Ok(Some(interfaces)),
        Err(PodError::Incomplete { what }) => {
            tracing::info!(interface = %name, %what, "replacing the interface of a pod");
        }
        Err(error) => return Err(error),
    }
    link::delete(host, name).step(|| format!("remove the old {name}"))?;
    qos::forget(host, name).step(|| format!("remove the queue of the old {name}"))?;
    Ok(None)
}

fn roll_back(spec: &PodSpec) {
    let name = &spec.host_ifname;
    // A connection of its own: the other one may be what failed.
    let removed = Connection::open().and_then(|mut host| {
        link::delete(&mut host, name)?;
        qos::forget(&mut host, name)
    });
    if let Err(error) = removed {
        tracing::error!(interface = %name, %error, "cannot remove a half-made interface");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PodError> + Send + 'static,
) -> Result<T, PodError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(PodError::Thread(std::io::Error::other(error))),
        },
    }
}
