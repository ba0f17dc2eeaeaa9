//! Several paths per prefix (RFC 7911), both ways: two of our speakers announce the same
//! prefixes, and whoever stands between them and the third tells it of both.

use std::net::IpAddr;

use calico_bgp::rib::AddPathFamily;
use calico_bgp::speaker::PeerConfig;
use calico_bgp::wire::Family;

use crate::daemons::{OTHER_HOP, Setup, Sign};
use crate::lab::{eventually, v4, v6};
use crate::stage::{
    OUR_V4, OUR_V6, PEER, Stage, announce, config, hops, net, origins, peer, peers, sessions,
    speaker, until_established,
};

/// One AS for all.
const AS: u32 = 64512;

fn with_paths(peer: &mut PeerConfig) {
    peer.add_path = vec![AddPathFamily::both(Family::of_address(peer.address))];
}

/// The daemon reflects what 3 and 4 announce to 1; one that passes nothing on tells two paths
/// of its own.
pub(super) async fn from_the_peer(mut stage: Stage) {
    let router = stage.kind.is_router();
    let mut all = sessions(1, AS, |s| {
        s.client = true;
        s.add_path = true;
    });
    let mut expected = [PEER, OTHER_HOP];
    if router {
        expected = [3, 4];
        for n in expected {
            all.extend(sessions(n, AS, |s| s.client = true));
        }
    }
    let routes = if router { origins(&[]) } else { origins(&[OUR_V4, OUR_V6]) };
    stage.start(&Setup { asn: AS, sessions: all, routes });
    let receiver = speaker(config(1, AS), peers(1, AS, with_paths)).await;
    let mut senders = Vec::new();
    for n in expected.into_iter().filter(|_| router) {
        let sender = speaker(config(n, AS), peers(n, AS, |_| {})).await;
        announce(&sender, &[OUR_V4, OUR_V6], Default::default()).await;
        senders.push(sender);
    }
    for status in until_established(&receiver).await {
        let agreed = status.negotiated.as_ref().unwrap();
        assert!(agreed.add_path.iter().any(|(_, agreed)| agreed.receive), "{agreed:?}");
    }
    for (prefix, address) in [(OUR_V4, v4 as fn(u8) -> IpAddr), (OUR_V6, v6)] {
        let until = async |what: &str, expected: &[IpAddr]| {
            eventually(what, async || {
                let seen = hops(&receiver, prefix).await;
                if seen == expected { Ok(()) } else { Err(format!("{prefix} via {seen:?}")) }
            })
            .await;
        };
        until("both paths are there", &expected.map(address)).await;
        if let Some(first) = senders.first() {
            first.withdraw(vec![net(prefix)]).await.unwrap();
            until("the other path is left", &[address(expected[1])]).await;
        }
    }
}

/// We reflect what 3 and 4 announce to the daemon.
pub(super) async fn to_the_peer(mut stage: Stage) {
    let sessions = sessions(1, AS, |s| s.add_path = true);
    stage.start(&Setup { asn: AS, sessions, routes: origins(&[]) });
    let mut clients = peers(1, AS, with_paths);
    for n in [3, 4] {
        clients.extend([peer(1, v4(n), AS), peer(1, v6(n), AS)]);
    }
    clients.iter_mut().for_each(|p| p.rr_client = true);
    let reflector = speaker(config(1, AS), clients).await;
    let mut senders = Vec::new();
    for n in [3, 4] {
        let sender = speaker(config(n, AS), vec![peer(n, v4(1), AS), peer(n, v6(1), AS)]).await;
        announce(&sender, &[OUR_V4, OUR_V6], Default::default()).await;
        senders.push(sender);
    }
    let all = until_established(&reflector).await;
    for status in all.iter().filter(|p| [v4(PEER), v6(PEER)].contains(&p.config.address)) {
        let agreed = status.negotiated.as_ref().unwrap();
        assert!(agreed.add_path.iter().any(|(_, agreed)| agreed.send), "{agreed:?}");
    }
    for (prefix, address) in [(OUR_V4, v4 as fn(u8) -> IpAddr), (OUR_V6, v6)] {
        let both = [Sign::NextHop(address(3)), Sign::NextHop(address(4))];
        stage.until_it_has(prefix, &both).await;
        senders[0].withdraw(vec![net(prefix)]).await.unwrap();
        let (gone, left) = (stage.daemon.spelling(both[0]), stage.daemon.spelling(both[1]));
        eventually("the daemon has the other path alone", async || {
            let text = stage.daemon.route(net(prefix)).unwrap_or_default();
            if text.contains(&left) && !text.contains(&gone) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}
