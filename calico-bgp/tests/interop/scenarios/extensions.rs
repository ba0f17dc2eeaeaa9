//! IPv4 routes over IPv6 next hops, extended messages, roles.

use calico_bgp::session::{DownReason, State};
use calico_bgp::wire::{
    Family, MAX_EXTENDED_LEN, NotificationCode, OpenErrorCode, PathAttributes, Role,
};

use crate::daemons::{Communities, Session, Setup, Sign, many_communities};
use crate::feature::Feature;
use crate::lab::{eventually, v4, v6};
use crate::stage::{
    OUR_AS, OUR_V4, OUR_V6, PEER, PEER_AS, Stage, THEIR_V4, THEIR_V6, announce, config, hop, net,
    origins, peer, peers, sessions, set_peers, speaker, statuses, until_established, until_learned,
    until_path,
};

/// Routes with few attributes.
const SMALL_V4: &str = "192.168.2.0/26";
const SMALL_V6: &str = "fd80:2::/122";

/// IPv4 routes over an IPv6 session, with no IPv4 next hop at all.
pub(super) async fn ipv4_over_ipv6(mut stage: Stage) {
    let mut session = Session::new(v6(PEER), v6(1), OUR_AS);
    (session.ipv4, session.ipv4_over_ipv6) = (true, true);
    let routes = origins(&[THEIR_V4, THEIR_V6]);
    stage.start(&Setup { asn: PEER_AS, sessions: vec![session], routes });
    let mut peer = peer(1, v6(PEER), PEER_AS);
    peer.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let speaker = speaker(config(1, OUR_AS), vec![peer]).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    let all = until_established(&speaker).await;
    assert!(all[0].negotiated.as_ref().unwrap().extended_next_hop, "{all:#?}");
    for prefix in [THEIR_V4, THEIR_V6] {
        assert_eq!(hop(&until_learned(&speaker, prefix).await), v6(PEER));
    }
    for prefix in [OUR_V4, OUR_V6] {
        stage.until_it_has(prefix, &[Sign::NextHop(v6(1))]).await;
    }
}

/// A route whose attributes fit no message of 4,096 octets: through the daemon to another of our
/// speakers if it is a router, else there and from there. A daemon without extended messages does
/// not hear of it, and of other routes it does.
pub(super) async fn extended_messages(mut stage: Stage) {
    let there = stage.has(Feature::ExtendedMessages);
    let router = stage.kind.is_router();
    let mut all = sessions(1, OUR_AS, |s| s.extended_messages = true);
    all.extend(sessions(3, OUR_AS + 1, |s| s.extended_messages = true));
    let mut routes = origins(if router { &[] } else { &[THEIR_V4, THEIR_V6] });
    routes.iter_mut().for_each(|r| r.communities = Communities::Many);
    stage.start(&Setup { asn: PEER_AS, sessions: all, routes });
    let first = speaker(config(1, OUR_AS), peers(1, PEER_AS, |_| {})).await;
    let second = speaker(config(3, OUR_AS + 1), peers(3, PEER_AS, |_| {})).await;
    for status in until_established(&first).await {
        let agreed = status.negotiated.as_ref().unwrap();
        assert_eq!(agreed.context.max_len == MAX_EXTENDED_LEN, there, "{agreed:?}");
    }
    let many = PathAttributes { large_communities: many_communities(), ..Default::default() };
    announce(&first, &[OUR_V4, OUR_V6], many.clone()).await;
    announce(&first, &[SMALL_V4, SMALL_V6], Default::default()).await;
    for prefix in [SMALL_V4, SMALL_V6] {
        stage.until_it_has(prefix, &[]).await;
    }
    for prefix in [OUR_V4, OUR_V6] {
        if there {
            let last = stage.daemon.spelling(Sign::ManyCommunities);
            eventually("all communities are there", async || {
                let text = stage.daemon.route(net(prefix)).unwrap_or_default();
                if text.contains(&last) { Ok(()) } else { Err(text) }
            })
            .await;
        } else {
            assert!(stage.daemon.route(net(prefix)).is_none(), "{prefix} fits no message");
        }
    }
    let (teller, prefixes) =
        if router { (&second, [OUR_V4, OUR_V6]) } else { (&first, [THEIR_V4, THEIR_V6]) };
    for prefix in prefixes.into_iter().filter(|_| there) {
        let path = until_learned(teller, prefix).await;
        assert_eq!(path.attributes.large_communities, many.large_communities);
    }
    for speaker in [&first, &second] {
        let all = statuses(speaker).await;
        assert!(all.iter().all(|p| p.counters.lost == 0), "{all:#?}");
    }
}

/// Roles that fit each other, with the mark on the daemon's routes; then roles that do not.
pub(super) async fn roles(mut stage: Stage) {
    let sessions = sessions(1, OUR_AS, |s| s.role = Some(Role::Provider));
    let routes = origins(&[THEIR_V4, THEIR_V6]);
    stage.start(&Setup { asn: PEER_AS, sessions, routes });
    let strict = |role| {
        peers(1, PEER_AS, |p| {
            p.role = Some(role);
            p.strict_role = true;
        })
    };
    let speaker = speaker(config(1, OUR_AS), strict(Role::Customer)).await;
    announce(&speaker, &[OUR_V4, OUR_V6], Default::default()).await;
    until_established(&speaker).await;
    for prefix in [THEIR_V4, THEIR_V6] {
        until_path(&speaker, prefix, "is for customers", |p| {
            p.attributes.only_to_customer == Some(PEER_AS)
        })
        .await;
    }
    for prefix in [OUR_V4, OUR_V6] {
        stage.until_it_has(prefix, &[]).await;
    }
    set_peers(&speaker, strict(Role::Provider)).await;
    eventually("roles that do not fit are refused", async || {
        let all = statuses(&speaker).await;
        let refused = all.iter().all(|p| {
            p.state != State::Established
                && p.last_error.as_ref().is_some_and(|reason| {
                    let notification = match reason {
                        DownReason::NotificationSent { notification, .. } => notification,
                        DownReason::NotificationReceived(notification) => notification,
                        _ => return false,
                    };
                    notification.code == NotificationCode::Open(OpenErrorCode::RoleMismatch)
                })
        });
        if refused { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await;
    for us in [v4(1), v6(1)] {
        stage.until_it_says(us, false).await;
    }
}
