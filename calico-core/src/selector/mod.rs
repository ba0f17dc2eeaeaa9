//! Label selectors: `app == "web" && env in {"prod", "test"}`.
//!
//! ```
//! use std::collections::BTreeMap;
//! use calico_core::selector::Selector;
//!
//! let selector: Selector = "app == 'web' && !has(internal)".parse()?;
//! let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
//! assert!(selector.matches(&labels));
//! assert_eq!(selector.to_string(), r#"(app == "web" && !has(internal))"#);
//! # Ok::<(), calico_core::selector::SelectorError>(())
//! ```
//!
//! | Expression | Matches | Without the label |
//! |---|---|---|
//! | `k == 'v'`, `k != 'v'` | the value (or not) | no, yes |
//! | `k in {'a', 'b'}`, `k not in {…}` | one of the values (or none) | no, yes |
//! | `k contains 'v'`, `k starts with 'v'`, `k ends with 'v'` | a part of the value | no |
//! | `has(k)` | any value | no |
//! | `all()`, `global()`, empty text | always | yes |
//! | `!x`, `x && y`, `x \|\| y`, `(x)` | the usual, in this precedence | |

mod expr;
mod labels;
mod parse;
mod restrict;
mod rewrite;
mod token;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha224};

pub use self::expr::Expr;
pub use self::labels::Labels;
pub use self::parse::{MAX_DEPTH, MAX_LENGTH, SelectorError};
pub use self::restrict::{LabelRestriction, LabelRestrictions};
pub use self::rewrite::*;

/// A parsed selector; cheap to clone.
///
/// Equal selectors have equal canonical text, not merely equal meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector(Arc<Expr>);

impl Selector {
    /// The selector that matches everything: `all()`.
    #[must_use]
    pub fn all() -> Self {
        Self::from(Expr::All)
    }

    /// The parsed expression.
    #[must_use]
    pub fn expr(&self) -> &Expr {
        &self.0
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.0.matches(labels)
    }

    /// What labels must look like for the selector to match, as far as that is certain.
    #[must_use]
    pub fn label_restrictions(&self) -> LabelRestrictions<'_> {
        restrict::restrictions(&self.0)
    }

    /// Short identity of the canonical text, as upstream computes it: `s:` and the
    /// base64url of a SHA-224.
    #[must_use]
    pub fn unique_id(&self) -> String {
        unique_id("s", &self.to_string())
    }
}

impl From<Expr> for Selector {
    fn from(expr: Expr) -> Self {
        Self(Arc::new(expr))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self::from)
    }
}

impl fmt::Display for Selector {
    /// The canonical text, which parses to an equal selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
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
fn base64url(bytes: &[u8]) -> String {
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
