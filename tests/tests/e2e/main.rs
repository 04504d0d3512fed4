//! End-to-end tests: real processes, real sockets; one module for each subject.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod connect;
mod fake_codex;
mod upstream;
