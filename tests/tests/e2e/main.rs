//! End-to-end tests: real processes, real sockets; one module for each subject.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod activation;
mod bad_input;
mod child_exit;
mod client_limit;
mod connect;
mod control;
mod demo;
mod doctor;
mod environment;
mod failed_starts;
mod fake_codex;
mod http;
mod install;
mod itself;
mod jobs;
mod leftovers;
mod listener;
mod load;
mod manager;
mod many;
mod mutations;
mod never_ran;
mod obstacles;
mod orphans;
mod others;
mod ownership;
mod permissions;
mod plugin;
mod real;
mod run;
mod shim;
mod slow_clients;
mod start_failures;
mod stopping;
mod support;
mod telling;
mod tui;
mod turn_ledger;
mod units;
mod upstream;
mod web_page;
mod websocket;
mod words;
mod world;
