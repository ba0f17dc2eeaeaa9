//! Shutdown communication (RFC 9003): whoever ends a session says why.

use calico_bgp::runtime::Shutdown;
use calico_bgp::session::DownReason;

use crate::daemons::Setup;
use crate::feature::Feature;
use crate::lab::{eventually, v4};
use crate::stage::{
    OUR_AS, PEER_AS, Stage, THEIR_V4, THEIR_V6, config, origins, peers, sessions, speaker,
    statuses, until_established, until_gone, until_learned,
};

/// One word, so that every daemon's command line takes it; no daemon says it by itself.
const WORDS: &str = "houseboat";

pub(super) async fn words(mut stage: Stage) {
    // The daemon connects: an attempt of ours after the end would be the last thing that we know.
    let speaker = speaker(config(1, OUR_AS), peers(1, PEER_AS, |p| p.passive = true)).await;
    let routes = origins(&[THEIR_V4, THEIR_V6]);
    let sessions = sessions(1, OUR_AS, |s| s.passive = false);
    stage.start(&Setup { asn: PEER_AS, sessions, routes });
    until_established(&speaker).await;
    until_learned(&speaker, THEIR_V4).await;
    // The session of IPv4 is ended by the daemon, that of IPv6 by us.
    if stage.has(Feature::WordsFromPeer) {
        stage.daemon.shut_down(v4(1), WORDS);
        until_gone(&speaker, THEIR_V4).await;
        eventually("the daemon says why", async || {
            let status = statuses(&speaker).await.swap_remove(0);
            let said = match &status.last_error {
                // For good: a hard reset around it, where both sides know them (RFC 8538).
                Some(DownReason::NotificationReceived(n)) => {
                    n.hard_reset_cause().as_ref().unwrap_or(n).shutdown_text()
                }
                _ => None,
            };
            if said.as_deref() == Some(WORDS) { Ok(()) } else { Err(format!("{status:#?}")) }
        })
        .await;
    }
    if stage.has(Feature::WordsToPeer) {
        assert!(!stage.daemon.heard(WORDS), "it has not heard it yet");
        speaker.shutdown(Shutdown::Cease(WORDS.to_owned())).await;
        eventually("the daemon has heard why", async || {
            if stage.daemon.heard(WORDS) { Ok(()) } else { Err("it has not".to_owned()) }
        })
        .await;
    }
}
