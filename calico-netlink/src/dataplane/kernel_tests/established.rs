//! What packets of established connections are asked for, and when.

use std::net::UdpSocket;
use std::time::Instant;

use super::lab::{forward, nft};
use super::*;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Two ends that know each other.
struct Talk {
    client: UdpSocket,
    server: UdpSocket,
}

impl Talk {
    fn new(server: &Pod, client: &Pod) -> Self {
        let ends =
            Self { client: client.host.udp(client.v4, 0), server: server.host.udp(server.v4, 7) };
        ends.client.connect((server.v4, 7)).unwrap();
        ends.server.connect(ends.client.local_addr().unwrap()).unwrap();
        ends
    }

    /// Whether anything of what is sent now arrives, each way.
    fn goes_on(&self) -> (bool, bool) {
        let arrives = |from: &UdpSocket, to: &UdpSocket| {
            from.send(b"x").unwrap();
            to.recv(&mut [0; 8]).is_ok()
        };
        (arrives(&self.client, &self.server), arrives(&self.server, &self.client))
    }

    async fn until(&self, goes_on: bool) {
        eventually("the connection", || self.goes_on() == (goes_on, goes_on)).await;
    }
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn asks_for_cuts() -> bool {
    nft(&["list", "chain", "inet", "calico", "filter-FORWARD"]).contains("ct mark")
}

#[test]
fn rules_ask_whether_a_connection_is_cut_while_one_is() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let all = |allowed: &[&Pod]| {
            let web = ingress_policy(
                "web",
                &[(Action::Allow, &|rule| rule.source.sets = in_set("s:allowed"))],
            );
            vec![
                address_set("s:allowed", allowed),
                open_profile(),
                web,
                Update::Endpoint(endpoint(&server, &["web"], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::InSync,
            ]
        };
        let dataplane = open().await;
        apply(&dataplane, all(&[&client])).await;
        let talk = Talk::new(&server, &client);
        talk.until(true).await;
        assert!(!asks_for_cuts());

        apply(&dataplane, all(&[])).await;
        talk.until(false).await;
        assert!(asks_for_cuts());

        // Cut connections stay cut, whoever runs.
        drop(dataplane);
        let dataplane = open().await;
        assert!(asks_for_cuts());
        assert_eq!(talk.goes_on(), (false, false));
        apply(&dataplane, all(&[])).await;
        assert!(asks_for_cuts());
        assert_eq!(talk.goes_on(), (false, false));

        apply(&dataplane, all(&[&client])).await;
        eventually("no connection is cut", || !asks_for_cuts()).await;
        talk.until(true).await;
    });
}

/// What is marked when a run begins is asked for, though no table is left.
#[test]
fn connections_that_an_earlier_run_has_cut_stay_so_without_its_table() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let updates = || {
            vec![
                open_profile(),
                ingress_policy("none", &[]),
                Update::Endpoint(endpoint(&server, &["none"], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::InSync,
            ]
        };
        let dataplane = open().await;
        let open_server = Update::Endpoint(endpoint(&server, &[], &[]));
        apply(&dataplane, [updates(), vec![open_server]].concat()).await;
        let talk = Talk::new(&server, &client);
        talk.until(true).await;
        apply(&dataplane, updates()).await;
        talk.until(false).await;
        drop(dataplane);
        nft(&["delete", "table", "inet", "calico"]);
        let dataplane = open().await;
        apply(&dataplane, updates()).await;
        assert!(asks_for_cuts());
        assert_eq!(talk.goes_on(), (false, false));
    });
}

#[test]
fn listings_have_the_connections_of_the_addresses_asked_for() {
    in_new_netns(async || {
        forward();
        let (a, b, c) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open().await;
        let known = [&a, &b, &c].map(|pod| Update::Endpoint(endpoint(pod, &[], &[])));
        apply(&dataplane, [vec![open_profile()], known.into(), vec![Update::InSync]].concat())
            .await;
        for (server, client) in [(&a, &b), (&b, &c)] {
            Talk::new(server, client).until(true).await;
        }
        let mut socket = Socket::open().unwrap();
        let mut sources = async |addresses: &[std::net::IpAddr]| {
            let addresses = addresses.iter().copied().collect();
            let all = socket.connections_of(&addresses).await.unwrap();
            let by_end = socket.connections_by_end(&addresses).await.unwrap();
            let [all, by_end] = [all, by_end].map(|listed| {
                let mut sources: Vec<_> = listed.iter().map(|c| c.original.source).collect();
                sources.sort();
                sources
            });
            assert_eq!(all, by_end);
            all
        };
        assert_eq!(sources(&[a.v4]).await, [b.v4]);
        assert_eq!(sources(&[b.v4, a.v4]).await, [b.v4, c.v4]);
        assert_eq!(sources(&[c.v4, c.v6]).await, [c.v4]);
        assert_eq!(sources(&[a.v6]).await, [] as [std::net::IpAddr; 0]);
        assert_eq!(sources(&[a.v4, a.v6, b.v6, c.v4, c.v6]).await, [b.v4, c.v4]);

        let left = async |socket: &mut Socket| {
            let left = socket.connections().await.unwrap();
            left.iter().map(|c| c.original.source).collect::<Vec<_>>()
        };
        socket.forget_connections(&[a.v4, a.v6]).await.unwrap();
        assert_eq!(left(&mut socket).await, [c.v4]);
        Talk::new(&a, &b).until(true).await;
        let kernel = nix::sys::utsname::uname().unwrap();
        let release = kernel.release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
        if (numbers.next(), numbers.next()) >= (Some(6), Some(10)) {
            socket.forget_by_end(&[a.v4, a.v6].into()).await.unwrap();
            assert_eq!(left(&mut socket).await, [c.v4]);
        }
        socket.forget_connections(&[b.v4]).await.unwrap();
        assert_eq!(left(&mut socket).await, [] as [std::net::IpAddr; 0]);
    });
}
