//! Registers, constants and verdicts, the operands of expressions.

use super::{Attrs, DecodeError, Result, Writer};

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// A register of the nf_tables machine: the verdict, or one of sixteen 4-byte words.
///
/// A value longer than a word lies in the words that follow. The kernel has two numberings for
/// the same memory; both are read, and the one the kernel itself prints is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reg {
    /// `NFT_REG_VERDICT`.
    Verdict,
    /// Word 0 to 15 of the data registers.
    Word(u8),
}

impl Reg {
    /// The first data register.
    pub const R0: Self = Self::Word(0);

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Verdict => 0,
            Self::Word(w) if w.is_multiple_of(4) => 1 + u32::from(w) / 4,
            Self::Word(w) => 8 + u32::from(w),
        }
    }

    pub(crate) fn from_number(number: u32) -> Result<Self> {
        let word = match number {
            0 => return Ok(Self::Verdict),
            1..=4 => (number - 1) * 4,
            8..=23 => number - 8,
            _ => return Err(DecodeError::Invalid { what: "register" }),
        };
        Ok(Self::Word(u8::try_from(word).expect("at most 15")))
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Let it pass this base chain.
    Accept,
    /// Discard it.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Leave this rule without effect.
    Break,
    /// Back to the calling chain.
    Return,
    /// Evaluate a chain, then come back.
    Jump(String),
    /// Evaluate a chain, then go back to whoever called this one.
    Goto(String),
    /// A verdict code that we do not use (queue, stolen).
    Other(i32),
}

impl Verdict {
    /// The chain this verdict leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Break => -2,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
            Self::Other(code) => *code,
        }
    }

    pub(crate) fn from_code(code: i32, chain: Option<String>) -> Result<Self> {
        let chain = || chain.ok_or(DecodeError::Missing { what: "chain of a jump" });
        Ok(match code {
            0 => Self::Drop,
            1 => Self::Accept,
            -1 => Self::Continue,
            -2 => Self::Break,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            other => Self::Other(other),
        })
    }

    /// Writes the verdict as the data of attribute `kind`.
    pub(crate) fn encode(&self, w: &mut Writer, kind: u16) {
        w.nested(kind, |w| {
            w.nested(NFTA_DATA_VERDICT, |w| {
                w.attr(NFTA_VERDICT_CODE, &self.code().to_be_bytes());
                if let Some(chain) = self.chain() {
                    w.string(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    }
}

/// Writes a constant as the data of attribute `kind`.
pub(crate) fn encode_value(w: &mut Writer, kind: u16, value: &[u8]) {
    w.nested(kind, |w| w.attr(NFTA_DATA_VALUE, value));
}

/// Content of a `nft_data_attributes` nest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Value(Vec<u8>),
    Verdict(Verdict),
}

impl Data {
    pub(crate) fn decode(attrs: Attrs<'_>) -> Result<Self> {
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                NFTA_DATA_VALUE => return Ok(Self::Value(attr.payload.to_vec())),
                NFTA_DATA_VERDICT => return decode_verdict(attr.nested()).map(Self::Verdict),
                _ => {}
            }
        }
        Err(DecodeError::Missing { what: "data" })
    }

    pub(crate) fn value(self) -> Result<Vec<u8>> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Verdict(_) => Err(DecodeError::Invalid { what: "data (verdict for value)" }),
        }
    }
}

fn decode_verdict(attrs: Attrs<'_>) -> Result<Verdict> {
    let mut code = None;
    let mut chain = None;
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            NFTA_VERDICT_CODE => code = Some(attr.u32()?.cast_signed()),
            NFTA_VERDICT_CHAIN => chain = Some(attr.string()),
            _ => {}
        }
    }
    Verdict::from_code(code.ok_or(DecodeError::Missing { what: "verdict code" })?, chain)
}
