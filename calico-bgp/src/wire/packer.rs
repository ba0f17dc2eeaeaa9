//! Writing many prefixes with few UPDATEs.

use bytes::{BufMut, BytesMut};

use super::attributes::{OPTIONAL, code, put};
use super::frame::encode_frame;
use super::nlri::Nlri;
use super::update::put_sized;
use super::{EncodeError, Family, HEADER_LEN, MessageKind, NextHop, PathAttributes, UpdateContext};

/// Packs prefixes with equal attributes into as few UPDATEs as possible.
#[derive(Debug)]
pub struct UpdatePacker<'a> {
    context: &'a UpdateContext,
    family: Family,
}

impl<'a> UpdatePacker<'a> {
    /// A packer for one family of a session.
    pub const fn new(context: &'a UpdateContext, family: Family) -> Self {
        Self { context, family }
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
        let mut encoded = BytesMut::new();
        attributes.encode(self.context.four_octet_as, classic, &mut encoded);
        let mut next_hop = BytesMut::new();
        if let Some(hop) = attributes.next_hop {
            hop.encode(&mut next_hop);
        }
        // Header, two length fields, attributes; and for MP_REACH its header (extended), family,
        // next hop and reserved octet.
        let mp = if classic { 0 } else { 4 + 3 + next_hop.len() + 1 };
        let fixed = HEADER_LEN + 4 + encoded.len() + mp;
        self.pack(fixed, prefixes, |chunk| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                o.put_u16(0);
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_REACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            o.put_slice(&next_hop);
                            o.put_u8(0);
                            chunk.iter().for_each(|p| p.put(o));
                        });
                    }
                    o.put_slice(&encoded);
                })?;
                if classic {
                    chunk.iter().for_each(|p| p.put(o));
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
        self.pack(fixed, prefixes, |chunk| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                put_sized(o, "withdrawn routes", |o| {
                    if classic {
                        chunk.iter().for_each(|p| p.put(o));
                    }
                })?;
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_UNREACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            chunk.iter().for_each(|p| p.put(o));
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
        mut write: impl FnMut(&[N]) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let max = self.context.max_len;
        // The longest prefix must fit, else the loop below could not advance.
        let longest = 4 + 17;
        if fixed + longest > max {
            return Err(EncodeError { what: "path attributes", length: fixed + longest, max });
        }
        let mut rest = prefixes;
        while !rest.is_empty() {
            let mut room = max - fixed;
            let mut count = 0;
            for prefix in rest {
                let Some(left) = room.checked_sub(prefix.wire_len()) else { break };
                (room, count) = (left, count + 1);
            }
            let (chunk, tail) = rest.split_at(count);
            write(chunk)?;
            rest = tail;
        }
        Ok(())
    }
}
