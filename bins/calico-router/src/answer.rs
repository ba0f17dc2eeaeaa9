//! Answers to questions about BGP.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_bgp::rib::{PeerId, Rejections};
use calico_bgp::runtime::{SpeakerHandle, SpeakerStopped};
use calico_bgp::speaker::Speaker;
use calico_control::{
    Direction, Explanation, NeighborRoute, NeighborRoutes, Peers, Reply, Request, Route, Told,
};
use ipnet::IpNet;
use serde_json::to_vec;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::values;

/// Destinations in one page: what the speaker is held up for, and what a line has.
const PAGE: usize = 512;

/// A client that does not take an answer for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running speaker, for those who ask about it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BgpView {
    handle: SpeakerHandle,
    descriptions: Arc<BTreeMap<SocketAddr, String>>,
}

impl BgpView {
    /// Of a speaker, with what the operator calls its peers.
    #[must_use]
    pub fn new(handle: SpeakerHandle, descriptions: BTreeMap<SocketAddr, String>) -> Self {
        Self { handle, descriptions: Arc::new(descriptions) }
    }

    /// The speaker.
    #[must_use]
    pub const fn handle(&self) -> &SpeakerHandle {
        &self.handle
    }

    /// The speaker and its peers.
    ///
    /// # Errors
    ///
    /// [`SpeakerStopped`]
    pub async fn peers(&self) -> Result<Peers, SpeakerStopped> {
        let descriptions = Arc::clone(&self.descriptions);
        self.handle.inspect(move |speaker| peers(speaker, &descriptions)).await
    }

    /// Answers a question, in one line or several.
    ///
    /// # Errors
    ///
    /// That of writing, also if the client does not read for 10 s.
    pub async fn answer(
        &self,
        request: &Request,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        match self.try_answer(request, write).await? {
            Ok(()) => Ok(()),
            Err(reason) => send(write, &Reply::Error { reason }).await,
        }
    }

    async fn try_answer(
        &self,
        request: &Request,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Result<(), String>> {
        let reply = match request {
            Request::BgpPeers => self.peers().await.map(|peers| Reply::Peers(Box::new(peers))),
            Request::BgpRoutes { within } => return self.routes(*within, write).await,
            Request::BgpExplain { prefix } => {
                let prefix = *prefix;
                match self.handle.inspect(move |speaker| explain(speaker, prefix)).await {
                    Ok(Some(found)) => Ok(Reply::Explanation(Box::new(found))),
                    Ok(None) => return Ok(Err(format!("there is no route to {prefix}"))),
                    Err(stopped) => Err(stopped),
                }
            }
            Request::BgpNeighbor { address, port, direction } => {
                match self.neighbor(*address, *port, *direction).await {
                    Ok(routes) => return send_pages(write, routes).await.map(Ok),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            _ => return Ok(Err("this question is unknown here; use one release".to_owned())),
        };
        match reply {
            Ok(reply) => send(write, &reply).await.map(Ok),
            Err(stopped) => Ok(Err(stopped.to_string())),
        }
    }

    async fn routes(
        &self,
        within: Option<IpNet>,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Result<(), String>> {
        let mut next = Some(0);
        while let Some(from) = next {
            let page = self.handle.inspect(move |speaker| {
                let (views, next) = speaker.rib().page(from, PAGE);
                let wanted = |prefix: &IpNet| within.is_none_or(|net| net.contains(prefix));
                let views = views.iter().filter(|view| wanted(&view.prefix));
                (views.map(values::route).collect::<Vec<Route>>(), next)
            });
            let routes;
            (routes, next) = match page.await {
                Ok(page) => page,
                Err(stopped) => return Ok(Err(stopped.to_string())),
            };
            if !routes.is_empty() {
                send(write, &Reply::Routes { routes }).await?;
            }
        }
        send(write, &Reply::End).await.map(Ok)
    }

    async fn neighbor(
        &self,
        address: IpAddr,
        port: Option<u16>,
        direction: Direction,
    ) -> Result<Vec<NeighborRoute>, String> {
        let text = |stopped: SpeakerStopped| stopped.to_string();
        let all = self.handle.inspect(|speaker| {
            speaker.peers().map(|status| status.config.key()).collect::<Vec<SocketAddr>>()
        });
        let mut keys = all.await.map_err(text)?;
        keys.retain(|key| key.ip() == address && port.is_none_or(|port| key.port() == port));
        let key = match keys.as_slice() {
            [key] => *key,
            [] => {
                return Err(format!(
                    "no neighbor has the address {address}; `calicoctl bgp peers` lists them"
                ));
            }
            [key, ..] => {
                return Err(format!(
                    "several neighbors have the address {address}; add the port, as in {key}"
                ));
            }
        };
        let gone = || format!("the neighbor {address} has just gone");
        Ok(match direction {
            Direction::Received => {
                let routes = self.handle.received(key).await.map_err(text)?.ok_or_else(gone)?;
                routes.iter().map(values::received).collect()
            }
            Direction::Advertised => {
                let routes = self.handle.advertised(key).await.map_err(text)?.ok_or_else(gone)?;
                let route = |route: &calico_bgp::rib::AdvertisedRoute| NeighborRoute {
                    prefix: route.prefix,
                    path_id: (route.path_id != 0).then_some(route.path_id),
                    attributes: values::attributes(&route.attributes),
                    fate: None,
                    stale: false,
                };
                routes.iter().map(route).collect()
            }
        })
    }
}

fn peers(speaker: &Speaker, descriptions: &BTreeMap<SocketAddr, String>) -> Peers {
    let (config, now) = (speaker.config(), Instant::now());
    let info = |status: calico_bgp::speaker::PeerStatus| {
        values::peer(&status, descriptions.get(&status.config.key()).cloned(), now)
    };
    let mut peers: Vec<_> = speaker.peers().map(info).collect();
    peers.sort_by_key(values::order);
    Peers {
        as_number: config.local_as,
        router_id: config.router_id,
        cluster_id: config.cluster_id.unwrap_or(config.router_id),
        converged: speaker.is_converged(),
        destinations: speaker.rib().destinations() as u64,
        peers,
    }
}

/// Explains a prefix, or the longest one around it that has a route.
fn explain(speaker: &Speaker, asked: IpNet) -> Option<Explanation> {
    let rib = speaker.rib();
    let prefixes = (0..=asked.prefix_len()).rev();
    let mut prefixes = prefixes.filter_map(|len| Some(IpNet::new(asked.addr(), len).ok()?.trunc()));
    let found = prefixes.find_map(|prefix| rib.explain(&prefix))?;
    let Rejections { paths: reasons, peers: rejecting } = rib.rejections(&found.route.prefix);
    let paths = found.route.paths.iter().enumerate();
    let keys: BTreeMap<PeerId, SocketAddr> =
        speaker.peers().map(|status| (status.id, status.config.key())).collect();
    let told = |verdict: &calico_bgp::rib::PeerVerdict| {
        let key = *keys.get(&verdict.peer)?;
        let rule = rejecting.iter().find(|(peer, _)| *peer == verdict.peer);
        let (attributes, withheld) = match (&verdict.verdict, rule) {
            (Ok(attributes), _) => (Some(values::attributes(attributes)), None),
            (Err(why @ calico_bgp::rib::NotExported::Policy), Some((_, rule))) => {
                (None, Some(format!("{why}: {rule}")))
            }
            (Err(why), _) => (None, Some(why.to_string())),
        };
        let (address, port) = (key.ip(), key.port());
        Some(Told { address, port, attributes, withheld, pending: verdict.pending })
    };
    let mut told: Vec<Told> = found.peers.iter().filter_map(told).collect();
    told.sort_by_key(|told| (told.address, told.port));
    Some(Explanation {
        asked,
        route: Route {
            prefix: found.route.prefix,
            paths: paths
                .map(|(at, view)| values::path(view, reasons.get(at).and_then(Option::as_ref)))
                .collect(),
        },
        told,
    })
}

async fn send_pages(
    write: &mut (impl AsyncWrite + Unpin),
    routes: Vec<NeighborRoute>,
) -> io::Result<()> {
    let mut routes = routes.into_iter().peekable();
    while routes.peek().is_some() {
        let routes = routes.by_ref().take(PAGE).collect();
        send(write, &Reply::Neighbor(NeighborRoutes { routes })).await?;
    }
    send(write, &Reply::End).await
}

/// Writes one answer.
pub(crate) async fn send(write: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = to_vec(reply)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&line)).await.map_err(io::Error::from)?
}
