//! The scripts, by subject.

mod account;
mod agents;
mod approvals;
mod crowd;
mod declined;
mod failures;
mod forks;
mod goals;
mod handshake;
mod history;
mod large;
mod mcp;
mod old;
mod passing;
mod pipeline;
mod processes;
mod queue;
mod resources;
mod reviews;
mod settings;
mod skills;
mod spelling;
mod threads;
mod tools;
mod turns;
mod watches;
