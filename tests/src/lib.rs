//! Harness for the end-to-end tests of codexd.

pub mod marker;
pub mod model;
pub mod wait;
