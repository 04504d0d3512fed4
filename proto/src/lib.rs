//! The decisions of `codexd` as values.
#![forbid(unsafe_code)]

pub mod exit;
pub mod status;
