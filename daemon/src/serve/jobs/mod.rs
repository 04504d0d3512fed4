//! Jobs: turns that the daemon itself has run, so that no other process can die under them.
//!
//! # Theory of operation
//!
//! A thread of its own with a runtime of its own. Each job is an ordinary client: it has one end of a pair of sockets, and
//! the hub gets the other as it gets an accepted connection. So a job is subject to what every client is subject to, and its
//! turn counts as a running turn for a drain and for the idle exit. Orders come from the control socket; what becomes of a
//! job is recorded in the turn ledger, which `codexd jobs` reads.

mod job;
mod runner;

pub(crate) use runner::Runner;
