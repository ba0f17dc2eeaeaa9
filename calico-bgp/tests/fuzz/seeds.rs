//! Inputs to start from.

use bytes::BytesMut;
use calico_bgp::wire::{
    AddPathMode, Aggregator, AsPath, Capability, CeaseCode, Community, ExtendedCommunity, Family,
    GracefulRestart, LargeCommunity, LongLivedFamily, Message, MpReach, NextHop, NlriList,
    Notification, NotificationCode, Open, PathAttributes, Role, RouteRefresh, UnknownAttribute,
    Update, UpdateContext,
};
use ipnet::IpNet;

use super::speaker::OUR_AS;

const V4: Family = Family::IPV4_UNICAST;
const V6: Family = Family::IPV6_UNICAST;

fn open(asn: u32) -> Message {
    let restart = GracefulRestart {
        restarting: false,
        notification: true,
        restart_time: 120,
        families: vec![(V4, true), (V6, true)],
    };
    let long_lived = LongLivedFamily { family: V4, forwarding: true, stale_time: 600 };
    let capabilities = vec![
        Capability::MultiProtocol(V4),
        Capability::MultiProtocol(V6),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::ExtendedMessage,
        Capability::GracefulRestart(restart),
        Capability::LongLivedGracefulRestart(vec![long_lived]),
        Capability::AddPath(vec![(V4, AddPathMode::Both)]),
        Capability::ExtendedNextHop(vec![(V4, 2)]),
        Capability::Role(Role::Provider),
        Capability::Unknown { code: 73, value: b"host".as_slice().into() },
    ];
    Message::Open(Open::new(asn, 90, [10, 0, 0, 1].into(), capabilities))
}

fn attributes() -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence([65_001, 4_200_000_000]),
        next_hop: Some(NextHop::V4([10, 0, 0, 1].into())),
        med: Some(5),
        local_pref: Some(100),
        atomic_aggregate: true,
        aggregator: Some(Aggregator { asn: 70_000, router_id: [1, 2, 3, 4].into() }),
        communities: vec![Community::new(65_000, 1), Community::NO_LLGR],
        extended_communities: vec![ExtendedCommunity([0, 2, 0, 1, 0, 0, 0, 1])],
        large_communities: vec![LargeCommunity { global: 1, local1: 2, local2: 3 }],
        originator_id: Some([9, 9, 9, 9].into()),
        cluster_list: vec![[8, 8, 8, 8].into()],
        only_to_customer: Some(65_001),
        unknown: vec![UnknownAttribute { flags: 0xC0, code: 99, value: vec![1, 2].into() }],
        ..PathAttributes::default()
    }
}

fn nlri(family: Family, prefixes: &[&str]) -> NlriList {
    let prefixes = prefixes.iter().map(|p| p.parse::<IpNet>().expect("a prefix"));
    NlriList::from_prefixes(family, prefixes)
}

fn updates() -> Vec<Message> {
    let v4 = Update {
        announced: nlri(V4, &["10.1.0.0/16", "192.168.0.0/26", "0.0.0.0/0"]),
        withdrawn: nlri(V4, &["10.2.0.0/16"]),
        attributes: Some(attributes()),
        ..Update::default()
    };
    let next_hop = Some(NextHop::V6("fd00::1".parse().expect("an address")));
    let reach = |nlri| MpReach { next_hop, raw_next_hop: Vec::new().into(), nlri };
    let v6 = Update {
        mp_reach: Some(reach(nlri(V6, &["fd00:1::/64", "::/0"]))),
        mp_unreach: Some(nlri(V6, &["fd00:2::/64"])),
        attributes: Some(PathAttributes { next_hop: None, ..attributes() }),
        ..Update::default()
    };
    let over_v6 = Update { mp_reach: Some(reach(nlri(V4, &["10.3.0.0/16"]))), ..v6.clone() };
    let plain = Update {
        announced: nlri(V4, &["10.1.0.0/16"]),
        attributes: Some(PathAttributes {
            next_hop: Some(NextHop::V4([10, 0, 0, 1].into())),
            ..PathAttributes::default()
        }),
        ..Update::default()
    };
    let ends = [Update::end_of_rib(V4), Update::end_of_rib(V6)];
    [plain, v4, v6, over_v6].into_iter().chain(ends).map(Message::Update).collect()
}

fn others() -> Vec<Message> {
    let refresh = |subtype| Message::RouteRefresh(RouteRefresh { family: V4, subtype });
    let cease = Notification::new(NotificationCode::Cease(CeaseCode::MaximumPrefixes));
    vec![
        Message::Keepalive,
        refresh(0),
        refresh(1),
        refresh(2),
        Message::Notification(Notification::shutdown("maintenance")),
        Message::Notification(cease.hard_reset()),
    ]
}

fn encode(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&UpdateContext::default(), &mut out).expect("a seed fits");
    out
}

fn all() -> Vec<Message> {
    [vec![open(OUR_AS)], updates(), others()].concat()
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for message in all() {
        let bytes = encode(&message);
        let kind = bytes[18] - 1;
        for flags in [1, 3, 0, 17] {
            seeds.push([&[flags, kind], &bytes[19..]].concat());
        }
    }
    seeds
}

pub(crate) fn streams() -> Vec<Vec<u8>> {
    let stream: Vec<u8> = all().iter().flat_map(|m| encode(m).to_vec()).collect();
    [1u8, 3, 19, 255].map(|step| [&[step], stream.as_slice()].concat()).to_vec()
}

pub(crate) fn texts() -> Vec<Vec<u8>> {
    let texts = [
        "65000:1",
        "65000:1:2",
        "rt:65000:1",
        "ro:192.0.2.1:7",
        "rt:70000:1",
        "no-export",
        "eth*\neth0",
        "*.100\nbond0.100",
        "a*b*c\naxbxc",
    ];
    texts.map(|t| t.as_bytes().to_vec()).to_vec()
}

/// UPDATEs with path identifiers (RFC 7911).
fn paths() -> Vec<Message> {
    let nlri = |ids: std::ops::Range<u32>| {
        let prefixes = ["10.1.0.0/16", "10.2.0.0/16"].map(|p| p.parse().expect("a prefix"));
        NlriList::from_paths(V4, ids.flat_map(|id| prefixes.map(|p| (id, p))))
    };
    let attributes = PathAttributes {
        next_hop: Some(NextHop::V4([10, 0, 0, 2].into())),
        as_path: AsPath::sequence([65_002]),
        ..PathAttributes::default()
    };
    let announced = nlri(0..5);
    let told = Update { announced, attributes: Some(attributes), ..Update::default() };
    let gone = Update { withdrawn: nlri(1..3), ..Update::default() };
    [told, gone].map(Message::Update).to_vec()
}

/// Two peers, of which the second exchanges several paths.
pub(crate) fn speakers_with_paths() -> Vec<Vec<u8>> {
    let message = |m: &Message| {
        let bytes = encode(m);
        let length = u8::try_from(bytes.len() - 19).expect("a short seed");
        [&[3, 0, bytes[18], length], &bytes[19..]].concat()
    };
    let seed = |how: u8| {
        let asn = if how & 4 != 0 { OUR_AS } else { 65_002 };
        let up = [vec![0, 2], message(&open(asn)), message(&Message::Keepalive)].concat();
        let talk: Vec<u8> = paths().iter().flat_map(message).collect();
        [vec![8, how], up, talk, vec![11, 0, 6, 0, 7, 130]].concat()
    };
    [0b0000_1111, 0b0001_1110, 0b0000_1011, 0b0100_1011].map(seed).to_vec()
}

/// Peers of our AS, all waited for; one connects, comes up, and tells routes.
pub(crate) fn speakers() -> Vec<Vec<u8>> {
    let message = |m: &Message| {
        let bytes = encode(m);
        let body = &bytes[19..];
        let length = u8::try_from(body.len()).expect("a short seed");
        [&[3, 0, bytes[18], length], body].concat()
    };
    let up = |asn| [vec![0, 1], message(&open(asn)), message(&Message::Keepalive)].concat();
    let talk: Vec<u8> = updates().iter().chain(&others()).flat_map(message).collect();
    let quiet: Vec<u8> = updates().iter().flat_map(message).collect();
    let ends = [vec![6, 0, 7, 130], vec![7, 200, 0, 1], vec![12, 1, 11, 0, 7, 255]];
    let mut seeds = Vec::new();
    for how in [0b0000_1111, 0b0001_1100, 0b0010_1001, 0b1100_1101] {
        let asn = if how & 4 != 0 { OUR_AS } else { 65_001 };
        for end in &ends {
            seeds.push([vec![8, how, 9, 1], up(asn), talk.clone(), end.clone()].concat());
            let again = up(asn);
            seeds.push([vec![8, how], up(asn), quiet.clone(), end.clone(), again].concat());
        }
    }
    seeds
}
