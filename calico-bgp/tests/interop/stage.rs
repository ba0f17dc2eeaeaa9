//! Our speakers on a stage with one daemon, and what is asked of both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use calico_bgp::rib::PathView;
use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::session::State;
use calico_bgp::speaker::{Config, PeerConfig, PeerStatus};
use calico_bgp::wire::{NextHop, PathAttributes};
use ipnet::IpNet;

use super::daemons::{Communities, Daemon, Kind, Origin, Session, Setup, Sign};
use super::feature::Feature;
use super::lab::{Lab, eventually, v4, v6};

/// The daemon's number in both subnets.
pub(crate) const PEER: u8 = 2;
/// The daemon's AS in external sessions: one of four octets.
pub(crate) const PEER_AS: u32 = 4_200_000_099;
/// Ours.
pub(crate) const OUR_AS: u32 = 4_200_000_064;

/// The daemon's routes.
pub(crate) const THEIR_V4: &str = "10.200.0.0/16";
pub(crate) const THEIR_V6: &str = "fd20::/48";
/// One more that it may do without.
pub(crate) const THEIR_OTHER: &str = "10.201.0.0/16";
/// Ours.
pub(crate) const OUR_V4: &str = "192.168.1.0/26";
pub(crate) const OUR_V6: &str = "fd80:1::/122";

pub(crate) fn net(s: &str) -> IpNet {
    s.parse().expect("a prefix")
}

/// A daemon in its namespace; this thread is in ours.
pub(crate) struct Stage {
    pub(crate) daemon: Box<dyn Daemon>,
    pub(crate) kind: Kind,
    pub(crate) lab: Lab,
}

impl Stage {
    pub(crate) fn enter(kind: Kind) -> Self {
        let lab = Lab::enter();
        Self { daemon: kind.daemon(lab.place.clone()), kind, lab }
    }

    /// Whether the daemon is said to have something. What it lacks must be seen to be absent.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.kind.support(feature).is_there()
    }

    pub(crate) fn start(&mut self, setup: &Setup) {
        self.daemon.configure(setup);
        self.daemon.start(false);
    }

    /// Waits until the daemon holds a route that shows all the signs.
    pub(crate) async fn until_it_has(&self, prefix: &str, signs: &[Sign]) {
        let wanted: Vec<String> = signs.iter().map(|s| self.daemon.spelling(*s)).collect();
        eventually(&format!("the daemon has {prefix} with {wanted:?}"), async || {
            let text = self.daemon.route(net(prefix)).ok_or_else(|| "no route".to_owned())?;
            // Some end their lines in blanks.
            let text: String = text.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
            if wanted.iter().all(|w| text.contains(w)) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// Waits until the daemon holds no route to a prefix.
    pub(crate) async fn until_it_has_not(&self, prefix: &str) {
        eventually(&format!("the daemon has {prefix} no more"), async || {
            self.daemon.route(net(prefix)).map_or(Ok(()), Err)
        })
        .await;
    }

    /// Waits until the daemon says that its session with us is up, or down.
    pub(crate) async fn until_it_says(&self, with: IpAddr, established: bool) {
        eventually(&format!("the daemon says that {with} is up: {established}"), async || {
            let good = self.daemon.is_established(with) == established;
            if good { Ok(()) } else { Err("it does not".to_owned()) }
        })
        .await;
    }
}

/// Sessions of the daemon with one of our speakers, one per family.
pub(crate) fn sessions(n: u8, our_as: u32, change: impl Fn(&mut Session)) -> Vec<Session> {
    [v4, v6]
        .map(|address| Session::new(address(PEER), address(n), our_as))
        .map(|mut session| {
            change(&mut session);
            session
        })
        .to_vec()
}

/// The daemon's own routes.
pub(crate) fn origins(prefixes: &[&str]) -> Vec<Origin> {
    let origin = |p: &&str| Origin { prefix: net(p), communities: Communities::None };
    prefixes.iter().map(origin).collect()
}

/// Configuration of one of our speakers.
pub(crate) fn config(n: u8, asn: u32) -> Config {
    let mut config = Config::new(asn, Ipv4Addr::new(10, 9, 0, n));
    config.listen = vec![SocketAddr::new(v4(n), 179), SocketAddr::new(v6(n), 179)];
    config
}

/// A peer of one of our speakers.
pub(crate) fn peer(n: u8, address: IpAddr, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(address, asn);
    peer.local_address = Some(if address.is_ipv4() { v4(n) } else { v6(n) });
    peer.connect_retry = Duration::from_secs(1);
    peer
}

/// The daemon as a peer of one of our speakers, one session per family.
pub(crate) fn peers(n: u8, asn: u32, change: impl Fn(&mut PeerConfig)) -> Vec<PeerConfig> {
    [v4, v6]
        .map(|address| peer(n, address(PEER), asn))
        .map(|mut peer| {
            change(&mut peer);
            peer
        })
        .to_vec()
}

/// Starts one of our speakers.
pub(crate) async fn speaker(config: Config, peers: Vec<PeerConfig>) -> SpeakerHandle {
    let speaker = SpeakerHandle::spawn(config).expect("start our speaker");
    set_peers(&speaker, peers).await;
    speaker
}

pub(crate) async fn set_peers(speaker: &SpeakerHandle, peers: Vec<PeerConfig>) {
    speaker.set_peers(peers).await.expect("it runs").expect("the peers can be");
}

/// Announces prefixes with the same attributes.
pub(crate) async fn announce(speaker: &SpeakerHandle, prefixes: &[&str], with: PathAttributes) {
    let routes = prefixes.iter().map(|p| (net(p), with.clone())).collect();
    let left_out = speaker.announce(routes).await.expect("it runs");
    assert!(left_out.is_empty(), "{left_out:?}");
}

pub(crate) async fn statuses(speaker: &SpeakerHandle) -> Vec<PeerStatus> {
    speaker.peers().await.expect("it runs")
}

/// Waits until all sessions of a speaker are established.
pub(crate) async fn until_established(speaker: &SpeakerHandle) -> Vec<PeerStatus> {
    eventually("our sessions are established", async || {
        let all = statuses(speaker).await;
        let up = all.iter().all(|p| p.state == State::Established);
        if up { Ok(all) } else { Err(format!("{all:#?}")) }
    })
    .await
}

/// The best path to a prefix that was learned.
pub(crate) async fn best(speaker: &SpeakerHandle, prefix: &str) -> Option<PathView> {
    let route = speaker.route(net(prefix)).await.expect("it runs")?;
    route.paths.into_iter().next().filter(|p| p.best)
}

/// Waits for a best path that pleases.
pub(crate) async fn until_path(
    speaker: &SpeakerHandle,
    prefix: &str,
    what: &str,
    pleases: impl Fn(&PathView) -> bool,
) -> PathView {
    eventually(&format!("our path to {prefix} {what}"), async || {
        let seen = best(speaker, prefix).await;
        let text = format!("{seen:#?}");
        seen.filter(&pleases).ok_or(text)
    })
    .await
}

/// Waits for a best path that is not left over from before a restart.
pub(crate) async fn until_learned(speaker: &SpeakerHandle, prefix: &str) -> PathView {
    until_path(speaker, prefix, "is there", |p| !p.stale).await
}

/// Waits until there is no way to a prefix.
pub(crate) async fn until_gone(speaker: &SpeakerHandle, prefix: &str) {
    eventually(&format!("our path to {prefix} is gone"), async || {
        let seen = best(speaker, prefix).await;
        seen.map_or(Ok(()), |path| Err(format!("{path:#?}")))
    })
    .await;
}

/// The next hop of a path.
pub(crate) fn hop(path: &PathView) -> IpAddr {
    path.attributes.next_hop.map(NextHop::address).expect("a learned path has a next hop")
}

/// The next hops of all paths to a prefix, sorted.
pub(crate) async fn hops(speaker: &SpeakerHandle, prefix: &str) -> Vec<IpAddr> {
    let route = speaker.route(net(prefix)).await.expect("it runs");
    let mut hops: Vec<_> = route.iter().flat_map(|r| &r.paths).map(hop).collect();
    hops.sort();
    hops
}
