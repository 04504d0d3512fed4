//! The turn ledger: what has run, of every client, and every job; kept when the daemon is gone.
//!
//! # Theory of operation
//!
//! An SQLite database in the state directory, one for each instance. Its only writer is a thread of the daemon that holds
//! the instance ([`Writer`]). Who has something to record puts it into a bounded queue and never waits ([`Ledger`]); what
//! does not fit is counted and reported. The thread writes in batches, keeps what cannot be written for a while, and opens
//! the file again when it has gone. Serving never depends on it.
//!
//! Whoever reads opens the file itself, with or without a daemon ([`Reader`]). An entry without an end belongs to a turn
//! that runs only if its daemon lives: if the lock of the instance is free, or its holder is another generation, the turn
//! has failed. The next daemon writes that down.
//!
//! Prompts and answers are kept of jobs only.

mod alive;
mod entry;
mod job;
mod reader;
mod retention;
mod store;
mod writer;

pub(crate) use entry::{Entry, Update};
pub(crate) use job::{JobLine, JobRow, JobState};
pub(crate) use reader::Reader;
pub(crate) use retention::Retention;
pub(crate) use store::path;
pub(crate) use writer::{Ledger, Writer};
