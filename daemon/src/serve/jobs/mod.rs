//! Jobs: turns that the daemon runs itself, so that they depend on no other process.
//!
//! # Theory of operation
//!
//! Jobs run on a thread of their own with a runtime of its own. Each job is an ordinary client: it has one end of a
//! pair of sockets, and the hub gets the other end as it gets an accepted connection. So the rules for clients
//! apply to a job, and its turn counts as a running turn for a drain and for the idle exit. Commands come from the
//! control socket. The state of a job is recorded in the turn ledger, which `codexd jobs` reads.

mod job;
mod runner;

pub(crate) use runner::Runner;
