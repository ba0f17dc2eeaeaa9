//! OPEN (RFC 4271, section 4.2), with the extended parameter length of RFC 9072.

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{AS_TRANS, Capability, EncodeError, WireError};

/// Optional parameter type of capabilities (RFC 5492).
const PARAMETER_CAPABILITIES: u8 = 2;
/// Marks the extended form of the optional parameters (RFC 9072).
const EXTENDED_PARAMETERS: u8 = 255;

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The two-octet AS field; [`AS_TRANS`] when the number does not fit.
    pub as_field: u16,
    /// Proposed hold time in seconds: 0, or 3 and more.
    pub hold_time: u16,
    /// BGP identifier, not zero.
    pub router_id: Ipv4Addr,
    /// The capabilities, in their order.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// An OPEN of a speaker in AS `asn`; adds the four-octet AS capability (RFC 6793) itself.
    pub fn new(
        asn: u32,
        hold_time: u16,
        router_id: Ipv4Addr,
        mut capabilities: Vec<Capability>,
    ) -> Self {
        capabilities.push(Capability::FourOctetAs(asn));
        let as_field = u16::try_from(asn).unwrap_or(AS_TRANS);
        Self { as_field, hold_time, router_id, capabilities }
    }

    /// The sender's AS number: from the capability if it is there.
    pub fn asn(&self) -> u32 {
        let four = self.capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        four.unwrap_or_else(|| self.as_field.into())
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, WireError> {
        let short = WireError::Open("truncated");
        let mut r = Reader::new(&body);
        let version = r.u8().ok_or_else(|| short.clone())?;
        if version != 4 {
            return Err(WireError::Version(version));
        }
        let as_field = r.u16().ok_or_else(|| short.clone())?;
        let hold_time = r.u16().ok_or_else(|| short.clone())?;
        let router_id = Ipv4Addr::from(r.u32().ok_or_else(|| short.clone())?);
        let capabilities = decode_parameters(&mut r)?;
        if matches!(hold_time, 1 | 2) {
            return Err(WireError::HoldTime(hold_time));
        }
        if router_id.is_unspecified() {
            return Err(WireError::Identifier(router_id));
        }
        Ok(Self { as_field, hold_time, router_id, capabilities })
    }

    pub(super) fn encode_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(4);
        out.put_u16(self.as_field);
        out.put_u16(self.hold_time);
        out.put_u32(self.router_id.into());
        let mut parameters = BytesMut::new();
        for capability in &self.capabilities {
            capability.encode(&mut parameters);
        }
        let length = parameters.len();
        if length == 0 {
            out.put_u8(0);
        } else if length <= 253 {
            // One parameter with all capabilities; both lengths are bounded by the condition.
            out.put_slice(&[(length + 2) as u8, PARAMETER_CAPABILITIES, length as u8]);
        } else {
            let fits = |n: usize| {
                u16::try_from(n).map_err(|_overflow| EncodeError {
                    what: "capabilities",
                    length,
                    max: usize::from(u16::MAX) - 3,
                })
            };
            out.put_slice(&[EXTENDED_PARAMETERS, EXTENDED_PARAMETERS]);
            out.put_u16(fits(length + 3)?);
            out.put_u8(PARAMETER_CAPABILITIES);
            out.put_u16(fits(length)?);
        }
        out.put_slice(&parameters);
        Ok(())
    }
}

fn decode_parameters(r: &mut Reader<'_>) -> Result<Vec<Capability>, WireError> {
    let short = || WireError::Open("truncated optional parameters");
    let mut length = usize::from(r.u8().ok_or_else(short)?);
    let extended = length != 0 && r.peek() == Some(EXTENDED_PARAMETERS);
    if extended {
        r.u8();
        length = usize::from(r.u16().ok_or_else(short)?);
    }
    let mut parameters = Reader::new(r.rest());
    if parameters.len() != length {
        return Err(WireError::Open("optional parameter length does not match the message"));
    }
    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(short)?;
        let octets = if extended {
            usize::from(parameters.u16().ok_or_else(short)?)
        } else {
            usize::from(parameters.u8().ok_or_else(short)?)
        };
        let value = parameters.take(octets).ok_or_else(short)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(WireError::OptionalParameter(kind));
        }
        let mut r = Reader::new(value);
        while !r.is_empty() {
            let bad = || WireError::Open("truncated capability");
            let code = r.u8().ok_or_else(bad)?;
            let octets = usize::from(r.u8().ok_or_else(bad)?);
            let value = r.take(octets).ok_or_else(bad)?;
            capabilities.push(Capability::decode(code, Bytes::copy_from_slice(value)));
        }
    }
    Ok(capabilities)
}
