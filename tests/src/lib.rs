//! Harness for the end-to-end tests of codexd.

pub mod client;
pub mod codex;
pub mod home;
pub mod marker;
pub mod model;
pub mod wait;
