//! The state of `codexd connect`: examples, and any sequence of lines and losses.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod any_sequence;
mod desk;
mod going_on;
mod handshake;
mod loss;
mod resume;
