//! A peer that speaks just enough BGP, on a plain socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use calico_bgp::wire::{
    AsPath, Capability, Community, Family, Framer, Message, NextHop, Open, PathAttributes,
    UpdateContext, UpdatePacker,
};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

pub(crate) const AS: u32 = 64512;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn addr(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

/// A peer that speaks just enough BGP.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    framer: Framer,
    pub(crate) context: UpdateContext,
}

impl Client {
    /// A session of the address with the speaker; `None` if that does not want it now.
    pub(crate) async fn establish(speaker: SocketAddr, from: IpAddr) -> Option<Self> {
        let IpAddr::V4(address) = from else { panic!("IPv4 only") };
        let [_, _, third, last] = address.octets();
        let stream = connect(speaker, from).await.ok()?;
        let context = UpdateContext::default();
        let mut client = Self { stream, framer: Framer::default(), context };
        let capabilities = vec![Capability::MultiProtocol(Family::IPV4_UNICAST)];
        let open = Open::new(AS, 90, Ipv4Addr::new(10, 0, third, last), capabilities);
        client.send(&Message::Open(open)).await;
        client.send(&Message::Keepalive).await;
        let opened = matches!(client.receive().await, Some(Message::Open(_)));
        let up = opened && matches!(client.receive().await, Some(Message::Keepalive));
        up.then_some(client)
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        let mut out = BytesMut::new();
        message.encode(&self.context, &mut out).unwrap();
        // What became of it, the answer tells.
        let _ = self.stream.write_all(&out).await;
    }

    pub(crate) async fn announce(&mut self, n: u8, prefixes: &[IpNet]) {
        let attributes = PathAttributes {
            next_hop: Some(NextHop::V4([10, 0, 0, n].into())),
            as_path: AsPath::empty(),
            local_pref: Some(100),
            ..Default::default()
        };
        let mut out = BytesMut::new();
        UpdatePacker::new(&self.context, Family::IPV4_UNICAST)
            .announce(&attributes, prefixes, &mut out)
            .unwrap();
        let _ = self.stream.write_all(&out).await;
    }

    /// Announces prefixes in groups of five with long attributes of their own, others in each
    /// round.
    pub(crate) async fn announce_one_by_one(&mut self, prefixes: &[IpNet], round: u32) {
        let mut out = BytesMut::new();
        let packer = UpdatePacker::new(&self.context, Family::IPV4_UNICAST);
        for chunk in prefixes.chunks(5) {
            let IpAddr::V4(first) = chunk[0].addr() else { panic!("IPv4 only") };
            let seed = first.to_bits() >> 8;
            let attributes = PathAttributes {
                next_hop: Some(NextHop::V4([10, 0, 0, 2].into())),
                local_pref: Some(100 + round),
                communities: (0..200).map(|c| Community((c << 24 | seed) ^ round << 8)).collect(),
                ..Default::default()
            };
            packer.announce(&attributes, chunk, &mut out).unwrap();
        }
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next message, or `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.framer.poll_frame().unwrap() {
                return Some(Message::decode(frame, &self.context).unwrap());
            }
            let mut buffer = vec![0; 65536];
            let n = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("in time");
            match n {
                Ok(n) if n > 0 => self.framer.push(&buffer[..n]),
                _ => return None,
            }
        }
    }

    /// Reads UPDATEs until so many prefixes came.
    pub(crate) async fn receive_prefixes(&mut self, count: usize) -> usize {
        let mut seen = 0;
        while seen < count {
            match self.receive().await {
                Some(Message::Update(u)) => seen += u.announced.iter().count(),
                Some(_) => {}
                None => break,
            }
        }
        seen
    }
}

pub(crate) fn prefixes(block: u8, count: u32) -> Vec<IpNet> {
    (0..count)
        .map(|i| {
            let a = u32::from(block) << 24 | i << 8;
            IpNet::new(Ipv4Addr::from(a).into(), 24).unwrap()
        })
        .collect()
}

/// Connects to a speaker from a loopback address.
pub(crate) async fn connect(speaker: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(64 * 1024)?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(speaker).await
}
