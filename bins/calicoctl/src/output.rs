//! How results are shown.

pub(crate) mod colour;
pub(crate) mod columns;
pub(crate) mod number;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod unified;
