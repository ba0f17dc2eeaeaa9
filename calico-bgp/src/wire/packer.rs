//! Writing many prefixes with few UPDATEs.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};

use super::attributes::{OPTIONAL, code, put};
use super::frame::encode_frame;
use super::nlri::{Nlri, put_all};
use super::update::put_sized;
use super::{EncodeError, Family, HEADER_LEN, MessageKind, NextHop, PathAttributes, UpdateContext};

/// Packs prefixes with equal attributes into as few UPDATEs as possible.
#[derive(Debug)]
pub struct UpdatePacker<'a> {
    context: &'a UpdateContext,
    family: Family,
    /// The attributes of the messages that are being written; kept for its capacity.
    encoded: RefCell<BytesMut>,
}

/// Some prefixes and the octets that they take.
struct Piece<'p, N> {
    prefixes: &'p [N],
    octets: usize,
}

impl<N: Nlri> Piece<'_, N> {
    fn put(&self, out: &mut BytesMut) {
        put_all(self.prefixes, self.octets, out);
    }
}

impl<'a> UpdatePacker<'a> {
    /// A packer for one family of a session. It serves many calls better than one.
    pub fn new(context: &'a UpdateContext, family: Family) -> Self {
        Self { context, family, encoded: RefCell::default() }
    }

    /// Appends UPDATEs that announce `prefixes` with `attributes`, which must have a next hop.
    ///
    /// # Errors
    /// [`EncodeError`] if the attributes leave no room for a prefix; nothing is written then.
    pub fn announce(
        &self,
        attributes: &PathAttributes,
        prefixes: &[impl Nlri],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let classic = self.family == Family::IPV4_UNICAST
            && matches!(attributes.next_hop, Some(NextHop::V4(_)));
        let mut encoded = self.encoded.borrow_mut();
        encoded.clear();
        attributes.encode(self.context.four_octet_as, classic, &mut encoded);
        // Header, two length fields, attributes; and for MP_REACH its header (extended), family,
        // next hop with its length, and reserved octet.
        let hop = attributes.next_hop.map_or(0, NextHop::wire_len);
        let mp = if classic { 0 } else { 4 + 3 + 1 + hop + 1 };
        let fixed = HEADER_LEN + 4 + encoded.len() + mp;
        self.pack(fixed, prefixes, |piece| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                o.put_u16(0);
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_REACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            match attributes.next_hop {
                                Some(hop) => hop.encode(o),
                                None => o.put_u8(0),
                            }
                            o.put_u8(0);
                            piece.put(o);
                        });
                    }
                    o.put_slice(&encoded);
                })?;
                if classic {
                    piece.put(o);
                }
                Ok(())
            })
        })
    }

    /// Appends UPDATEs that withdraw `prefixes`.
    ///
    /// # Errors
    /// [`EncodeError`] if the message bound leaves no room for a prefix; it cannot happen with
    /// the bounds that BGP knows.
    pub fn withdraw(&self, prefixes: &[impl Nlri], out: &mut BytesMut) -> Result<(), EncodeError> {
        let classic = self.family == Family::IPV4_UNICAST;
        let fixed = HEADER_LEN + 4 + if classic { 0 } else { 4 + 3 };
        self.pack(fixed, prefixes, |piece| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                put_sized(o, "withdrawn routes", |o| {
                    if classic {
                        piece.put(o);
                    }
                })?;
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_UNREACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            piece.put(o);
                        });
                    }
                })
            })
        })
    }

    fn pack<N: Nlri>(
        &self,
        fixed: usize,
        prefixes: &[N],
        mut write: impl FnMut(Piece<'_, N>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let max = self.context.max_len;
        // The longest prefix must fit, else the loop below could not advance.
        let longest = 4 + 17;
        if fixed + longest > max {
            return Err(EncodeError { what: "path attributes", length: fixed + longest, max });
        }
        let mut rest = prefixes;
        while !rest.is_empty() {
            let (mut octets, mut count) = (0, 0);
            for prefix in rest {
                let with = octets + prefix.wire_len();
                if with > max - fixed {
                    break;
                }
                (octets, count) = (with, count + 1);
            }
            let (prefixes, tail) = rest.split_at(count);
            write(Piece { prefixes, octets })?;
            rest = tail;
        }
        Ok(())
    }
}
