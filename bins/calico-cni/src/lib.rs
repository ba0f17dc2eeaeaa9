//! CNI library.
