//! User data of a rule: bytes that the kernel keeps for us, as a list of type-length-value
//! entries with one-byte type and length. Type 0 is the comment that `nft list` prints; our own
//! types are ones that `nft` passes over.

/// `NFTNL_UDATA_RULE_COMMENT` (libnftnl `udata.h`).
const COMMENT: u8 = 0;
/// Longest comment `nft` prints, with its NUL.
const COMMENT_MAX: usize = 128;
/// Ours: the part of the identity that did not fit the comment.
const IDENTITY_REST: u8 = 0xc1;
/// `NFT_USERDATA_MAXLEN`.
const USERDATA_MAX: usize = 256;

/// The identity of a rule as kept by the kernel, at most 249 bytes; `nft` shows the first 127
/// as the rule's comment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Userdata {
    /// The identity of what the rule was made from; empty for none.
    pub identity: String,
}

impl Userdata {
    /// User data holding `identity`, cut at a character boundary to what the kernel can keep.
    pub fn new(identity: impl Into<String>) -> Self {
        let mut identity = identity.into();
        let room = USERDATA_MAX - 2 * 2 - 1 - 2;
        identity.truncate(floor_boundary(&identity, room));
        Self { identity }
    }

    /// The bytes for the kernel.
    pub fn encode(&self) -> Vec<u8> {
        if self.identity.is_empty() {
            return Vec::new();
        }
        let (comment, rest) =
            self.identity.split_at(floor_boundary(&self.identity, COMMENT_MAX - 1));
        let mut out = Vec::with_capacity(self.identity.len() + 5);
        push(&mut out, COMMENT, comment.as_bytes().iter().copied().chain([0]));
        if !rest.is_empty() {
            push(&mut out, IDENTITY_REST, rest.bytes());
        }
        out
    }

    /// Reads what [`Userdata::encode`] or `nft` wrote; entries of other types, and what follows
    /// a malformed one, are passed over.
    pub fn decode(mut bytes: &[u8]) -> Self {
        let mut comment = Vec::new();
        let mut rest = Vec::new();
        while let [kind, len, tail @ ..] = bytes {
            let Some((value, tail)) = tail.split_at_checked(usize::from(*len)) else { break };
            match *kind {
                COMMENT => comment = value.strip_suffix(&[0]).unwrap_or(value).to_vec(),
                IDENTITY_REST => rest = value.to_vec(),
                _ => {}
            }
            bytes = tail;
        }
        comment.extend_from_slice(&rest);
        Self { identity: String::from_utf8_lossy(&comment).into_owned() }
    }
}

fn push(out: &mut Vec<u8>, kind: u8, value: impl Iterator<Item = u8>) {
    let at = out.len();
    out.extend_from_slice(&[kind, 0]);
    out.extend(value);
    out[at + 1] = u8::try_from(out.len() - at - 2).expect("identity is cut to 249 bytes");
}

fn floor_boundary(text: &str, max: usize) -> usize {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_short_long_and_multibyte_identities() {
        for identity in ["", "np default/web rule 3", &"x".repeat(127), &"é".repeat(120)] {
            let kept = Userdata::new(identity);
            assert_eq!(kept.identity, identity);
            assert_eq!(Userdata::decode(&kept.encode()), kept);
        }
    }

    #[test]
    fn cuts_what_the_kernel_cannot_keep() {
        let kept = Userdata::new("é".repeat(200));
        assert!(kept.encode().len() <= USERDATA_MAX);
        assert_eq!(Userdata::decode(&kept.encode()), kept);
        assert_eq!(kept.identity.chars().count(), 124);
    }

    #[test]
    fn reads_what_nft_writes_and_survives_garbage() {
        assert_eq!(Userdata::decode(b"\x00\x06hello\x00").identity, "hello");
        assert_eq!(Userdata::decode(b"\x00\xffab").identity, "");
        assert_eq!(Userdata::decode(b"\x07\x01x\x00\x01a").identity, "a");
    }
}
