//! Graceful restart in both roles, and its long-lived form.

use std::time::{Duration, Instant};

use calico_bgp::rib::PathView;
use calico_bgp::runtime::Shutdown;
use calico_bgp::session::State;
use calico_bgp::speaker::PeerStatus;
use calico_bgp::wire::Community;

use crate::daemons::{Setup, Sign};
use crate::lab::{PATIENCE, eventually, v4, v6};
use crate::stage::{
    OUR_AS, OUR_V4, OUR_V6, PEER_AS, Stage, THEIR_OTHER, THEIR_V4, THEIR_V6, announce, best,
    config, net, origins, peers, sessions, speaker, statuses, until_established, until_gone,
    until_learned, until_path,
};

fn setup(time: u16, long_lived: Option<u32>, routes: &[&str]) -> Setup {
    let sessions = sessions(1, OUR_AS, |s| {
        s.graceful_restart = Some(time);
        s.long_lived = long_lived;
    });
    Setup { asn: PEER_AS, sessions, routes: origins(routes) }
}

/// It crashes and comes back without one of its routes; then it crashes for good.
pub(super) async fn the_peer_restarts(mut stage: Stage) {
    stage.start(&setup(120, None, &[THEIR_V4, THEIR_V6, THEIR_OTHER]));
    let speaker = speaker(config(1, OUR_AS), peers(1, PEER_AS, |_| {})).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    until_established(&speaker).await;
    for prefix in [THEIR_V4, THEIR_V6, THEIR_OTHER] {
        until_learned(&speaker, prefix).await;
    }
    stage.daemon.crash();
    eventually("the sessions are lost and the routes kept", async || {
        let all = statuses(&speaker).await;
        let kept = all.iter().all(|p| p.state < State::OpenSent && p.restart_pending);
        if kept { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await;
    for prefix in [THEIR_V4, THEIR_V6, THEIR_OTHER] {
        assert!(best(&speaker, prefix).await.unwrap().stale);
    }

    stage.daemon.configure(&setup(3, None, &[THEIR_V4, THEIR_V6]));
    stage.daemon.start(true);
    until_established(&speaker).await;
    until_learned(&speaker, THEIR_V4).await;
    until_learned(&speaker, THEIR_V6).await;
    until_gone(&speaker, THEIR_OTHER).await;
    stage.until_it_has(OUR_V4, &[]).await;
    stage.until_it_has(OUR_V6, &[]).await;
    eventually("the restart is over", async || {
        let all = statuses(&speaker).await;
        let over = all.iter().all(|p| !p.restart_pending && p.counters.established == 2);
        if over { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await;

    let crashed = Instant::now();
    stage.daemon.crash();
    until_gone(&speaker, THEIR_V4).await;
    until_gone(&speaker, THEIR_V6).await;
    assert!(crashed.elapsed() >= Duration::from_secs(3), "kept for as long as the daemon asked");
}

/// We go and come back: the daemon keeps our routes all the while. Without graceful restart it
/// drops them at once.
pub(super) async fn we_restart(mut stage: Stage) {
    stage.start(&setup(120, None, &[THEIR_V4, THEIR_V6]));
    let first = speaker(config(1, OUR_AS), peers(1, PEER_AS, |_| {})).await;
    announce(&first, &[OUR_V4, OUR_V6], Default::default()).await;
    until_established(&first).await;
    stage.until_it_has(OUR_V4, &[]).await;
    stage.until_it_has(OUR_V6, &[]).await;
    until_learned(&first, THEIR_V4).await;
    until_learned(&first, THEIR_V6).await;
    first.shutdown(Shutdown::GracefulRestart).await;
    let kept = |stage: &Stage| {
        for prefix in [OUR_V4, OUR_V6] {
            let route = stage.daemon.route(net(prefix));
            assert!(route.is_some(), "the daemon keeps {prefix} while we are away");
        }
    };
    for us in [v4(1), v6(1)] {
        stage.until_it_says(us, false).await;
    }
    kept(&stage);

    let mut again = config(1, OUR_AS);
    again.restarting = true;
    let second = speaker(again, peers(1, PEER_AS, |_| {})).await;
    announce(&second, &[OUR_V4, OUR_V6], Default::default()).await;
    let start = Instant::now();
    loop {
        kept(&stage);
        let all = statuses(&second).await;
        let told = |p: &PeerStatus| p.prefixes_advertised > 0;
        if all.iter().all(told) && best(&second, THEIR_V4).await.is_some() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "we never tell our routes again: {all:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_learned(&second, THEIR_V6).await;
    kept(&stage);
    second.shutdown(Shutdown::Cease(String::new())).await;
    stage.until_it_has_not(OUR_V4).await;
    stage.until_it_has_not(OUR_V6).await;
}

/// Beyond the restart time, routes of either side are a last resort for the other.
pub(super) async fn long_lived(mut stage: Stage) {
    let setup = setup(2, Some(3600), &[THEIR_V4, THEIR_V6]);
    stage.start(&setup);
    let peers = peers(1, PEER_AS, |p| {
        p.graceful_restart = Some(2);
        p.long_lived = Some(3600);
    });
    let speaker = speaker(config(1, OUR_AS), peers).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    until_established(&speaker).await;
    let is_last_resort =
        |p: &PathView| p.stale && p.attributes.has_community(Community::LLGR_STALE);
    for prefix in [THEIR_V4, THEIR_V6] {
        until_learned(&speaker, prefix).await;
    }
    stage.daemon.crash();
    for prefix in [THEIR_V4, THEIR_V6] {
        until_path(&speaker, prefix, "is a last resort", is_last_resort).await;
    }
    stage.daemon.start(true);
    for prefix in [THEIR_V4, THEIR_V6] {
        until_path(&speaker, prefix, "is as good as new", |p| {
            !p.stale && !p.attributes.has_community(Community::LLGR_STALE)
        })
        .await;
    }
    stage.until_it_has(OUR_V4, &[]).await;
    stage.until_it_has(OUR_V6, &[]).await;
    speaker.shutdown(Shutdown::GracefulRestart).await;
    for prefix in [OUR_V4, OUR_V6] {
        stage.until_it_has(prefix, &[Sign::LongLivedStale]).await;
    }
}
