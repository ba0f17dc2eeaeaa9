//! Tables and documents.

pub(crate) mod columns;
pub(crate) mod number;
pub(crate) mod table;
