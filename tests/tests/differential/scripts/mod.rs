//! The scripts, by subject.

mod agents;
mod approvals;
mod failures;
mod handshake;
mod old;
mod passing;
mod resources;
mod threads;
mod turns;
