//! The core as its shell drives it: events in, bytes and effects out.
#![allow(clippy::unwrap_used)]

mod connections;
mod shell;
mod shutdown;
mod upgrade;
