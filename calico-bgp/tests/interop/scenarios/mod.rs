//! What is played with every daemon. Each scenario has namespaces and a daemon of its own, and
//! vouches for some features.

mod absent;
mod extensions;
mod farewell;
mod paths;
mod protection;
mod reflection;
mod restart;
mod routes;

use std::future::Future;
use std::pin::Pin;

use super::feature::Feature;
use super::stage::Stage;

type Played = Pin<Box<dyn Future<Output = ()>>>;

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What works if it ends well.
    pub(crate) features: &'static [Feature],
    /// It also has something to see where the daemon lacks them.
    pub(crate) even_if_lacking: bool,
    pub(crate) play: fn(Stage) -> Played,
}

/// All of them; those that take longest first.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "the peer restarts",
        features: &[Feature::PeerRestarts],
        even_if_lacking: false,
        play: |stage| Box::pin(restart::the_peer_restarts(stage)),
    },
    Scenario {
        name: "long-lived",
        features: &[Feature::LongLived],
        even_if_lacking: false,
        play: |stage| Box::pin(restart::long_lived(stage)),
    },
    Scenario {
        name: "we restart",
        features: &[Feature::WeRestart],
        even_if_lacking: false,
        play: |stage| Box::pin(restart::we_restart(stage)),
    },
    Scenario {
        name: "passwords",
        features: &[Feature::Md5],
        even_if_lacking: false,
        play: |stage| Box::pin(protection::passwords(stage)),
    },
    Scenario {
        name: "TTL security",
        features: &[Feature::Gtsm],
        even_if_lacking: false,
        play: |stage| Box::pin(protection::ttl_security(stage)),
    },
    Scenario {
        name: "routes",
        features: &[
            Feature::Session,
            Feature::Ipv4,
            Feature::Ipv6,
            Feature::Withdrawal,
            Feature::FourOctetAs,
            Feature::Communities,
            Feature::ExtendedCommunities,
            Feature::LargeCommunities,
            Feature::RefreshFromPeer,
            Feature::RefreshToPeer,
            Feature::EnhancedRefresh,
        ],
        even_if_lacking: false,
        play: |stage| Box::pin(routes::both_ways(stage)),
    },
    Scenario {
        name: "farewells",
        features: &[Feature::WordsToPeer, Feature::WordsFromPeer],
        even_if_lacking: false,
        play: |stage| Box::pin(farewell::words(stage)),
    },
    Scenario {
        name: "we reflect",
        features: &[Feature::WeReflect],
        even_if_lacking: false,
        play: |stage| Box::pin(reflection::we_reflect(stage)),
    },
    Scenario {
        name: "the peer reflects",
        features: &[Feature::PeerReflects],
        even_if_lacking: false,
        play: |stage| Box::pin(reflection::the_peer_reflects(stage)),
    },
    Scenario {
        name: "IPv4 over IPv6",
        features: &[Feature::Ipv4OverIpv6],
        even_if_lacking: false,
        play: |stage| Box::pin(extensions::ipv4_over_ipv6(stage)),
    },
    Scenario {
        name: "extended messages",
        features: &[Feature::ExtendedMessages],
        even_if_lacking: true,
        play: |stage| Box::pin(extensions::extended_messages(stage)),
    },
    Scenario {
        name: "roles",
        features: &[Feature::Roles],
        even_if_lacking: false,
        play: |stage| Box::pin(extensions::roles(stage)),
    },
    Scenario {
        name: "paths from the peer",
        features: &[Feature::PathsFromPeer],
        even_if_lacking: false,
        play: |stage| Box::pin(paths::from_the_peer(stage)),
    },
    Scenario {
        name: "paths to the peer",
        features: &[Feature::PathsToPeer],
        even_if_lacking: false,
        play: |stage| Box::pin(paths::to_the_peer(stage)),
    },
    Scenario {
        name: "capabilities",
        features: absent::FEATURES,
        even_if_lacking: true,
        play: |stage| Box::pin(absent::capabilities(stage)),
    },
];
