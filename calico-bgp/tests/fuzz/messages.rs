//! One message of any kind, in any context: what can be read can be written, and reads the same
//! again.

use bytes::{Bytes, BytesMut};
use calico_bgp::wire::{
    Family, Frame, Framer, MAX_EXTENDED_LEN, MAX_LEN, Message, MessageKind, UpdateContext,
};

/// The first octet is the context, the second the kind, the rest the body.
pub(crate) fn run(data: &[u8]) {
    let [flags, kind, body @ ..] = data else { return };
    let context = UpdateContext {
        four_octet_as: flags & 1 != 0,
        external: flags & 2 != 0,
        add_path: match flags >> 2 & 3 {
            0 => vec![],
            1 => vec![Family::IPV4_UNICAST],
            2 => vec![Family::IPV6_UNICAST],
            _ => vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        },
        add_path_send: vec![],
        extended_next_hop: flags & 32 != 0,
        max_len: if flags & 16 != 0 { MAX_EXTENDED_LEN } else { MAX_LEN },
    };
    let kind = match kind % 5 {
        0 => MessageKind::Open,
        1 => MessageKind::Update,
        2 => MessageKind::Notification,
        3 => MessageKind::Keepalive,
        _ => MessageKind::RouteRefresh,
    };
    let frame = Frame { kind, body: Bytes::copy_from_slice(body) };
    let message = match Message::decode(frame, &context) {
        Ok(message) => message,
        Err(error) => {
            // What ends a session can be said, to the peer and to people.
            let said = Message::Notification(error.notification());
            assert!(said.encode(&context, &mut BytesMut::new()).is_ok(), "{error}");
            return;
        }
    };
    if let Message::Update(update) = &message {
        let lists = [Some(&update.withdrawn), Some(&update.announced), update.mp_unreach.as_ref()];
        for (_, prefix) in lists.into_iter().flatten().flat_map(|list| list.iter()) {
            assert_eq!(prefix, prefix.trunc());
        }
        let _ = (update.is_end_of_rib(), update.treat_as_withdraw());
        if !update.errors.is_empty() {
            // Broken attributes were dropped, so it cannot come out as it came in.
            return;
        }
    }
    let _ = format!("{message:?}");
    let mut out = BytesMut::new();
    if message.encode(&context, &mut out).is_err() {
        assert!(out.is_empty(), "a message that does not fit leaves nothing behind");
        return;
    }
    let mut framer = Framer::default();
    framer.allow_extended();
    framer.push(&out);
    let Ok(Some(frame)) = framer.poll_frame() else { panic!("what was written has no frame") };
    let again = Message::decode(frame, &context).expect("what was written can be read");
    let mut twice = BytesMut::new();
    again.encode(&context, &mut twice).expect("and written again");
    assert_eq!(out, twice, "{message:?}\n{again:?}");
}
