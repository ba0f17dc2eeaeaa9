//! Flow offload: connections whose packets no rule sees any more. Few kernels of cloud machines have
//! flow tables, so most of this runs in a virtual machine: `cargo xtask vm`, which
//! `cargo xtask test` does too.

mod figures;
mod forged;
mod limits;
mod restart;
mod translated;

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use super::lab::{Host, forward, ip, nft};
use super::recheck::{Talk, from_host};
use super::*;
use crate::dataplane::{FLOW_TABLE, FlowOffload, FlowStatus};

/// The machine is emulated, and slow.
const SOON: Duration = Duration::from_secs(30);

/// A connection of either protocol.
trait Exchange {
    /// Whether something from the client, or from the server, arrives.
    fn goes(&mut self, from_server: bool) -> bool;
}

impl Exchange for Talk {
    fn goes(&mut self, from_server: bool) -> bool {
        self.goes_on(from_server)
    }
}

/// Both ends of a connection of datagrams.
struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
}

impl Datagrams {
    fn new(client: &Host, from: IpAddr, server: &Host, to: IpAddr, port: u16) -> Self {
        let (client, server) = (client.udp(from, port), server.udp(to, port));
        client.connect((to, port)).unwrap();
        server.connect((from, port)).unwrap();
        Self { client, server }
    }
}

impl Exchange for Datagrams {
    fn goes(&mut self, from_server: bool) -> bool {
        let (from, to) = match from_server {
            true => (&self.server, &self.client),
            false => (&self.client, &self.server),
        };
        // A refusal of an earlier one is told here.
        let _refused = from.send(b"x");
        to.recv(&mut [0; 8]).is_ok()
    }
}

/// Counts the packets that are forwarded by rules, in a table of another program.
fn watch() {
    nft(&[
        "add table inet watch; add chain inet watch f { type filter hook forward priority -500; };
        add rule inet watch f counter comment \"all\"",
    ]);
}

async fn forwarded() -> u64 {
    let counters = Socket::open().unwrap().rule_counters(Family::Inet, "watch").await.unwrap();
    counters.iter().map(|counter| counter.packets).sum()
}

/// What there is to be said when a test fails.
fn tables() -> String {
    let connections = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
    format!("{}\n{}", nft(&["list", "ruleset"]), connections.unwrap_or_default())
}

/// How many of eight packets met rules; all of them must arrive.
async fn seen(connection: &mut impl Exchange) -> u64 {
    let before = forwarded().await;
    for from_server in [false, true, false, true, false, true, false, true] {
        assert!(connection.goes(from_server), "from server: {from_server}\n{}", tables());
    }
    forwarded().await - before
}

/// The dataplane's tasks share this thread.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Waits until no rule sees the connection's packets, or all see them.
async fn until_offloaded(connection: &mut impl Exchange, offloaded: bool) {
    let started = Instant::now();
    loop {
        let seen = seen(connection).await;
        if offloaded == (seen == 0) && (offloaded || seen >= 8) {
            return;
        }
        assert!(started.elapsed() < SOON, "offloaded: {}, {seen} packets of 8 seen", !offloaded);
        pause().await;
    }
}

/// Waits until it no longer goes on.
async fn until_cut(connection: &mut impl Exchange, from_server: bool, what: &str) {
    let started = Instant::now();
    while connection.goes(from_server) {
        assert!(started.elapsed() < SOON, "{what} goes on\n{}", tables());
        pause().await;
    }
}

/// Waits until it goes on in both directions: what was sent in vain is sent again in longer and
/// longer intervals.
async fn until_healed(connection: &mut impl Exchange) {
    let started = Instant::now();
    while !(connection.goes(false) && connection.goes(true)) {
        assert!(started.elapsed() < SOON, "it does not go on");
        pause().await;
    }
}

/// Of workloads and `up0`.
fn offload() -> Option<FlowOffload> {
    Some(FlowOffload::new(|name| name == "up0"))
}

async fn open_offloading() -> LinuxDataplane {
    let dataplane = open().await;
    dataplane.offload_flows(offload()).await;
    dataplane
}

async fn flow_table() -> bool {
    let table = Socket::open().unwrap().read_table(Family::Inet, FLOW_TABLE).await;
    table.unwrap().0.is_some()
}

/// Whether the kernel can or cannot, policy is in force, and what is said of it is true.
#[test]
fn policy_is_in_force_on_kernels_with_and_without_flow_tables() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open_offloading().await;
        assert_eq!(
            dataplane.flow_status().await,
            FlowStatus { wanted: true, ..Default::default() }
        );
        apply(&dataplane, everything(&server, &client)).await;
        let status = dataplane.flow_status().await;
        assert_eq!(status.devices, if status.refused { 0 } else { 2 });
        assert_eq!(flow_table().await, !status.refused);
        let mut talk = Datagrams::new(&client.host, client.v4, &server.host, server.v4, 9);
        let mut other = Datagrams::new(&client.host, client.v4, &server.host, server.v4, 10);
        for from_server in [false, true, false, true, false, true] {
            assert!(talk.goes(from_server));
        }
        assert!(!other.goes(false));
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        assert_eq!(dataplane.flow_status().await, status);
        dataplane.offload_flows(None).await;
        assert_eq!(dataplane.flow_status().await, FlowStatus::default());
        assert!(!flow_table().await && talk.goes(false) && !other.goes(false));
    });
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn offloaded_connections_are_cut_when_policy_denies_them_and_not_before() {
    in_new_netns(async || {
        forward();
        let (server, client, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open_offloading().await;
        let web = |sets: &[&str]| {
            let sets: Vec<SetId> = sets.iter().map(|id| (*id).into()).collect();
            ingress_policy("web", &[(Action::Allow, &|rule| rule.source.sets.clone_from(&sets))])
        };
        let updates = vec![
            address_set("s:clients", &[&client, &other]),
            open_profile(),
            web(&["s:clients"]),
            Update::Endpoint(endpoint(&server, &["web"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::Endpoint(endpoint(&other, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        watch();
        let to = |host: &Pod, address, port| {
            Talk::new(&server.host, address, port, from_host(&host.host, address, port))
        };
        let mut v4 = to(&client, server.v4, 80);
        let mut v6 = to(&client, server.v6, 81);
        let mut udp = Datagrams::new(&client.host, client.v4, &server.host, server.v4, 82);
        let mut stays = to(&other, server.v4, 83);
        let mut stays_udp = Datagrams::new(&other.host, other.v6, &server.host, server.v6, 84);
        for connection in [&mut v4 as &mut Talk, &mut v6, &mut stays] {
            until_offloaded(connection, true).await;
        }
        until_offloaded(&mut udp, true).await;
        until_offloaded(&mut stays_udp, true).await;

        let removed = [client.v4, client.v6].map(|a| SetMember::Net(a.into())).to_vec();
        let gone = Update::SetDelta { id: "s:clients".into(), added: vec![], removed };
        apply(&dataplane, vec![gone]).await;
        until_cut(&mut v4, true, "v4").await;
        until_cut(&mut v6, false, "v6").await;
        until_cut(&mut udp, true, "udp").await;
        until_offloaded(&mut stays, true).await;
        until_offloaded(&mut stays_udp, true).await;
        // Not one of them comes back, whoever sends.
        for _ in 0..2 {
            assert!(!v4.goes(false) && !v6.goes(true) && !udp.goes(false) && !udp.goes(true));
        }

        apply(&dataplane, vec![web(&[])]).await;
        until_healed(&mut v4).await;
        until_offloaded(&mut v4, true).await;
        until_healed(&mut udp).await;
        until_offloaded(&mut udp, true).await;

        // An endpoint that is closed: its policy is not known.
        let closed = Update::Endpoint(endpoint(&other, &[], &["unknown"]));
        apply(&dataplane, vec![closed]).await;
        assert!(!stays.goes(false) && !stays_udp.goes(false));
        apply(&dataplane, vec![Update::Endpoint(endpoint(&other, &[], &[]))]).await;
        until_healed(&mut stays).await;
        until_offloaded(&mut stays, true).await;

        // One that is gone, its interface still there; and what takes its address has no part in what
        // was.
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&other))]).await;
        // What was sent again after it was healed may be there still.
        until_cut(&mut stays, false, "tcp").await;
        until_cut(&mut stays, true, "tcp").await;
        assert!(!stays_udp.goes(false) && !stays_udp.goes(true));
        let known = Socket::open().unwrap().connections().await.unwrap();
        assert!(known.iter().all(|c| c.original.source != other.v4), "{known:?}");
        until_offloaded(&mut v4, true).await;
    });
}

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn devices_of_the_flow_table_follow_interfaces_and_endpoints() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open_offloading().await;
        let on = |pod: &Pod| Update::Endpoint(endpoint(pod, &[], &[]));
        // Policy comes before the interface of the third.
        let third = Update::Endpoint(WorkloadEndpoint {
            id: EndpointId { namespace: "prod".into(), name: "third".into() },
            interface: "cali3".into(),
            addresses: vec![IpAddr::from([10, 65, 0, 3]).into()],
            ..endpoint(&server, &[], &[])
        });
        let updates = vec![open_profile(), on(&server), on(&client), third, Update::InSync];
        apply(&dataplane, updates).await;
        watch();
        let until_devices = async |devices: usize| {
            let started = Instant::now();
            while dataplane.flow_status().await.devices != devices {
                let status = dataplane.flow_status().await;
                assert!(started.elapsed() < SOON, "{devices} are wanted: {status:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        until_devices(2).await;
        let third = Pod::new(3);
        until_devices(3).await;
        let mut talk = Talk::new(&third.host, third.v4, 80, from_host(&client.host, third.v4, 80));
        until_offloaded(&mut talk, true).await;
        let listed = nft(&["list", "table", "inet", FLOW_TABLE]);
        assert!(listed.contains("flow add @calico"), "{listed}");

        // Another device under the same name.
        ip("link del cali3");
        until_devices(2).await;
        drop(third);
        let third = Pod::new(3);
        until_devices(3).await;
        let mut talk = Talk::new(&third.host, third.v4, 80, from_host(&client.host, third.v4, 80));
        until_offloaded(&mut talk, true).await;

        // Somebody takes a device out, or the table away.
        nft(&["delete table inet calico-flowtable"]);
        until_devices(3).await;
        until_offloaded(&mut talk, true).await;
        apply(&dataplane, vec![Update::EndpointRemoved(endpoint_id(&server))]).await;
        until_devices(2).await;
        until_offloaded(&mut talk, true).await;
        dataplane.remove_all().await.unwrap();
        assert!(!flow_table().await);
    });
}
