//! Routers of kind `frr`: zebra and bgpd of FRR, with a configuration made from the topology.
//!
//! Both run in the router's namespace, as the processes that they are (nothing of FRR's start-up
//! scripts), with a directory of their own for sockets and files: several fit on one machine.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ipnet::IpNet;
use nix::unistd::{User, chown};

use crate::error::LabError;
use crate::process::Program;
use crate::record::Record;
use crate::topology::{Router, SessionAddress, Tells, Topology, router_id};
use crate::wait::Pending;
use crate::{ip, netns, programs};

/// Debian's package.
pub(crate) const PACKAGE: &str = "frr";
/// Where it keeps its daemons, outside of `PATH`.
const DAEMONS: &str = "/usr/lib/frr";
/// Where zebra listens for bgpd.
const ZEBRA_SOCKET: &str = "zserv.api";
/// The file with bgpd's configuration, in the router's directory.
const CONFIGURATION: &str = "frr.conf";
/// The user that they run as.
const USER: &str = "frr";
/// Seconds between keepalives, and without one until a session is given up.
const TIMERS: &str = "3 9";
/// How many routers may be between a loopback and a node.
const MULTIHOP: u8 = 8;

/// The daemons that a router runs, in the order in which they start.
pub(crate) fn daemons() -> Result<[PathBuf; 2], LabError> {
    let find = |name: &str| {
        let path = Path::new(DAEMONS).join(name);
        path.is_file().then_some(path).ok_or_else(|| {
            LabError::Machine(format!(
                "the program {DAEMONS}/{name} is missing; run `apt-get install {PACKAGE}`"
            ))
        })
    };
    Ok([find("zebra")?, find("bgpd")?])
}

/// Starts zebra in the router's namespace, and writes everything that is needed from then on.
pub(crate) fn start(
    record: &Record,
    topology: &Topology,
    router: &Router,
) -> Result<Program, LabError> {
    let directory = record.member(&router.name)?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(LabError::file("write", &path))
    };
    write("zebra.conf", "")?;
    write("bgpd.conf", "")?;
    write(CONFIGURATION, &configuration(topology, router))?;
    // It looks for one, and complains if there is none.
    write("vtysh.conf", "")?;
    // They give up root for a user of their own, and insist on it.
    let user = User::from_name(USER).ok().flatten().ok_or_else(|| {
        LabError::Machine(format!("there is no user {USER}; run `apt-get install {PACKAGE}`"))
    })?;
    chown(&directory, Some(user.uid), Some(user.gid))
        .map_err(|errno| LabError::file("give away", &directory)(errno.into()))?;
    let [zebra, _] = daemons()?;
    start_daemon(&directory, &topology.name, &router.name, &zebra)
}

/// Starts bgpd, once zebra listens: otherwise it would look for it again only after ten seconds.
/// It has nothing to do before [`configure`].
///
/// # Errors
///
/// [`Pending::NotYet`] while zebra does not listen.
pub(crate) fn start_bgpd(directory: &Path, lab: &str, router: &str) -> Result<Program, Pending> {
    if !directory.join(ZEBRA_SOCKET).exists() {
        return Err(Pending::NotYet("zebra does not listen yet".to_owned()));
    }
    let [_, bgpd] = daemons()?;
    Ok(start_daemon(directory, lab, router, &bgpd)?)
}

fn start_daemon(
    directory: &Path,
    lab: &str,
    router: &str,
    daemon: &Path,
) -> Result<Program, LabError> {
    let name = daemon.file_name().map(|it| it.to_string_lossy()).unwrap_or_default();
    let at = |name: &str| directory.join(name).to_string_lossy().into_owned();
    Program::start(
        format!("{name} on {router}"),
        &netns::name_of(lab, router),
        daemon,
        &[
            "--config_file",
            &at(&format!("{name}.conf")),
            "--pid_file",
            &at(&format!("{name}.pid")),
            "--socket",
            &at(ZEBRA_SOCKET),
            "--vty_socket",
            &directory.to_string_lossy(),
            // No terminal over TCP.
            "--vty_port",
            "0",
            "--log",
            "stdout",
        ],
        directory.join(format!("{name}.log")),
    )
}

/// Gives bgpd its configuration once it has been told by zebra which addresses there are. A session
/// that began before has no next hop for IPv6, and its routes are lost for good.
///
/// # Errors
///
/// [`Pending::NotYet`] while the daemons do not know of each other, or one does not answer.
pub(crate) async fn configure(directory: &Path) -> Result<(), Pending> {
    let clients = ask(directory, "show zebra client summary").await;
    let clients = clients.map_err(|error| Pending::NotYet(error.to_string()))?;
    if !clients.lines().any(|line| line.starts_with("bgp ")) {
        return Err(Pending::NotYet("bgpd is no client of zebra yet".to_owned()));
    }
    let file = directory.join(CONFIGURATION);
    vtysh(directory, &["-d", "bgpd", "-f", &file.to_string_lossy()]).await?;
    Ok(())
}

/// What `vtysh` answers to a command, such as `show bgp summary`.
pub(crate) async fn ask(directory: &Path, command: &str) -> Result<String, LabError> {
    vtysh(directory, &["-c", command]).await
}

async fn vtysh(directory: &Path, args: &[&str]) -> Result<String, LabError> {
    let vtysh = programs::system("vtysh", PACKAGE)?;
    let output = tokio::process::Command::new(vtysh)
        .arg("--vty_socket")
        .arg(directory)
        .arg("--config_dir")
        .arg(directory)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| LabError::Machine(format!("cannot run vtysh: {error}")))?;
    ip::check(&output, || format!("vtysh {}", args.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Somebody that a router has a session with.
struct Neighbour<'a> {
    name: &'a str,
    own: IpAddr,
    theirs: IpAddr,
    as_number: u32,
    /// A node of the cluster, and no other router.
    node: bool,
    /// It is told no more than the router's `tells` says.
    below: bool,
}

fn neighbours<'a>(topology: &'a Topology, router: &'a Router) -> Vec<Neighbour<'a>> {
    let nodes = topology.nodes_of(router).flat_map(|node| {
        [false, true].into_iter().filter_map(move |v6| {
            let (own, theirs) = topology.session(router, node, v6)?;
            let as_number = topology.as_of(node);
            Some(Neighbour { name: &node.name, own, theirs, as_number, node: true, below: true })
        })
    });
    let routers = topology.peers_of(router).flat_map(|other| {
        [false, true].into_iter().filter_map(move |v6| {
            let (own, theirs) = topology.session_of_routers(router, other, v6)?;
            let (name, as_number) = (&other.name, other.as_number);
            let below = !router.uplinks.contains(name);
            Some(Neighbour { name, own, theirs, as_number, node: false, below })
        })
    });
    nodes.chain(routers).collect()
}

/// The configuration of bgpd.
fn configuration(topology: &Topology, router: &Router) -> String {
    let neighbours = neighbours(topology, router);
    let mut text = format!("hostname {}\n", router.name);
    // Before those who use them: a change of a route map takes effect only after five seconds.
    for v6 in [false, true] {
        write_announced(&mut text, router, v6);
    }
    let _ = writeln!(text, "!\nrouter bgp {}", router.as_number);
    let _ = writeln!(text, " bgp router-id {}", router_id(&router.addresses));
    // FRR takes and gives nothing over eBGP without a policy (RFC 8212); here all is allowed.
    text.push_str(" no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n");
    // Paths of equal length share the traffic whatever is on them: each rack or node is an AS.
    text.push_str(" bgp bestpath as-path multipath-relax\n no bgp network import-check\n");
    // A node that restarts keeps its routes here (RFC 4724). One that is silent for too long does
    // not: this router would otherwise go on to send to a dead node for minutes (RFC 8538).
    text.push_str(" no bgp graceful-restart notification\n");
    // Otherwise it holds back what it tells new peers for seconds, so that they can be told
    // together.
    let _ = writeln!(text, " timers bgp {TIMERS}\n coalesce-time 50");
    for it in &neighbours {
        let _ = write!(
            text,
            " neighbor {0} remote-as {1}\n neighbor {0} description {2}\n \
             neighbor {0} advertisement-interval 0\n neighbor {0} timers connect 1\n",
            it.theirs, it.as_number, it.name,
        );
        if it.node && router.session == SessionAddress::Loopback {
            let _ = writeln!(text, " neighbor {} update-source {}", it.theirs, it.own);
            if it.as_number != router.as_number {
                let _ = writeln!(text, " neighbor {} ebgp-multihop {MULTIHOP}", it.theirs);
            }
        }
        if let Some(password) = router.password.as_ref().filter(|_| it.node) {
            let _ = writeln!(text, " neighbor {} password {password}", it.theirs);
        }
    }
    for v6 in [false, true] {
        write_family(&mut text, router, v6, &neighbours);
    }
    text
}

fn announced(router: &Router, v6: bool) -> impl Iterator<Item = &IpNet> {
    router.announces.iter().filter(move |it| it.addr().is_ipv6() == v6)
}

fn write_family(text: &mut String, router: &Router, v6: bool, neighbours: &[Neighbour<'_>]) {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let _ = writeln!(text, " !\n address-family {family} unicast");
    text.push_str("  maximum-paths 64\n  maximum-paths ibgp 64\n");
    let (defaults, prefixes): (Vec<&IpNet>, Vec<&IpNet>) =
        announced(router, v6).partition(|it| it.prefix_len() == 0);
    for prefix in prefixes {
        let _ = writeln!(text, "  network {prefix}");
    }
    for it in neighbours.iter().filter(|it| it.theirs.is_ipv6() == v6) {
        let _ = writeln!(text, "  neighbor {} activate", it.theirs);
        if it.as_number == router.as_number {
            // What other routers told is told on with this router as next hop; what nodes told
            // keeps theirs.
            let _ = writeln!(text, "  neighbor {} next-hop-self", it.theirs);
            if it.node {
                let _ = writeln!(text, "  neighbor {} route-reflector-client", it.theirs);
            }
        }
        // A `network` statement would keep this router itself from using a default route that
        // it learns.
        if it.below && !defaults.is_empty() {
            let _ = writeln!(text, "  neighbor {} default-originate", it.theirs);
        }
        if it.below && router.tells == Tells::Announced {
            let _ = writeln!(text, "  neighbor {} route-map announced-{family} out", it.theirs);
        }
    }
    text.push_str(" exit-address-family\n");
}

/// What is told to those that are told nothing else.
fn write_announced(text: &mut String, router: &Router, v6: bool) {
    let (family, list) = if v6 { ("ipv6", "ipv6") } else { ("ipv4", "ip") };
    text.push_str("!\n");
    for prefix in announced(router, v6) {
        let _ = writeln!(text, "{list} prefix-list announced-{family} permit {prefix}");
    }
    if announced(router, v6).next().is_none() {
        // A list that does not exist would permit everything.
        let _ = writeln!(text, "{list} prefix-list announced-{family} deny any");
    }
    let _ = write!(
        text,
        "route-map announced-{family} permit 10\n match {list} address prefix-list announced-{family}\n"
    );
}
