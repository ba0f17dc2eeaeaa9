//! The demo: a lab comes up, is looked at, gets a policy, and goes.

mod policy;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::cleanup::Removed;
use crate::error::LabError;
use crate::lab::{Lab, RunningPod};
use crate::probe::{self, Outcome};
use crate::screen::{Look, Screen, table};
use crate::store::{Client, MEMBER};
use crate::topology::{Pod, RouterKind, StoreKind, Topology};

/// How often a service address is connected to.
const CONNECTIONS: usize = 12;
/// How long an answer may take where one is expected.
const ANSWER: Duration = Duration::from_secs(3);

/// Plays the demo on a topology.
///
/// # Errors
///
/// What the lab fails with; [`LabError::Request`] if what the demo shows is not so.
pub async fn run(topology: Topology, text: &str, keep: bool) -> Result<(), LabError> {
    let cast = Cast::of(&topology)?;
    let mut screen = Screen::new();

    screen.step("Nodes: network namespaces on one fabric, each running calico-agent");
    let mut lab = Lab::create(topology, text)?;
    lab.start().await?;
    show_members(&screen, &lab);

    screen.step("BGP sessions, as each agent reports them");
    lab.wait_for_sessions().await?;
    lab.wait_for_tunnels().await?;
    show_sessions(&screen, &lab).await?;

    screen.step("Pods: calico-cni ADD, called as a container runtime does");
    add_pods(&screen, &mut lab).await?;

    screen.step("Routes: own block as blackhole, own pods by interface, other blocks by node");
    lab.wait_for_routes().await?;
    show_routes(&screen, &lab)?;

    screen.step("Traffic from a pod of one node to a pod of another");
    show_traffic(&screen, &lab, &cast).await?;

    show_services(&mut screen, &lab).await?;
    policy::play(&mut screen, &lab, &cast).await?;
    screen.end_step();

    let name = lab.topology().name.clone();
    if keep {
        let client = lab.client();
        lab.keep()?;
        screen.line(Look::Plain, format_args!("\nLab {name} stays. Look around in it, such as:"));
        screen.item(format_args!("calico-lab exec {} -- ip route", cast.server.node));
        screen.item(format_args!("calico-lab exec {} -- ip address", cast.client.name));
        let client = lab_client(&client);
        screen.item(format_args!("{client}calicoctl get workloadendpoints"));
        screen.item(format_args!("calico-lab down {name}"));
    } else {
        let Removed { processes, namespaces } = lab.remove()?;
        let what = format!("\nRemoved {processes} processes and {namespaces} namespaces.");
        screen.line(Look::Plain, what);
    }
    screen.line(Look::Title, format_args!("Demo finished in {:.1} s.", screen.elapsed()));
    Ok(())
}

/// What stands before a client's command line, so that it finds the lab's datastore.
fn lab_client(client: &Client) -> String {
    let variables = client.environment.iter().map(|(name, value)| format!("{name}={value} "));
    let variables: String = variables.collect();
    match client.namespace {
        Some(_) => format!("calico-lab exec {MEMBER} -- env {variables}"),
        None => variables,
    }
}

/// Who plays: a client, and on another node a server with two TCP ports.
struct Cast {
    client: Pod,
    server: Pod,
    open: u16,
    shut: u16,
}

impl Cast {
    fn of(topology: &Topology) -> Result<Self, LabError> {
        let find = || {
            let server = topology.pods.iter().find(|pod| pod.tcp.len() >= 2)?;
            let client = topology.pods.iter().find(|pod| pod.node != server.node)?;
            let [open, shut] = *server.tcp.first_chunk()?;
            Some(Self { client: client.clone(), server: server.clone(), open, shut })
        };
        find().ok_or_else(|| {
            LabError::Request(
                "the demo needs a pod with two TCP ports, and a pod on another node".to_owned(),
            )
        })
    }
}

fn show_members(screen: &Screen, lab: &Lab) {
    let addresses =
        |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let topology = lab.topology();
    let holder = &topology.store_node().name;
    let mut rows = Vec::new();
    let server = match topology.store {
        StoreKind::Embedded => None,
        StoreKind::Etcd => Some("datastore (etcd)"),
        StoreKind::Kubernetes => Some("datastore (Kubernetes: kube-apiserver and etcd)"),
    };
    if let Some(server) = server {
        rows.push(vec![MEMBER.into(), addresses(&lab.store_addresses()), server.to_owned()]);
    }
    for node in &topology.nodes {
        let holds = server.is_none() && node.name == *holder;
        let role = if holds { "agent, holds the datastore" } else { "agent" };
        rows.push(vec![node.name.clone(), addresses(&node.addresses), role.to_owned()]);
    }
    for it in &topology.reflectors {
        rows.push(vec![
            it.name.clone(),
            addresses(&it.addresses),
            "route reflector (calico-rr)".into(),
        ]);
    }
    for it in &topology.routers {
        let program = match it.kind {
            RouterKind::Bird => "BIRD 2",
            RouterKind::Frr => "FRR",
        };
        let role = format!("router ({program}), AS {}", it.as_number);
        let all: Vec<IpNet> = it.interfaces().flat_map(|(_, nets)| nets).copied().collect();
        rows.push(vec![it.name.clone(), addresses(&all), role]);
    }
    for it in &topology.hosts {
        rows.push(vec![
            it.name.clone(),
            addresses(&it.addresses),
            "machine outside of the cluster".into(),
        ]);
    }
    table(&rows).iter().for_each(|row| screen.item(row));
}

async fn show_sessions(screen: &Screen, lab: &Lab) -> Result<(), LabError> {
    let mut rows = Vec::new();
    for node in &lab.topology().nodes {
        let status = lab.status(&node.name).await.map_err(LabError::Machine)?;
        for peer in status.bgp.map(|bgp| bgp.peers).unwrap_or_default() {
            rows.push(vec![
                node.name.clone(),
                format!("{} AS {}", peer.address, peer.as_number),
                session_kind(&peer.peer_type),
                peer.state,
            ]);
        }
    }
    table(&rows).iter().for_each(|row| screen.item(row));
    Ok(())
}

/// In the words of `calicoctl node status`.
fn session_kind(kind: &str) -> String {
    match kind {
        "NodeMesh" => "node-to-node mesh".to_owned(),
        "NodePeer" => "node specific".to_owned(),
        "GlobalPeer" => "global".to_owned(),
        other => other.to_owned(),
    }
}

async fn add_pods(screen: &Screen, lab: &mut Lab) -> Result<(), LabError> {
    let pods = lab.topology().pods.clone();
    let name = pods.iter().map(|pod| pod.id().len()).max().unwrap_or_default();
    for pod in pods {
        let started = Instant::now();
        let made = lab.add_pod(pod).await?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        let addresses: Vec<String> =
            made.attachment.addresses.iter().map(ToString::to_string).collect();
        screen.item(format_args!(
            "{:<name$}  {}  {:<16}  {}  ({took:.0} ms)",
            made.pod.id(),
            made.pod.node,
            made.attachment.host_interface,
            addresses.join(" "),
        ));
    }
    Ok(())
}

fn show_routes(screen: &Screen, lab: &Lab) -> Result<(), LabError> {
    for node in lab.topology().nodes.iter().take(2) {
        screen.item(screen.paint(Look::Dim, format_args!("{}# ip route", node.name)));
        screen.block(&lab.route_text(&node.name, false)?);
    }
    for router in &lab.topology().routers {
        screen.item(screen.paint(Look::Dim, format_args!("{}# ip route", router.name)));
        screen.block(&lab.route_text(&router.name, false)?);
    }
    if lab.topology().has_pool(true) {
        let node = &lab.topology().nodes[0].name;
        screen.item(screen.paint(Look::Dim, format_args!("{node}# ip -6 route | grep -v fe80")));
        let text = lab.route_text(node, true)?;
        let global = text.lines().filter(|line| !line.contains("fe80"));
        global.for_each(|line| screen.item(line.trim_end()));
    }
    Ok(())
}

async fn show_traffic(screen: &Screen, lab: &Lab, cast: &Cast) -> Result<(), LabError> {
    let client = lab.pod(&cast.client.id())?;
    let server = lab.pod(&cast.server.id())?;
    for v6 in [false, true] {
        let Some(address) = server.address(v6) else { continue };
        let outcome = probe::ping(client.namespace(), address, ANSWER).await?;
        expect(screen, client, &format!("ping {address}"), &outcome, true)?;
        for &port in &cast.server.tcp {
            let to = (address, port).into();
            let outcome = probe::tcp(client.namespace(), to, ANSWER).await?;
            expect(screen, client, &format!("tcp {to}"), &outcome, true)?;
        }
    }
    // What a router announces, pods reach by their node's learned default route.
    for loopback in lab.topology().routers.iter().flat_map(|router| &router.loopbacks) {
        let address = loopback.addr();
        let outcome = probe::ping(client.namespace(), address, ANSWER).await?;
        expect(screen, client, &format!("ping {address}"), &outcome, true)?;
    }
    Ok(())
}

/// Connects to each service address from outside, several times, and shows who answered.
async fn show_services(screen: &mut Screen, lab: &Lab) -> Result<(), LabError> {
    let topology = lab.topology();
    let (Some(host), false) = (topology.hosts.first(), topology.services.is_empty()) else {
        return Ok(());
    };
    screen.step("Service addresses, from outside: each connection goes to one of the nodes");
    for service in &topology.services {
        for &address in &service.addresses {
            let to = (address, service.port).into();
            let mut answers: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..CONNECTIONS {
                match probe::tcp(&lab.namespace(&host.name), to, ANSWER).await? {
                    Outcome::Answered { answer, .. } => *answers.entry(answer).or_default() += 1,
                    other => {
                        let what = format!("{}: tcp {to}: {other}", host.name);
                        return Err(LabError::Request(what));
                    }
                }
            }
            let shares = answers.iter().map(|(pod, times)| format!("{pod} {times} times"));
            let shares = shares.collect::<Vec<_>>().join(", ");
            let shares = screen.paint(Look::Good, shares);
            screen.item(format_args!("{}> tcp {to}, {CONNECTIONS} times: {shares}", host.name));
        }
    }
    Ok(())
}

/// Shows an outcome, and fails if it is not the one that the demo promises.
fn expect(
    screen: &Screen,
    from: &RunningPod,
    what: &str,
    outcome: &Outcome,
    answered: bool,
) -> Result<(), LabError> {
    let look = if outcome.is_answered() { Look::Good } else { Look::Bad };
    screen.item(format_args!("{}> {what}: {}", from.pod.name, screen.paint(look, outcome)));
    if outcome.is_answered() == answered {
        return Ok(());
    }
    let wanted = if answered { "an answer" } else { "no answer" };
    Err(LabError::Request(format!("{}: {what}: expected {wanted}, got: {outcome}", from.pod.id())))
}
