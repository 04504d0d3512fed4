//! End-to-end tests: real processes, real sockets; one module for each subject.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod activation;
mod bad_input;
mod child_exit;
mod connect;
mod control;
mod demo;
mod doctor;
mod fake_codex;
mod http;
mod install;
mod load;
mod manager;
mod many;
mod mutations;
mod orphans;
mod ownership;
mod plugin;
mod real;
mod stopping;
mod support;
mod tui;
mod units;
mod upstream;
mod websocket;
