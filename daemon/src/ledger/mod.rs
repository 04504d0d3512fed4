//! The turn ledger: the turns of all clients, and all jobs. It survives the daemon.
//!
//! # Theory of operation
//!
//! The ledger is an SQLite database in the state directory, one per instance. Its only writer is a thread of the
//! daemon that holds the instance ([`Writer`]). An update goes into a bounded queue, which never blocks
//! ([`Ledger`]); updates that do not fit are counted and reported. The thread writes in batches, keeps what cannot
//! be written for a while, and opens the file again if it was removed. Serving clients never depends on the ledger.
//!
//! A reader opens the file itself, with or without a daemon ([`Reader`]). The turn of an entry without an end runs
//! only if its daemon does. If the lock of the instance is free, or its holder is another generation, the turn has
//! failed. The next daemon records that.
//!
//! Prompts and answers are stored of jobs only.

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
