//! Faulty UPDATEs, by the tables of RFC 7606 and its successors: what becomes of the session, of
//! the routes, and what the peer is told.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;
use ipnet::IpNet;

use super::tests::{AS, ip, net};
use super::*;
use crate::session::State;
use crate::wire::{
    Capability, Community, Family, Framer, Message, NlriList, Open, Role, Update, UpdateContext,
};

/// What a fault has to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The route is taken as it is.
    Fine,
    /// The route is taken, without the attribute.
    Discard,
    /// The route is withdrawn, the session lives.
    Withdraw,
    /// The session ends with this NOTIFICATION.
    Reset(u8, u8),
}

use Outcome::{Discard, Fine, Reset, Withdraw};

/// A session whose other side is these tests.
struct Raw {
    speaker: Speaker,
    id: ConnectionId,
    now: Instant,
    /// What was sent to this side last, when the connection was closed.
    last: Option<BytesMut>,
}

const HEADER: [u8; 16] = [0xFF; 16];

fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let length = 19 + 4 + withdrawn.len() + attributes.len() + announced.len();
    let mut message = HEADER.to_vec();
    message.extend_from_slice(&(length as u16).to_be_bytes());
    message.push(2);
    for list in [withdrawn, attributes] {
        message.extend_from_slice(&(list.len() as u16).to_be_bytes());
        message.extend_from_slice(list);
    }
    message.extend_from_slice(announced);
    message
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
/// From AS 65009.
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xF1];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 2];
/// 7:7 tells the second version of the route from the first.
const MARK: &[u8] = &[0xC0, 8, 4, 0, 7, 0, 7];

impl Raw {
    fn new(asn: u32) -> Self {
        let four = vec![Capability::MultiProtocol(Family::IPV4_UNICAST)];
        let both = [four, vec![Capability::MultiProtocol(Family::IPV6_UNICAST)]].concat();
        Self::with(asn, |_| {}, &Open::new(asn, 90, [10, 0, 0, 2].into(), both))
    }

    fn with(asn: u32, change: impl Fn(&mut PeerConfig), open: &Open) -> Self {
        let now = Instant::now();
        let config = Config::new(AS, [10, 0, 0, 1].into());
        let mut speaker = Speaker::new(config, 1, now).unwrap();
        let mut peer = PeerConfig::new(ip(2), asn);
        peer.passive = true;
        peer.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
        change(&mut peer);
        speaker.set_peers(now, vec![peer]).unwrap();
        let (from, to) = (SocketAddr::new(ip(2), 40_000), SocketAddr::new(ip(1), 179));
        let id = speaker.handle_accepted(now, from, to).unwrap();
        let mut raw = Self { speaker, id, now, last: None };
        let mut bytes = BytesMut::new();
        let context = UpdateContext::default();
        Message::Open(open.clone()).encode(&context, &mut bytes).unwrap();
        Message::Keepalive.encode(&context, &mut bytes).unwrap();
        raw.send(&bytes);
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.speaker.handle_bytes(self.now, self.id, bytes);
        while let Some(action) = self.speaker.poll_action() {
            if let SpeakerAction::Close { last, .. } = action {
                self.last = Some(BytesMut::from(&last[..]));
            }
        }
    }

    fn is_up(&self) -> bool {
        self.speaker.peers().next().unwrap().state == State::Established
    }

    /// The codes and data of the NOTIFICATION that ended the session.
    fn farewell(&self) -> Option<((u8, u8), Vec<u8>)> {
        let mut framer = Framer::default();
        framer.push(self.last.as_ref()?);
        let mut said = None;
        while let Ok(Some(frame)) = framer.poll_frame() {
            if let Ok(Message::Notification(n)) = Message::decode(frame, &UpdateContext::default())
            {
                said = Some((n.code.values(), n.data.to_vec()));
            }
        }
        said
    }

    fn has(&self, prefix: &str) -> bool {
        self.speaker.rib().best(&net(prefix)).is_some()
    }

    fn is_marked(&self, prefix: &str) -> bool {
        let best = self.speaker.rib().best(&net(prefix));
        best.is_some_and(|b| b.attributes.has_community(Community::new(7, 7)))
    }
}

/// Tells two routes, then one of them again with a fault.
#[track_caller]
fn check(what: &str, asn: u32, fault: &[u8], expected: Outcome) {
    let mut raw = Raw::new(asn);
    assert!(raw.is_up(), "{what}");
    let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
    raw.send(&update(&[], &good, &[8, 20, 8, 30]));
    assert!(raw.has("20.0.0.0/8") && raw.has("30.0.0.0/8"), "{what}");
    // The faulty attribute takes the place of the good one, if there is one.
    let code = fault.get(1).copied();
    let rest = [ORIGIN, AS_PATH, NEXT_HOP, MARK].into_iter().filter(|a| Some(a[1]) != code);
    let attributes = [rest.collect::<Vec<_>>().concat(), fault.to_vec()].concat();
    raw.send(&update(&[], &attributes, &[8, 20]));
    let errors = raw.speaker.peers().next().unwrap().counters.update_errors;
    match expected {
        Reset(code, subcode) => {
            assert!(!raw.is_up(), "{what}: the session ends");
            let (codes, data) = raw.farewell().expect(what);
            assert_eq!(codes, (code, subcode), "{what}");
            if code == 3 && subcode != 1 && subcode != 10 {
                assert_eq!(data[1], fault[1], "{what}: with the attribute itself");
            }
            return;
        }
        Withdraw => assert!(!raw.has("20.0.0.0/8"), "{what}: the route is withdrawn"),
        Fine | Discard => {
            let marked = code == Some(8) || raw.is_marked("20.0.0.0/8");
            assert!(marked && raw.has("20.0.0.0/8"), "{what}: the route is taken");
        }
    }
    assert!(raw.is_up(), "{what}: the session lives");
    assert!(raw.has("30.0.0.0/8"), "{what}: others are untouched");
    assert_eq!(errors > 0, expected != Fine, "{what}: {errors} counted");
}

const EXTERNAL: u32 = 65_009;

#[test]
fn attributes_of_every_peer() {
    let mp = |bytes: &[u8]| [&[0x80, 14, bytes.len() as u8], bytes].concat();
    let v6 = |nlri: &[u8]| {
        let mut reach = vec![0, 2, 1, 16];
        reach.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        reach.push(0);
        reach.extend_from_slice(nlri);
        reach
    };
    let flagged = |flags: u8, mut attribute: Vec<u8>| {
        attribute[0] = flags;
        attribute
    };
    // What, the attribute, what becomes of it. Sections of RFC 7606 unless another is named.
    let table: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("7.1 ORIGIN, unknown value", vec![0x40, 1, 1, 3], Withdraw),
        ("7.1 ORIGIN, too long", vec![0x40, 1, 2, 0, 0], Withdraw),
        ("7.1 ORIGIN, empty", vec![0x40, 1, 0], Withdraw),
        ("3c ORIGIN, optional", vec![0xC0, 1, 1, 0], Withdraw),
        ("3c ORIGIN, not transitive", vec![0x00, 1, 1, 0], Withdraw),
        ("7.2 AS_PATH, cut off", vec![0x40, 2, 3, 2, 1, 0], Withdraw),
        ("7.2 AS_PATH, a segment without AS", vec![0x40, 2, 2, 2, 0], Withdraw),
        ("7.2 AS_PATH, an unknown segment", vec![0x40, 2, 6, 9, 1, 0, 0, 0, 1], Withdraw),
        ("7.2 AS_PATH, one octet over", vec![0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], Withdraw),
        ("RFC 7607 AS_PATH with AS 0", vec![0x40, 2, 6, 2, 1, 0, 0, 0, 0], Withdraw),
        ("3c AS_PATH, optional", vec![0xC0, 2, 6, 2, 1, 0, 0, 0xFD, 0xF1], Withdraw),
        ("7.3 NEXT_HOP, too short", vec![0x40, 3, 3, 1, 2, 3], Withdraw),
        ("7.3 NEXT_HOP, too long", vec![0x40, 3, 5, 1, 2, 3, 4, 5], Withdraw),
        ("RFC 4271, 6.3 NEXT_HOP 0.0.0.0", vec![0x40, 3, 4, 0, 0, 0, 0], Fine),
        ("7.4 MULTI_EXIT_DISC", vec![0x80, 4, 4, 0, 0, 0, 1], Fine),
        ("7.4 MULTI_EXIT_DISC, too short", vec![0x80, 4, 1, 0], Withdraw),
        ("3c MULTI_EXIT_DISC, transitive", vec![0xC0, 4, 4, 0, 0, 0, 1], Withdraw),
        ("7.6 ATOMIC_AGGREGATE", vec![0x40, 6, 0], Fine),
        ("7.6 ATOMIC_AGGREGATE with a value", vec![0x40, 6, 1, 0], Discard),
        ("7.7 AGGREGATOR", vec![0xC0, 7, 8, 0, 0, 0, 1, 1, 1, 1, 1], Fine),
        ("7.7 AGGREGATOR, too short", vec![0xC0, 7, 6, 0, 1, 1, 1, 1, 1], Discard),
        ("RFC 7607 AGGREGATOR with AS 0", vec![0xC0, 7, 8, 0, 0, 0, 0, 1, 1, 1, 1], Discard),
        ("7.8 COMMUNITIES", vec![0xC0, 8, 4, 0, 1, 0, 1], Fine),
        ("7.8 COMMUNITIES, empty", vec![0xC0, 8, 0], Withdraw),
        ("7.8 COMMUNITIES, too short", vec![0xC0, 8, 3, 0, 0, 0], Withdraw),
        ("3c COMMUNITIES, not transitive", vec![0x80, 8, 4, 0, 1, 0, 1], Withdraw),
        ("7.14 EXTENDED COMMUNITIES", vec![0xC0, 16, 8, 0, 2, 0, 1, 0, 0, 0, 1], Fine),
        ("7.14 EXTENDED COMMUNITIES, empty", vec![0xC0, 16, 0], Withdraw),
        ("7.14 EXTENDED COMMUNITIES, too short", vec![0xC0, 16, 7, 0, 0, 0, 0, 0, 0, 0], Withdraw),
        ("RFC 8092 LARGE_COMMUNITY", [&[0xC0, 32, 12][..], &[1; 12]].concat(), Fine),
        ("RFC 8092 LARGE_COMMUNITY, too short", [&[0xC0, 32, 11][..], &[1; 11]].concat(), Withdraw),
        ("RFC 8092 LARGE_COMMUNITY, empty", vec![0xC0, 32, 0], Withdraw),
        ("RFC 9234 ONLY_TO_CUSTOMER", vec![0xC0, 35, 4, 0, 0, 0, 1], Fine),
        ("RFC 9234 ONLY_TO_CUSTOMER, too short", vec![0xC0, 35, 3, 0, 0, 1], Withdraw),
        ("RFC 6793 AS4_PATH from a new speaker", vec![0xC0, 17, 1, 9], Fine),
        ("RFC 6793 AS4_PATH, flags", vec![0x40, 17, 1, 9], Discard),
        ("3b unknown, well-known", vec![0x40, 99, 1, 0], Reset(3, 2)),
        ("RFC 4271, 5 unknown, optional", vec![0x80, 99, 1, 0], Fine),
        ("RFC 4271, 5 unknown, transitive", vec![0xC0, 99, 1, 0], Fine),
        ("4 an attribute that runs over the end", vec![0x80, 4, 9, 0], Withdraw),
        ("4 an attribute without a length", vec![0x80, 4], Withdraw),
        ("4 an attribute without a code", vec![0x80], Withdraw),
        ("4 half of a long length", vec![0x90, 4, 0], Withdraw),
        ("3g twice", [[0x80, 4, 4, 0, 0, 0, 1]; 2].concat(), Discard),
        ("3g MP_REACH_NLRI twice", [mp(&v6(&[])), mp(&v6(&[]))].concat(), Reset(3, 1)),
        ("3g MP_UNREACH_NLRI twice", [[0x80, 15, 3, 0, 2, 1]; 2].concat(), Reset(3, 1)),
        ("7.11 MP_REACH_NLRI", mp(&v6(&[16, 0xfd, 0])), Fine),
        ("7.11 MP_REACH_NLRI, cut off", mp(&[0, 2]), Reset(3, 9)),
        ("7.11 MP_REACH_NLRI, next hop cut off", mp(&[0, 2, 1, 16, 1]), Reset(3, 9)),
        ("7.11 MP_REACH_NLRI, next hop of 1 octet", mp(&[0, 2, 1, 1, 9, 0]), Reset(3, 9)),
        ("7.11 IPv6 over an IPv4 next hop", mp(&[0, 2, 1, 4, 1, 2, 3, 4, 0]), Reset(3, 9)),
        ("RFC 8950 not agreed", mp(&[&[0, 1, 1][..], &v6(&[])[3..]].concat()), Reset(3, 9)),
        ("5.3 MP_REACH_NLRI, /200", mp(&v6(&[200])), Reset(3, 10)),
        ("5.3 MP_REACH_NLRI, prefix cut off", mp(&v6(&[64, 1])), Reset(3, 10)),
        ("3c MP_REACH_NLRI, transitive", flagged(0xC0, mp(&v6(&[16, 0xfd, 0]))), Withdraw),
        ("7.12 MP_UNREACH_NLRI, cut off", vec![0x80, 15, 2, 0, 2], Reset(3, 9)),
        ("5.3 MP_UNREACH_NLRI, /129", vec![0x80, 15, 4, 0, 2, 1, 129], Reset(3, 10)),
        ("families that were not agreed", mp(&[0, 25, 70, 4, 1, 2, 3, 4, 0, 9, 9]), Fine),
    ];
    for (what, fault, expected) in table {
        // A next hop that cannot be used is the table's business, not the codec's.
        if what.contains("0.0.0.0") {
            let mut raw = Raw::new(EXTERNAL);
            let attributes = [ORIGIN, AS_PATH, &fault].concat();
            raw.send(&update(&[], &attributes, &[8, 20]));
            assert!(raw.is_up() && !raw.has("20.0.0.0/8"), "{what}");
            continue;
        }
        for asn in [EXTERNAL, AS] {
            check(&format!("{what} (AS {asn})"), asn, &fault, expected);
        }
    }
}

#[test]
fn attributes_that_depend_on_the_peer() {
    // What, the attribute, from an external peer, from an internal one.
    let confederation = [0x40, 2, 6, 3, 1, 0, 0, 0xFD, 0xF1];
    let table: [(&str, &[u8], Outcome, Outcome); 8] = [
        ("7.5 LOCAL_PREF", &[0x40, 5, 4, 0, 0, 0, 9], Fine, Fine),
        ("7.5 LOCAL_PREF, too short", &[0x40, 5, 1, 0], Fine, Withdraw),
        ("7.9 ORIGINATOR_ID", &[0x80, 9, 4, 9, 9, 9, 9], Discard, Fine),
        ("7.9 ORIGINATOR_ID, too short", &[0x80, 9, 3, 9, 9, 9], Discard, Withdraw),
        ("7.10 CLUSTER_LIST", &[0x80, 10, 4, 9, 9, 9, 9], Discard, Fine),
        ("7.10 CLUSTER_LIST, too long", &[0x80, 10, 5, 9, 9, 9, 9, 9], Discard, Withdraw),
        ("7.10 CLUSTER_LIST, empty", &[0x80, 10, 0], Discard, Withdraw),
        ("RFC 5065, 5 a confederation", &confederation, Withdraw, Fine),
    ];
    for (what, fault, external, internal) in table {
        check(&format!("{what} (external)"), EXTERNAL, fault, external);
        check(&format!("{what} (internal)"), AS, fault, internal);
    }
    // LOCAL_PREF of an external peer is not used.
    let mut raw = Raw::new(EXTERNAL);
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, &[0x40, 5, 4, 0, 0, 0, 9]].concat();
    raw.send(&update(&[], &attributes, &[8, 20]));
    let best = raw.speaker.rib().best(&net("20.0.0.0/8")).unwrap();
    assert_eq!(best.attributes.local_pref, None);
}

#[test]
fn mandatory_attributes() {
    // RFC 7606, 3d: withdrawn if there is anything to withdraw.
    let all = [ORIGIN, AS_PATH, NEXT_HOP];
    for missing in 0..3 {
        let mut raw = Raw::new(EXTERNAL);
        raw.send(&update(&[], &all.concat(), &[8, 20, 8, 30]));
        let rest: Vec<&[u8]> =
            all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, a)| *a).collect();
        raw.send(&update(&[8, 30], &rest.concat(), &[8, 20]));
        assert!(raw.is_up() && !raw.has("20.0.0.0/8") && !raw.has("30.0.0.0/8"), "{missing}");
        // Attributes of no route are of no interest.
        raw.send(&update(&[8, 30], &rest.concat(), &[]));
        assert!(raw.is_up());
    }
}

#[test]
fn what_cannot_be_read_at_all() {
    let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
    let message = |kind: u8, body: &[u8]| {
        let mut message = HEADER.to_vec();
        message.extend_from_slice(&(19 + body.len() as u16).to_be_bytes());
        message.push(kind);
        message.extend_from_slice(body);
        message
    };
    let mut marker = update(&[], &good, &[8, 20]);
    marker[3] = 0;
    let table: Vec<(&str, Vec<u8>, (u8, u8))> = vec![
        ("RFC 4271, 6.1 marker", marker, (1, 1)),
        ("RFC 4271, 6.1 KEEPALIVE with a body", message(4, &[0]), (1, 2)),
        ("RFC 4271, 6.1 an UPDATE of 22 octets", message(2, &[0, 0, 0]), (1, 2)),
        ("RFC 4271, 6.1 an unknown type", message(9, &[]), (1, 3)),
        ("RFC 4271, 6.3 withdrawn routes over the end", message(2, &[0, 9, 0, 0]), (3, 1)),
        ("RFC 4271, 6.3 attributes over the end", message(2, &[0, 0, 0, 9]), (3, 1)),
        ("5.3 a withdrawn /33", update(&[33, 1, 2, 3, 4, 5], &[], &[]), (3, 10)),
        ("5.3 an announced /33", update(&[], &good, &[33, 1, 2, 3, 4, 5]), (3, 10)),
        ("5.3 a prefix cut off", update(&[], &good, &[24, 1]), (3, 10)),
        ("RFC 7313, 5 a refresh of 3 octets", message(5, &[0, 1, 0]), (7, 1)),
        (
            "RFC 4271, 6.6 an OPEN in Established",
            message(1, &[4, 0, 1, 0, 90, 1, 1, 1, 1, 0]),
            (5, 3),
        ),
    ];
    for (what, bytes, codes) in table {
        let mut raw = Raw::new(EXTERNAL);
        raw.send(&update(&[], &good, &[8, 30]));
        raw.send(&bytes);
        assert!(!raw.is_up(), "{what}");
        assert_eq!(raw.farewell().map(|(codes, _)| codes), Some(codes), "{what}");
        assert!(!raw.has("30.0.0.0/8"), "{what}: a peer without graceful restart loses its routes");
    }
}

#[test]
fn opens_that_do_not_fit() {
    let open = |asn, capabilities| Open::new(asn, 90, [10, 0, 0, 2].into(), capabilities);
    let v4 = || vec![Capability::MultiProtocol(Family::IPV4_UNICAST)];
    let none: fn(&mut PeerConfig) = |_| {};
    let only_v6: fn(&mut PeerConfig) = |p| p.families = vec![Family::IPV6_UNICAST];
    let customer: fn(&mut PeerConfig) = |p| {
        p.role = Some(Role::Customer);
        p.strict_role = true;
    };
    let same_id = Open::new(AS, 90, [10, 0, 0, 1].into(), v4());
    let with_role = |role| [v4(), vec![Capability::Role(role)]].concat();
    type Row = (&'static str, u32, fn(&mut PeerConfig), Open, Option<(u8, u8)>);
    let table: Vec<Row> = vec![
        ("as agreed", EXTERNAL, none, open(EXTERNAL, v4()), None),
        ("no capability but its AS: IPv4", EXTERNAL, none, open(EXTERNAL, vec![]), None),
        ("another AS", EXTERNAL, none, open(65_010, v4()), Some((2, 2))),
        ("AS 0 (RFC 7607)", EXTERNAL, none, open(0, v4()), Some((2, 2))),
        ("our identifier, same AS (RFC 6286)", AS, none, same_id, Some((2, 3))),
        ("no family in common", EXTERNAL, only_v6, open(EXTERNAL, v4()), Some((2, 7))),
        ("no role (RFC 9234)", EXTERNAL, customer, open(EXTERNAL, v4()), Some((2, 11))),
        ("a role that fits", EXTERNAL, customer, open(EXTERNAL, with_role(Role::Provider)), None),
        ("another", EXTERNAL, customer, open(EXTERNAL, with_role(Role::Peer)), Some((2, 11))),
    ];
    for (what, asn, change, open, expected) in table {
        let raw = Raw::with(asn, change, &open);
        assert_eq!(raw.is_up(), expected.is_none(), "{what}");
        assert_eq!(raw.farewell().map(|(codes, _)| codes), expected, "{what}");
        if expected == Some((2, 7)) {
            // RFC 5492, 5: with the capabilities that were missed.
            let data = raw.farewell().unwrap().1;
            assert_eq!(data, [1, 4, 0, 2, 0, 1], "{what}");
        }
    }
}

#[test]
fn long_messages_are_read_even_from_who_did_not_announce_them() {
    // RFC 8654, 4: this side said that it takes them.
    let mut raw = Raw::new(EXTERNAL);
    let prefixes: Vec<u8> = (0..2000u32).flat_map(|i| [24, 50, (i >> 8) as u8, i as u8]).collect();
    let message = update(&[], &[ORIGIN, AS_PATH, NEXT_HOP].concat(), &prefixes);
    assert!(message.len() > 4096);
    raw.send(&message);
    assert!(raw.is_up());
    assert_eq!(raw.speaker.rib().len(), 2000);
}

#[test]
fn ipv6_next_hops_of_ipv4_routes_need_an_agreement() {
    let v4_over_v6 = (Family::IPV4_UNICAST, Family::IPV6_UNICAST.afi);
    let capabilities = vec![
        Capability::MultiProtocol(Family::IPV4_UNICAST),
        Capability::ExtendedNextHop(vec![v4_over_v6]),
    ];
    let open = Open::new(EXTERNAL, 90, [10, 0, 0, 2].into(), capabilities);
    let mut raw = Raw::with(EXTERNAL, |p| p.extended_next_hop = true, &open);
    let mut reach = vec![0x80, 14, 23, 0, 1, 1, 16];
    reach.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    reach.extend_from_slice(&[0, 8, 20]);
    raw.send(&update(&[], &[ORIGIN, AS_PATH, &reach].concat(), &[]));
    let best = raw.speaker.rib().best(&net("20.0.0.0/8")).unwrap();
    assert_eq!(best.next_hops, ["2001:db8::2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn end_marks_of_refreshes_without_a_beginning_mean_nothing() {
    let capabilities = vec![
        Capability::MultiProtocol(Family::IPV4_UNICAST),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
    ];
    let open = Open::new(EXTERNAL, 90, [10, 0, 0, 2].into(), capabilities);
    let mut raw = Raw::with(EXTERNAL, |_| {}, &open);
    let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
    let mark = |subtype: u8| {
        let mut message = HEADER.to_vec();
        message.extend_from_slice(&[0, 23, 5, 0, 1, subtype, 1]);
        message
    };
    raw.send(&update(&[], &good, &[8, 20, 8, 30]));
    raw.send(&mark(2));
    assert!(raw.has("20.0.0.0/8"));
    raw.send(&mark(1));
    raw.send(&update(&[], &good, &[8, 30]));
    assert!(raw.has("20.0.0.0/8"), "until the end");
    raw.send(&mark(9));
    raw.send(&mark(2));
    assert!(!raw.has("20.0.0.0/8") && raw.has("30.0.0.0/8") && raw.is_up());
}

#[test]
fn families_that_are_not_read_are_agreed_and_do_no_harm() {
    let families = [Family::IPV4_UNICAST, Family::L2VPN_EVPN];
    let capabilities = families.map(Capability::MultiProtocol).to_vec();
    let open = Open::new(EXTERNAL, 90, [10, 0, 0, 2].into(), capabilities);
    let mut raw = Raw::with(EXTERNAL, |p| p.families = families.to_vec(), &open);
    let negotiated = raw.speaker.peers().next().unwrap().negotiated.unwrap();
    assert_eq!(negotiated.families, families);
    // A MAC route with a next hop of four octets, kept as it came.
    let nlri = [2, 3, 0xAA, 0xBB, 0xCC];
    let reach = [&[0x80, 14, 14, 0, 25, 70, 4, 10, 0, 0, 2, 0][..], &nlri].concat();
    let bytes = update(&[], &[&reach, ORIGIN, AS_PATH].concat(), &[]);
    let mut framer = Framer::default();
    framer.push(&bytes);
    let frame = framer.poll_frame().unwrap().unwrap();
    let context = &negotiated.context;
    let message = Message::decode(frame, context).unwrap();
    let Message::Update(read) = &message else { panic!("an UPDATE") };
    let reach = read.mp_reach.as_ref().unwrap();
    assert_eq!((reach.nlri.family(), &reach.raw_next_hop[..]), (families[1], &[10, 0, 0, 2][..]));
    let mut again = BytesMut::new();
    message.encode(context, &mut again).unwrap();
    assert_eq!(again, bytes, "it goes on as it came");
    raw.send(&bytes);
    let unreach = [0x80, 15, 8, 0, 25, 70, 2, 3, 0xAA, 0xBB, 0xCC];
    raw.send(&update(&[], &unreach, &[]));
    raw.send(&update(&[], &[ORIGIN, AS_PATH, NEXT_HOP].concat(), &[8, 20]));
    assert!(raw.is_up() && raw.has("20.0.0.0/8"));
    assert_eq!(raw.speaker.peers().next().unwrap().counters.update_errors, 0);
}

#[test]
fn end_of_rib_in_either_form_is_no_route() {
    let mut raw = Raw::new(EXTERNAL);
    let mut bytes = BytesMut::new();
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        let mark = Message::Update(Update::end_of_rib(family));
        mark.encode(&UpdateContext::default(), &mut bytes).unwrap();
    }
    // MP_UNREACH_NLRI for IPv4 is a mark, too.
    let mp = NlriList::from_prefixes(Family::IPV4_UNICAST, [] as [IpNet; 0]);
    let mark = Message::Update(Update { mp_unreach: Some(mp), ..Default::default() });
    mark.encode(&UpdateContext::default(), &mut bytes).unwrap();
    raw.send(&bytes);
    assert!(raw.is_up() && raw.speaker.rib().is_empty());
}

#[test]
fn paths_that_do_not_begin_with_the_peer_are_refused_where_that_is_asked_for() {
    // RFC 4271, 6.3; RFC 7606, 7.2. A route server shows its clients' paths.
    for enforce_first_as in [false, true] {
        let open = Open::new(65_010, 90, [10, 0, 0, 2].into(), Vec::new());
        let mut raw = Raw::with(65_010, |p| p.enforce_first_as = enforce_first_as, &open);
        raw.send(&update(&[], &[ORIGIN, AS_PATH, NEXT_HOP].concat(), &[8, 20]));
        assert!(raw.is_up());
        assert_eq!(raw.has("20.0.0.0/8"), !enforce_first_as);
        let own = [0x40, 2, 10, 2, 2, 0, 0, 0xFD, 0xF2, 0, 0, 0xFD, 0xF1];
        raw.send(&update(&[], &[ORIGIN, &own, NEXT_HOP].concat(), &[8, 30]));
        assert!(raw.has("30.0.0.0/8"));
    }
}
