//! Sessions that are protected: TCP MD5 and TTL security. That the kernel drops what is not
//! right shows in its counters, so nobody has to wait to see nothing happen.

use std::net::IpAddr;

use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::speaker::{Distance, Password};

use crate::daemons::{Kind, Setup};
use crate::lab::{eventually, tcp_counter};
use crate::stage::{
    OUR_AS, OUR_V4, OUR_V6, PEER_AS, Stage, THEIR_V4, THEIR_V6, announce, config, origins, peers,
    sessions, set_peers, speaker, statuses, until_established, until_learned,
};

/// Counters of segments that are dropped for their signatures: missing, not asked for, wrong.
const SIGNATURES: &[&str] = &["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"];
/// Counter of segments that are dropped for their TTL.
const DISTANCE: &[&str] = &["TCPMinTTLDrop"];

/// What was dropped at either side.
fn dropped(stage: &Stage, counters: &[&str]) -> u64 {
    counters.iter().map(|name| tcp_counter(name) + stage.lab.place.tcp_counter(name)).sum()
}

/// Waits until more is dropped than before. No session has come up by then.
async fn until_dropped(
    stage: &Stage,
    speaker: &SpeakerHandle,
    what: &str,
    counters: &[&str],
    before: u64,
) {
    eventually(what, async || {
        let now = dropped(stage, counters);
        if now > before { Ok(()) } else { Err("nothing was dropped".to_owned()) }
    })
    .await;
    let all = statuses(speaker).await;
    assert!(all.iter().all(|p| p.counters.established == 0), "{what}: {all:#?}");
}

async fn until_routes_both_ways(stage: &Stage, speaker: &SpeakerHandle) {
    until_established(speaker).await;
    for prefix in [THEIR_V4, THEIR_V6] {
        until_learned(speaker, prefix).await;
    }
    for prefix in [OUR_V4, OUR_V6] {
        stage.until_it_has(prefix, &[]).await;
    }
}

/// Which of the two sessions is opened by the daemon: that of IPv6, so that either side gets to
/// open one.
fn opened_by_daemon(of: IpAddr) -> bool {
    of.is_ipv6()
}

/// A wrong password, none, and then the right one. The daemon starts anew each time, so that no
/// timer of its own has to run out.
pub(super) async fn passwords(mut stage: Stage) {
    let all_by_daemon = stage.kind == Kind::OpenBgpd;
    let by_daemon = |address| all_by_daemon || opened_by_daemon(address);
    let sessions = sessions(1, OUR_AS, |s| {
        s.password = Some("s3cret");
        s.passive = !by_daemon(s.remote);
    });
    let setup = Setup { asn: PEER_AS, sessions, routes: origins(&[THEIR_V4, THEIR_V6]) };
    let ours = |password: Option<&str>| {
        peers(1, PEER_AS, |p| {
            p.password = password.map(|text| Password::new(text).unwrap());
            p.passive = by_daemon(p.address);
        })
    };
    let speaker = speaker(config(1, OUR_AS), ours(Some("wrong"))).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    let before = dropped(&stage, SIGNATURES);
    stage.start(&setup);
    until_dropped(&stage, &speaker, "wrong signatures are dropped", SIGNATURES, before).await;
    stage.daemon.crash();

    set_peers(&speaker, ours(None)).await;
    let before = dropped(&stage, SIGNATURES);
    stage.start(&setup);
    until_dropped(&stage, &speaker, "both sides have to sign", SIGNATURES, before).await;
    stage.daemon.crash();

    set_peers(&speaker, ours(Some("s3cret"))).await;
    stage.start(&setup);
    until_routes_both_ways(&stage, &speaker).await;
}

/// Secured on our side alone, on the daemon's alone, and then on both.
pub(super) async fn ttl_security(mut stage: Stage) {
    let setup = |secured| Setup {
        asn: PEER_AS,
        sessions: sessions(1, OUR_AS, |s| {
            s.ttl_security = secured;
            s.passive = !opened_by_daemon(s.remote);
        }),
        routes: origins(&[THEIR_V4, THEIR_V6]),
    };
    let ours = |distance| {
        peers(1, PEER_AS, |p| {
            p.distance = distance;
            p.passive = opened_by_daemon(p.address);
        })
    };
    let speaker = speaker(config(1, OUR_AS), ours(Distance::Secured(1))).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    let before = dropped(&stage, DISTANCE);
    stage.start(&setup(false));
    until_dropped(&stage, &speaker, "we mind the daemon's distance", DISTANCE, before).await;
    stage.daemon.crash();

    // ExaBGP does not mind.
    if stage.kind.is_router() {
        set_peers(&speaker, ours(Distance::Anywhere)).await;
        let before = dropped(&stage, DISTANCE);
        stage.start(&setup(true));
        until_dropped(&stage, &speaker, "the daemon minds our distance", DISTANCE, before).await;
        stage.daemon.crash();
        set_peers(&speaker, ours(Distance::Secured(1))).await;
    }

    stage.start(&setup(true));
    until_routes_both_ways(&stage, &speaker).await;
}
