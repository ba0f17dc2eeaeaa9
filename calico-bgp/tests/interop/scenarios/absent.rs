//! What the OPENs say: a daemon has the capabilities that the matrix says it has, and no others.

use calico_bgp::session::{DownReason, Negotiated};
use calico_bgp::wire::{Family, MAX_EXTENDED_LEN, NotificationCode, OpenErrorCode, Role};

use crate::daemons::{Session, Setup};
use crate::feature::{Feature, Support};
use crate::lab::{eventually, v6};
use crate::stage::{
    OUR_AS, PEER, PEER_AS, Stage, config, origins, peer, set_peers, speaker, statuses,
    until_established,
};

/// Features that a capability stands for.
pub(super) const FEATURES: &[Feature] = &[
    Feature::EnhancedRefresh,
    Feature::PeerRestarts,
    Feature::LongLived,
    Feature::Ipv4OverIpv6,
    Feature::ExtendedMessages,
    Feature::Roles,
];

fn is_offered(feature: Feature, agreed: &Negotiated) -> bool {
    match feature {
        Feature::EnhancedRefresh => agreed.enhanced_refresh,
        Feature::PeerRestarts => {
            agreed.graceful_restart.as_ref().is_some_and(|gr| !gr.families.is_empty())
        }
        Feature::LongLived => agreed.long_lived.as_ref().is_some_and(|all| !all.is_empty()),
        Feature::Ipv4OverIpv6 => agreed.extended_next_hop,
        Feature::ExtendedMessages => agreed.context.max_len == MAX_EXTENDED_LEN,
        _ => unreachable!("no capability stands for {feature:?}"),
    }
}

/// One session with everything on that the daemon can be told to have.
pub(super) async fn capabilities(mut stage: Stage) {
    let mut session = Session::new(v6(PEER), v6(1), OUR_AS);
    session.ipv4 = true;
    session.ipv4_over_ipv6 = true;
    session.graceful_restart = Some(120);
    session.long_lived = Some(3600);
    session.extended_messages = true;
    stage.start(&Setup { asn: PEER_AS, sessions: vec![session], routes: origins(&[]) });
    let mut peer = peer(1, v6(PEER), PEER_AS);
    peer.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    peer.long_lived = Some(3600);
    let speaker = speaker(config(1, OUR_AS), vec![peer.clone()]).await;
    let all = until_established(&speaker).await;
    let agreed = all[0].negotiated.as_ref().unwrap();
    for feature in FEATURES.iter().copied().filter(|f| *f != Feature::Roles) {
        let offered = is_offered(feature, agreed);
        if !matches!(stage.kind.support(feature), Support::Broken(_)) {
            assert_eq!(offered, stage.has(feature), "{feature:?}: {agreed:#?}");
        }
    }
    // The daemon has no role in this session: a side that insists on one refuses it.
    peer.role = Some(Role::Customer);
    peer.strict_role = true;
    set_peers(&speaker, vec![peer]).await;
    eventually("a peer without a role is refused", async || {
        let all = statuses(&speaker).await;
        let refused = matches!(&all[0].last_error, Some(DownReason::NotificationSent { notification, .. })
            if notification.code == NotificationCode::Open(OpenErrorCode::RoleMismatch));
        if refused { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await;
}
