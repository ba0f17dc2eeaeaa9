//! Random histories of a table.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{V4, announce, attributes, facts, ip, net, rib, withdraw};
use super::*;
use crate::wire::PathAttributes;

const PEERS: [PeerKind; 4] =
    [PeerKind::Internal, PeerKind::Client, PeerKind::External, PeerKind::External];

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Announce { peer: u32, prefix: u8, med: u32, length: usize },
    Withdraw { peer: u32, prefix: u8 },
    Local { prefix: u8, there: bool },
    Down { peer: u32, keep: bool },
    Up { peer: u32 },
    Sweep { peer: u32 },
    Client { peer: u32, client: bool },
    Metric { peer: u32, metric: Option<u32> },
    Refresh { peer: u32 },
    Drain { peer: u32 },
}

fn arb_step() -> impl Strategy<Value = Step> {
    let (peer, prefix) = (1u32..=4, 0u8..4);
    prop_oneof![
        6 => (peer.clone(), prefix.clone(), 0u32..3, 1usize..3)
            .prop_map(|(peer, prefix, med, length)| Step::Announce { peer, prefix, med, length }),
        3 => (peer.clone(), prefix.clone())
            .prop_map(|(peer, prefix)| Step::Withdraw { peer, prefix }),
        1 => (prefix, any::<bool>()).prop_map(|(prefix, there)| Step::Local { prefix, there }),
        1 => (peer.clone(), any::<bool>()).prop_map(|(peer, keep)| Step::Down { peer, keep }),
        2 => peer.clone().prop_map(|peer| Step::Up { peer }),
        1 => peer.clone().prop_map(|peer| Step::Sweep { peer }),
        1 => (1u32..=2, any::<bool>())
            .prop_map(|(peer, client)| Step::Client { peer, client }),
        1 => (peer.clone(), proptest::option::of(0u32..3))
            .prop_map(|(peer, metric)| Step::Metric { peer, metric }),
        1 => peer.clone().prop_map(|peer| Step::Refresh { peer }),
        3 => peer.prop_map(|peer| Step::Drain { peer }),
    ]
}

fn prefix_of(n: u8) -> String {
    format!("10.{n}.0.0/16")
}

/// The table, and what each peer was told and has not been told otherwise.
struct World {
    rib: Rib,
    kinds: [PeerKind; 4],
    up: [bool; 4],
    told: [BTreeMap<IpNet, PathAttributes>; 4],
    followed: BTreeMap<IpNet, BestRoute>,
}

impl World {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Announce { peer, prefix, med, length } if self.up[peer as usize - 1] => {
                // Odd peers share a neighbouring AS, so MULTI_EXIT_DISC plays a part.
                let path: Vec<u32> = (0..length as u32).map(|i| 70 + peer % 2 + i).collect();
                let a = PathAttributes { med: Some(med), ..attributes(peer as u8, &path) };
                announce(&mut self.rib, peer, &prefix_of(prefix), a);
            }
            Step::Withdraw { peer, prefix } if self.up[peer as usize - 1] => {
                withdraw(&mut self.rib, peer, &prefix_of(prefix));
            }
            Step::Local { prefix, there } => {
                let prefix = net(&prefix_of(prefix));
                if there {
                    self.rib.announce(prefix, PathAttributes::default());
                } else {
                    self.rib.withdraw(prefix);
                }
            }
            Step::Down { peer, keep } => {
                self.rib.peer_down(PeerId(peer), if keep { &[V4] } else { &[] });
                self.up[peer as usize - 1] = false;
                self.told[peer as usize - 1].clear();
            }
            Step::Up { peer } if !self.up[peer as usize - 1] => self.up(peer),
            Step::Sweep { peer } => self.rib.sweep_stale(PeerId(peer), V4),
            Step::Client { peer, client } => {
                let kind = if client { PeerKind::Client } else { PeerKind::Internal };
                self.kinds[peer as usize - 1] = kind;
                self.rib.set_routing(PeerId(peer), kind, PeerRouting::default());
            }
            Step::Metric { peer, metric } => {
                self.rib.set_next_hop_metric(ip(peer as u8).into(), metric);
            }
            Step::Refresh { peer } => self.rib.refresh(PeerId(peer), V4),
            Step::Drain { peer } => self.drain(peer),
            _ => {}
        }
    }

    fn up(&mut self, peer: u32) {
        let at = peer as usize - 1;
        self.up[at] = true;
        self.rib.peer_up(PeerId(peer), facts(peer as u8, self.kinds[at]), vec![V4]);
    }

    fn drain(&mut self, peer: u32) {
        let told = &mut self.told[peer as usize - 1];
        loop {
            let batch = self.rib.poll_export(PeerId(peer), 2);
            if batch.is_empty() && !self.rib.has_export(PeerId(peer)) {
                break;
            }
            for prefix in batch.withdraw {
                assert!(told.remove(&prefix).is_some(), "withdrawn without being announced");
            }
            for (attributes, prefixes) in batch.announce {
                for prefix in prefixes {
                    told.insert(prefix, PathAttributes::clone(&attributes));
                }
            }
        }
    }

    fn follow(&mut self) {
        while let Some(prefix) = self.rib.poll_change() {
            match self.rib.best(&prefix) {
                Some(route) => self.followed.insert(prefix, route),
                None => self.followed.remove(&prefix),
            };
        }
    }
}

fn fresh() -> World {
    let mut world = World {
        rib: rib(&[]),
        kinds: PEERS,
        up: [false; 4],
        told: Default::default(),
        followed: BTreeMap::new(),
    };
    for peer in 1..=4u32 {
        let facts = facts(peer as u8, PEERS[peer as usize - 1]);
        world.rib.add_peer(PeerId(peer), facts, PeerRouting::default());
        world.up(peer);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Whoever followed the changes ends with the same as who comes new and is told all:
    /// nothing is lost and nothing is left over by working on changes only.
    #[test]
    fn following_changes_equals_starting_anew(steps in vec(arb_step(), 1..120)) {
        let mut world = fresh();
        for step in &steps {
            world.apply(step);
            if matches!(step, Step::Drain { .. }) {
                world.follow();
            }
        }
        world.follow();
        let anew: BTreeMap<_, _> =
            world.rib.best_routes().map(|r| (r.prefix, r)).collect();
        prop_assert_eq!(&world.followed, &anew);
        for peer in 1..=4u32 {
            let at = peer as usize - 1;
            if !world.up[at] {
                continue;
            }
            world.drain(peer);
            let followed = std::mem::take(&mut world.told[at]);
            // Coming new must not change the peer's own routes, so it is told all again.
            world.rib.peer_up(PeerId(peer), facts(peer as u8, world.kinds[at]), vec![V4]);
            world.drain(peer);
            prop_assert_eq!(&followed, &world.told[at], "peer {}", peer);
        }
    }
}
