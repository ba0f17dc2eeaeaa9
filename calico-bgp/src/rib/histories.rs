//! Random histories of a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{V4, announce, attributes, facts, ip, net, rib, withdraw};
use super::*;
use crate::wire::{NlriList, PathAttributes, Update};

const COUNT: usize = 6;
const PEERS: [PeerKind; COUNT] = [
    PeerKind::Internal,
    PeerKind::Client,
    PeerKind::External,
    PeerKind::External,
    PeerKind::Client,
    PeerKind::Client,
];

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Announce {
        peer: u32,
        path_id: u32,
        prefix: u8,
        med: u32,
        length: usize,
    },
    Withdraw {
        peer: u32,
        path_id: u32,
        prefix: u8,
    },
    /// How many paths a peer with ADD-PATH is told.
    Several {
        peer: u32,
        send: SendPaths,
    },
    Local {
        prefix: u8,
        there: bool,
    },
    Down {
        peer: u32,
        keep: bool,
    },
    Up {
        peer: u32,
    },
    Sweep {
        peer: u32,
    },
    Client {
        peer: u32,
        client: bool,
    },
    Metric {
        peer: u32,
        metric: Option<u32>,
    },
    Refresh {
        peer: u32,
    },
    Drain {
        peer: u32,
    },
    /// Tells the group of a peer something; of the others only those in the mask are ready.
    Share {
        peer: u32,
        ready: u8,
        limit: usize,
    },
    Export {
        peer: u32,
        permitted: Option<u8>,
    },
}

fn arb_step() -> impl Strategy<Value = Step> {
    let (peer, prefix) = (1u32..=6, 0u8..4);
    prop_oneof![
        6 => (peer.clone(), 0u32..4, prefix.clone(), 0u32..3, 1usize..3).prop_map(
            |(peer, path_id, prefix, med, length)| {
                Step::Announce { peer, path_id, prefix, med, length }
            }
        ),
        3 => (peer.clone(), 0u32..4, prefix.clone())
            .prop_map(|(peer, path_id, prefix)| Step::Withdraw { peer, path_id, prefix }),
        1 => (4u32..=6, 0u16..4).prop_map(|(peer, most)| {
            let send = if most == 0 { SendPaths::All } else { SendPaths::UpTo(most) };
            Step::Several { peer, send }
        }),
        1 => (prefix, any::<bool>()).prop_map(|(prefix, there)| Step::Local { prefix, there }),
        1 => (peer.clone(), any::<bool>()).prop_map(|(peer, keep)| Step::Down { peer, keep }),
        2 => peer.clone().prop_map(|peer| Step::Up { peer }),
        1 => peer.clone().prop_map(|peer| Step::Sweep { peer }),
        1 => (1u32..=2, any::<bool>())
            .prop_map(|(peer, client)| Step::Client { peer, client }),
        1 => (peer.clone(), proptest::option::of(0u32..3))
            .prop_map(|(peer, metric)| Step::Metric { peer, metric }),
        1 => peer.clone().prop_map(|peer| Step::Refresh { peer }),
        2 => peer.clone().prop_map(|peer| Step::Drain { peer }),
        1 => (peer.clone(), proptest::option::of(0u8..4))
            .prop_map(|(peer, permitted)| Step::Export { peer, permitted }),
        4 => (peer, prop_oneof![2 => Just(0xFF), 1 => any::<u8>()], 1usize..5)
            .prop_map(|(peer, ready, limit)| Step::Share { peer, ready, limit }),
    ]
}

fn prefix_of(n: u8) -> String {
    format!("10.{n}.0.0/16")
}

/// The table, and what each peer was told and has not been told otherwise.
struct World {
    rib: Rib,
    kinds: [PeerKind; COUNT],
    exports: [Policy; COUNT],
    up: [bool; COUNT],
    several: [SendPaths; COUNT],
    told: [BTreeMap<(u32, IpNet), PathAttributes>; COUNT],
    followed: BTreeMap<IpNet, BestRoute>,
}

impl World {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Announce { peer, path_id, prefix, med, length } if self.up[peer as usize - 1] => {
                // Odd peers share a neighbouring AS, so MULTI_EXIT_DISC plays a part.
                let path: Vec<u32> = (0..length as u32).map(|i| 70 + peer % 2 + i).collect();
                let a = PathAttributes { med: Some(med), ..attributes(peer as u8, &path) };
                if takes_several(peer) {
                    let nlri = NlriList::from_paths(V4, [(path_id, net(&prefix_of(prefix)))]);
                    let update =
                        Update { announced: nlri, attributes: Some(a), ..Default::default() };
                    self.rib.handle_update(PeerId(peer), &update);
                } else {
                    announce(&mut self.rib, peer, &prefix_of(prefix), a);
                }
            }
            Step::Withdraw { peer, path_id, prefix } if self.up[peer as usize - 1] => {
                if takes_several(peer) {
                    let nlri = NlriList::from_paths(V4, [(path_id, net(&prefix_of(prefix)))]);
                    let update = Update { withdrawn: nlri, ..Default::default() };
                    self.rib.handle_update(PeerId(peer), &update);
                } else {
                    withdraw(&mut self.rib, peer, &prefix_of(prefix));
                }
            }
            Step::Several { peer, send } => {
                self.several[peer as usize - 1] = send;
                self.set_routing(peer);
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
                self.set_routing(peer);
            }
            Step::Export { peer, permitted } => {
                self.exports[peer as usize - 1] = match permitted {
                    None => Policy::AcceptAll,
                    Some(n) => {
                        let rules = vec![PrefixRule::exact(net(&prefix_of(n)))];
                        Policy::Prefixes(Arc::new(PrefixList { rules }))
                    }
                };
                self.set_routing(peer);
            }
            Step::Share { peer, ready, limit } => {
                let ready = |id: PeerId| ready & (1 << id.0) != 0;
                let batch = self.rib.poll_group(PeerId(peer), limit, ready);
                self.hear(&batch);
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
        self.rib.peer_up(PeerId(peer), facts_of(peer, self.kinds[at]), vec![V4]);
    }

    fn set_routing(&mut self, peer: u32) {
        let at = peer as usize - 1;
        let export = self.exports[at].clone();
        let several = AddPathFamily { family: V4, receive: 2, send: self.several[at] };
        let routing = PeerRouting { export, add_path: vec![several], ..Default::default() };
        self.rib.set_routing(PeerId(peer), self.kinds[at], routing);
    }

    fn drain(&mut self, peer: u32) {
        while self.rib.has_export(PeerId(peer)) {
            let batch = self.rib.poll_export(PeerId(peer), 2);
            self.hear_alone(peer, &batch);
        }
    }

    fn hear(&mut self, batch: &GroupBatch) {
        for member in &batch.members {
            self.hear_alone(member.0, &batch.for_member(*member));
        }
    }

    fn hear_alone(&mut self, peer: u32, batch: &ExportBatch) {
        let told = &mut self.told[peer as usize - 1];
        for prefix in &batch.withdraw {
            assert!(told.remove(&(0, *prefix)).is_some(), "withdrawn without being announced");
        }
        for path in &batch.withdraw_paths {
            assert!(told.remove(path).is_some(), "withdrawn without being announced");
        }
        for (attributes, prefixes) in &batch.announce {
            for prefix in prefixes {
                told.insert((0, *prefix), PathAttributes::clone(attributes));
            }
        }
        for (attributes, paths) in &batch.announce_paths {
            for path in paths {
                told.insert(*path, PathAttributes::clone(attributes));
            }
        }
        let count = self.rib.counts(PeerId(peer)).1;
        assert_eq!(told.len(), count, "what was told is counted");
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

/// Peers 2, 4 and 6 may tell several paths to a destination, 4, 5 and 6 hear several.
fn facts_of(peer: u32, kind: PeerKind) -> PeerFacts {
    let mut facts = facts(peer as u8, kind);
    if peer >= 4 {
        facts.traits.format.add_path_send.push(V4);
    }
    facts
}

fn takes_several(peer: u32) -> bool {
    peer.is_multiple_of(2)
}

fn fresh() -> World {
    let mut world = World {
        rib: rib(&[]),
        kinds: PEERS,
        exports: Default::default(),
        up: [false; COUNT],
        several: [SendPaths::All; COUNT],
        told: Default::default(),
        followed: BTreeMap::new(),
    };
    for peer in 1..=COUNT as u32 {
        let facts = facts_of(peer, PEERS[peer as usize - 1]);
        world.rib.add_peer(PeerId(peer), facts, PeerRouting::default());
        world.set_routing(peer);
        world.up(peer);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

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
        for peer in 1..=COUNT as u32 {
            while world.rib.has_export(PeerId(peer)) {
                let batch = world.rib.poll_group(PeerId(peer), 3, |_| true);
                world.hear(&batch);
            }
        }
        for peer in 1..=COUNT as u32 {
            let at = peer as usize - 1;
            if !world.up[at] {
                continue;
            }
            let advertised: BTreeMap<_, _> = world.rib.advertised(PeerId(peer))
                .into_iter()
                .map(|r| ((r.path_id, r.prefix), PathAttributes::clone(&r.attributes)))
                .collect();
            prop_assert_eq!(&advertised, &world.told[at], "peer {}", peer);
            let followed = std::mem::take(&mut world.told[at]);
            // Coming new must not change the peer's own routes, so it is told all again.
            world.rib.peer_up(PeerId(peer), facts_of(peer, world.kinds[at]), vec![V4]);
            world.drain(peer);
            prop_assert_eq!(&followed, &world.told[at], "peer {}", peer);
        }
    }
}
