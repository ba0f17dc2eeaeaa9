//! Our speaker as a process of its own: what calico-rr runs, without its file.

use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::speaker::{Config, PeerConfig};

use super::daemon::{ADDRESS, AS, client};

/// First argument of the process.
pub(crate) const ROLE: &str = "--speaker";

pub(crate) fn run(clients: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = Config::new(AS, ADDRESS);
        config.listen = vec![(ADDRESS, 179).into()];
        let speaker = SpeakerHandle::spawn(config).unwrap();
        let peers = (0..clients).map(|n| {
            let mut peer = PeerConfig::new(client(n).into(), AS);
            peer.passive = true;
            peer.rr_client = true;
            peer.hold_time = 180;
            peer
        });
        speaker.set_peers(peers.collect()).await.unwrap().unwrap();
        std::future::pending::<()>().await;
    });
}
