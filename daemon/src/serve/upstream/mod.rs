//! The `codex app-server` child: which program it is, its process, and its leftover processes.

pub(crate) mod identity;
pub(crate) mod leftovers;
pub(crate) mod locate;
pub(crate) mod nested;
pub(crate) mod process;
pub(crate) mod stderr;
pub(crate) mod sweep;
pub(crate) mod trial;

pub(crate) use locate::Program;
pub(crate) use process::{Launch, Process};
