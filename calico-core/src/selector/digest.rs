//! Short identities, as upstream names its sets.

use sha2::{Digest, Sha224};

use super::Selector;

impl Selector {
    /// Short identity of the canonical text, as upstream computes it: `s:` and the
    /// base64url of a SHA-224.
    #[must_use]
    pub fn unique_id(&self) -> String {
        unique_id("s", &self.to_string())
    }
}

/// Short identity of `content` among things of the sort `prefix`, as upstream names its sets:
/// prefix, colon, and the base64url of a SHA-224 over both.
#[must_use]
pub fn unique_id(prefix: &str, content: &str) -> String {
    let digest = Sha224::digest(format!("{prefix}:{content}"));
    format!("{prefix}:{}", base64url(&digest))
}

/// RFC 4648 section 5, without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            let six = (word >> (18 - 6 * index) & 63) as usize;
            out.push(char::from(ALPHABET[six]));
        }
    }
    out
}
