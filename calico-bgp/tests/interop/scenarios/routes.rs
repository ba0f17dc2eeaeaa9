//! A session per family, routes both ways with communities, refreshes, withdrawals.

use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::speaker::PeerStatus;
use calico_bgp::wire::{AsPath, PathAttributes};

use crate::daemons::{COMMUNITY, Communities, EXTENDED, LARGE, Setup, Sign};
use crate::feature::Feature;
use crate::lab::{eventually, v4, v6};
use crate::stage::{
    OUR_AS, OUR_V4, OUR_V6, PEER, PEER_AS, Stage, THEIR_V4, THEIR_V6, announce, config, hop, net,
    origins, peers, sessions, speaker, statuses, until_established, until_gone, until_learned,
};

/// An AS of four octets behind ours.
const FAR_AS: u32 = 4_200_000_001;

pub(super) async fn both_ways(mut stage: Stage) {
    let mut routes = origins(&[THEIR_V4, THEIR_V6]);
    routes.iter_mut().for_each(|r| r.communities = Communities::OneOfEach);
    stage.start(&Setup { asn: PEER_AS, sessions: sessions(1, OUR_AS, |_| {}), routes });
    let speaker = speaker(config(1, OUR_AS), peers(1, PEER_AS, |_| {})).await;
    let attributes = PathAttributes {
        as_path: AsPath::sequence([FAR_AS]),
        communities: vec![COMMUNITY],
        extended_communities: vec![EXTENDED],
        large_communities: vec![LARGE],
        ..PathAttributes::default()
    };
    announce(&speaker, &[OUR_V4, OUR_V6], attributes).await;
    let all = until_established(&speaker).await;
    for (status, us) in all.iter().zip([v4(1), v6(1)]) {
        stage.until_it_says(us, true).await;
        let agreed = status.negotiated.as_ref().unwrap();
        assert!(agreed.context.four_octet_as, "{agreed:?}");
        assert_eq!(agreed.remote_as, PEER_AS);
        assert!(agreed.route_refresh, "{agreed:?}");
    }

    for (prefix, next_hop) in [(THEIR_V4, v4(PEER)), (THEIR_V6, v6(PEER))] {
        let path = until_learned(&speaker, prefix).await;
        assert_eq!(hop(&path), next_hop);
        assert_eq!(path.attributes.as_path, AsPath::sequence([PEER_AS]));
        assert_eq!(path.attributes.communities, [COMMUNITY]);
        assert_eq!(path.attributes.extended_communities, [EXTENDED]);
        assert_eq!(path.attributes.large_communities, [LARGE]);
    }
    let told = [Sign::AsPath(&[OUR_AS, FAR_AS]), Sign::Community, Sign::Extended, Sign::Large];
    for (prefix, next_hop) in [(OUR_V4, v4(1)), (OUR_V6, v6(1))] {
        let signs = [&told[..], &[Sign::NextHop(next_hop)]].concat();
        stage.until_it_has(prefix, &signs).await;
    }

    refreshes(&mut stage, &speaker).await;

    for prefix in [OUR_V4, OUR_V6] {
        speaker.withdraw(vec![net(prefix)]).await.unwrap();
        stage.until_it_has_not(prefix).await;
    }
    for prefix in [THEIR_V4, THEIR_V6] {
        stage.daemon.withdraw(net(prefix));
        until_gone(&speaker, prefix).await;
    }
    let all = statuses(&speaker).await;
    let lost: u64 = all.iter().map(|p| p.counters.lost).sum();
    assert_eq!(lost, u64::from(!stage.kind.is_router()), "{all:#?}");
    assert!(all.iter().all(|p| p.counters.update_errors == 0), "{all:#?}");
}

/// Either side asks; all comes again, and nothing is swept that is there.
async fn refreshes(stage: &mut Stage, speaker: &SpeakerHandle) {
    let they_answer = stage.has(Feature::RefreshFromPeer);
    for (at, us) in [(0, v4(1)), (1, v6(1))] {
        let before = statuses(speaker).await.swap_remove(at);
        // ExaBGP's answer ends the session, which is left for the end.
        if stage.kind.is_router() {
            assert!(speaker.request_refresh(before.config.key()).await.unwrap());
        }
        if they_answer {
            until_told_again(speaker, at, &before).await;
        }
        let before = statuses(speaker).await.swap_remove(at);
        stage.daemon.ask_refresh(us, us.is_ipv4());
        if stage.has(Feature::RefreshToPeer) {
            eventually("we told all again", async || {
                let now = statuses(speaker).await.swap_remove(at);
                let told = now.counters.batches_sent > before.counters.batches_sent;
                if told { Ok(()) } else { Err(format!("{before:#?} {now:#?}")) }
            })
            .await;
            // Who asks us after we have asked has had the time to answer.
            let now = statuses(speaker).await.swap_remove(at);
            let silent = now.counters.updates_received == before.counters.updates_received;
            let asked = stage.kind.is_router();
            assert!(they_answer || !asked || silent, "{before:#?} {now:#?}");
        } else {
            // Who answers us has had the time to ask.
            assert!(speaker.request_refresh(before.config.key()).await.unwrap());
            until_told_again(speaker, at, &before).await;
            let now = statuses(speaker).await.swap_remove(at);
            assert_eq!(now.counters.batches_sent, before.counters.batches_sent);
        }
    }
    if !stage.kind.is_router() {
        let key = statuses(speaker).await[0].config.key();
        assert!(speaker.request_refresh(key).await.unwrap());
        eventually("ExaBGP restarts the session when asked for its routes", async || {
            let now = statuses(speaker).await.swap_remove(0);
            if now.counters.lost == 1 { Ok(()) } else { Err(format!("{now:#?}")) }
        })
        .await;
        until_established(speaker).await;
    }
    for prefix in [THEIR_V4, THEIR_V6] {
        until_learned(speaker, prefix).await;
    }
    for prefix in [OUR_V4, OUR_V6] {
        stage.until_it_has(prefix, &[Sign::Community]).await;
    }
}

async fn until_told_again(speaker: &SpeakerHandle, at: usize, before: &PeerStatus) {
    eventually("the daemon told all again", async || {
        let now = statuses(speaker).await.swap_remove(at);
        let told = now.counters.updates_received > before.counters.updates_received;
        let good = told && !now.restart_pending && now.prefixes_received == 1;
        if good { Ok(()) } else { Err(format!("{before:#?} {now:#?}")) }
    })
    .await;
}
