//! What `codexd` does beside serving: one directory for each command.

pub(crate) mod connect;
pub(crate) mod ctl;
pub(crate) mod doctor;
pub(crate) mod install;
pub(crate) mod jobs;
pub(crate) mod run;
pub(crate) mod shim;
