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

#[cfg(feature = "digests")]
mod digest;
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

#[cfg(feature = "digests")]
pub(crate) use self::digest::base64url;
#[cfg(feature = "digests")]
pub use self::digest::unique_id;
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
