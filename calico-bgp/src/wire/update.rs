//! UPDATE (RFC 4271, section 4.3; RFC 4760).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::attributes::{OPTIONAL, code, put};
use super::reader::Reader;
use super::update_decoder::AttributeDecoder;
use super::{
    AttributeError, EncodeError, ErrorClass, Family, MAX_LEN, NextHop, NlriList, PathAttributes,
    WireError,
};

/// What was negotiated that changes how messages are read and written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpdateContext {
    /// AS numbers take four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in another AS: LOCAL_PREF and the reflection attributes are not for it.
    pub external: bool,
    /// Families whose prefixes carry path identifiers when received (RFC 7911).
    pub add_path: Vec<Family>,
    /// Families whose prefixes carry path identifiers when sent (RFC 7911).
    pub add_path_send: Vec<Family>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Longest message in octets.
    pub max_len: usize,
}

impl Default for UpdateContext {
    fn default() -> Self {
        Self {
            four_octet_as: true,
            external: false,
            add_path: Vec::new(),
            add_path_send: Vec::new(),
            extended_next_hop: false,
            max_len: MAX_LEN,
        }
    }
}

impl UpdateContext {
    /// Whether UPDATEs for two peers are written in the same words.
    pub(crate) fn writes_like(&self, other: &Self) -> bool {
        let written = |c: &Self| (c.four_octet_as, c.external, c.max_len, c.extended_next_hop);
        written(self) == written(other) && self.add_path_send == other.add_path_send
    }
}

/// MP_REACH_NLRI: routes of any family with their next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpReach {
    /// The next hop; `None` only for a family that we do not read.
    pub next_hop: Option<NextHop>,
    /// The next hop as received, for families that we do not read.
    pub raw_next_hop: Bytes,
    /// The prefixes.
    pub nlri: NlriList,
}

/// An UPDATE message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// IPv4 unicast routes taken back.
    pub withdrawn: NlriList,
    /// Routes of any family taken back (MP_UNREACH_NLRI).
    pub mp_unreach: Option<NlriList>,
    /// The attributes of all announced routes. `next_hop` is that of `announced`.
    pub attributes: Option<PathAttributes>,
    /// Routes of any family (MP_REACH_NLRI).
    pub mp_reach: Option<MpReach>,
    /// IPv4 unicast routes.
    pub announced: NlriList,
    /// What was wrong with it, short of a session reset.
    pub errors: Vec<AttributeError>,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            withdrawn: NlriList::empty(Family::IPV4_UNICAST),
            mp_unreach: None,
            attributes: None,
            mp_reach: None,
            announced: NlriList::empty(Family::IPV4_UNICAST),
            errors: Vec::new(),
        }
    }
}

impl Update {
    /// Makes it empty, in place.
    pub(super) fn clear(&mut self) {
        let Self { withdrawn, mp_unreach, attributes, mp_reach, announced, errors } = self;
        *withdrawn = NlriList::empty(Family::IPV4_UNICAST);
        *announced = NlriList::empty(Family::IPV4_UNICAST);
        *mp_unreach = None;
        *mp_reach = None;
        errors.clear();
        if let Some(attributes) = attributes {
            attributes.clear();
        }
    }

    /// The End-of-RIB marker of a family (RFC 4724, section 2).
    pub fn end_of_rib(family: Family) -> Self {
        let mp_unreach = (family != Family::IPV4_UNICAST).then(|| NlriList::empty(family));
        Self { mp_unreach, ..Self::default() }
    }

    /// The family whose End-of-RIB marker this is, if it is one.
    pub fn is_end_of_rib(&self) -> Option<Family> {
        let bare = self.withdrawn.is_empty()
            && self.announced.is_empty()
            && self.attributes.is_none()
            && self.mp_reach.is_none()
            && self.errors.is_empty();
        match &self.mp_unreach {
            _ if !bare => None,
            None => Some(Family::IPV4_UNICAST),
            Some(list) => list.is_empty().then(|| list.family()),
        }
    }

    /// Whether the announced routes have to count as withdrawn (RFC 7606, section 2).
    pub fn treat_as_withdraw(&self) -> bool {
        self.errors.iter().any(|e| e.class == ErrorClass::TreatAsWithdraw)
    }

    #[cfg(test)]
    pub(super) fn decode(body: Bytes, context: &UpdateContext) -> Result<Self, WireError> {
        let mut update = Self::default();
        update.read(body, context)?;
        Ok(update)
    }

    /// Reads a message into an empty value: it is large, and moving it about would cost as much
    /// as reading it.
    pub(super) fn read(
        &mut self,
        mut body: Bytes,
        context: &UpdateContext,
    ) -> Result<(), WireError> {
        let mut r = Reader::new(&body);
        let length = r.u16().ok_or(WireError::Update("no room for the withdrawn length"))?;
        let withdrawn = r
            .take(length.into())
            .ok_or(WireError::Update("withdrawn routes run over the end of the message"))?;
        let length = r.u16().ok_or(WireError::Update("no room for the attribute length"))?;
        let attributes = r
            .take(length.into())
            .ok_or(WireError::Update("attributes run over the end of the message"))?;
        let v4 = Family::IPV4_UNICAST;
        let add_path = context.add_path.contains(&v4);
        if !withdrawn.is_empty() {
            self.withdrawn = NlriList::part_of(&body, v4, add_path, withdrawn)?;
        }
        let announced_at = body.len() - r.len();
        let mut decoder = AttributeDecoder::new(context, &body, self);
        decoder.read_all(attributes)?;
        let announces = announced_at < body.len();
        decoder.finish(announces);
        if announces {
            body.advance(announced_at);
            self.announced.fill(v4, add_path, body)?;
        }
        Ok(())
    }

    pub(super) fn encode_body(
        &self,
        context: &UpdateContext,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        put_sized(out, "withdrawn routes", |o| o.put_slice(self.withdrawn.as_bytes()))?;
        put_sized(out, "path attributes", |o| {
            // The multiprotocol attributes go first (RFC 7606, section 5.1).
            if let Some(reach) = &self.mp_reach {
                put(o, OPTIONAL, code::MP_REACH_NLRI, |o| {
                    let family = reach.nlri.family();
                    o.put_u16(family.afi);
                    o.put_u8(family.safi);
                    match reach.next_hop {
                        Some(next_hop) => next_hop.encode(o),
                        None => {
                            // One length octet came in with it, so it fits one going out.
                            o.put_u8(reach.raw_next_hop.len() as u8);
                            o.put_slice(&reach.raw_next_hop);
                        }
                    }
                    o.put_u8(0);
                    o.put_slice(reach.nlri.as_bytes());
                });
            }
            if let Some(unreach) = &self.mp_unreach {
                put(o, OPTIONAL, code::MP_UNREACH_NLRI, |o| {
                    o.put_u16(unreach.family().afi);
                    o.put_u8(unreach.family().safi);
                    o.put_slice(unreach.as_bytes());
                });
            }
            if let Some(attributes) = &self.attributes {
                attributes.encode(context.four_octet_as, true, o);
            }
        })?;
        out.put_slice(self.announced.as_bytes());
        Ok(())
    }
}

/// Writes a two-octet length and what `body` writes.
pub(super) fn put_sized(
    out: &mut BytesMut,
    what: &'static str,
    body: impl FnOnce(&mut BytesMut),
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_u16(0);
    body(out);
    let length = out.len() - start - 2;
    let value = u16::try_from(length).map_err(|_overflow| EncodeError {
        what,
        length,
        max: usize::from(u16::MAX),
    })?;
    out[start..start + 2].copy_from_slice(&value.to_be_bytes());
    Ok(())
}
