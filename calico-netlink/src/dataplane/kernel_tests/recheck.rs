//! Connections that go on while policy changes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Instant;

use super::lab::{Host, PATIENCE, forward};
use super::*;

/// Both ends of a connection.
pub(super) struct Talk {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
}

impl Talk {
    pub(super) fn new(
        server: &Host,
        address: IpAddr,
        port: u16,
        connect: impl FnOnce() -> TcpStream,
    ) -> Self {
        let listener = server.listen(address, port);
        let client = connect();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { client, server }
    }

    /// Whether a byte from the client, or from the server, arrives. What was sent before and did
    /// not arrive yet is sent again by the kernel and arrives first.
    pub(super) fn goes_on(&mut self, from_server: bool) -> bool {
        let (from, to) = match from_server {
            true => (&mut self.server, &mut self.client),
            false => (&mut self.client, &mut self.server),
        };
        from.write_all(b"x").unwrap();
        to.read(&mut [0; 64]).is_ok_and(|read| read > 0)
    }

    /// Waits until it goes on, or no longer does.
    async fn until(&mut self, goes_on: bool, from_server: bool) {
        let started = Instant::now();
        while self.goes_on(from_server) != goes_on {
            assert!(started.elapsed() < Duration::from_secs(30), "goes on: {}", !goes_on);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn connect(to: IpAddr, port: u16) -> TcpStream {
    TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_secs(20)).unwrap()
}

pub(super) fn from_host(host: &Host, to: IpAddr, port: u16) -> impl FnOnce() -> TcpStream {
    move || host.run(move || connect(to, port))
}

#[test]
fn a_connection_that_policy_denies_by_now_is_cut_until_it_is_allowed_again() {
    in_new_netns(async || {
        forward();
        let (server, client, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let dataplane = open().await;
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
        let mut v4 = Talk::new(&server.host, server.v4, 80, from_host(&client.host, server.v4, 80));
        let mut v6 = Talk::new(&server.host, server.v6, 81, from_host(&client.host, server.v6, 81));
        let mut stays =
            Talk::new(&server.host, server.v4, 82, from_host(&other.host, server.v4, 82));
        // Never policy's matter.
        let mut probe = Talk::new(&server.host, server.v4, 83, || connect(server.v4, 83));
        for talk in [&mut v4, &mut v6, &mut stays, &mut probe] {
            talk.until(true, false).await;
            talk.until(true, true).await;
        }

        let removed = [client.v4, client.v6].map(|a| SetMember::Net(a.into())).to_vec();
        let gone = Update::SetDelta { id: "s:clients".into(), added: vec![], removed };
        apply(&dataplane, vec![gone]).await;
        // Whoever sends: forgotten connections would be taken up again by the server.
        v4.until(false, true).await;
        v6.until(false, false).await;
        assert!(!v4.goes_on(false) && !v6.goes_on(true));
        stays.until(true, false).await;
        probe.until(true, true).await;

        apply(&dataplane, vec![web(&[])]).await;
        v4.until(true, false).await;
        v6.until(true, true).await;
        stays.until(true, false).await;

        // Another agent's first complete state is held against them, too.
        drop(dataplane);
        let dataplane = open().await;
        let updates = vec![
            address_set("s:clients", &[&other]),
            open_profile(),
            web(&["s:clients"]),
            Update::Endpoint(endpoint(&server, &["web"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::Endpoint(endpoint(&other, &[], &[])),
            Update::InSync,
        ];
        apply(&dataplane, updates).await;
        v4.until(false, false).await;
        stays.until(true, true).await;
        probe.until(true, false).await;
    });
}

#[test]
fn connections_are_listed_marked_and_forgotten() {
    in_new_netns(async || {
        let _dataplane = open().await;
        super::lab::ip("link set lo up");
        let mut socket = Socket::open().unwrap();
        let mut talks = Vec::new();
        for address in ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let listener = std::net::TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            talks.push((connect(address, port), listener));
            let connections = socket.connections().await.unwrap();
            let found = connections.iter().find(|c| c.original.ports.is_some_and(|p| p.1 == port));
            let found = *found.expect("the connection is listed");
            assert_eq!((found.original.protocol, found.mark, found.related), (6, 0, false));
            assert_eq!(found.as_forwarded(), found.original);
            let mark = async |socket: &mut Socket| {
                let connections = socket.connections().await.unwrap();
                connections.iter().find(|c| c.original == found.original).map(|c| c.mark)
            };
            socket.mark_connection(&found, 0x50, true).await.unwrap();
            socket.mark_connection(&found, 0x10, false).await.unwrap();
            assert_eq!(mark(&mut socket).await, Some(0x40));
            socket.forget_connection(&found).await.unwrap();
            assert_eq!(mark(&mut socket).await, None);
            // What is gone cannot be forgotten twice, which is no error.
            socket.forget_connection(&found).await.unwrap();
        }
    });
}
