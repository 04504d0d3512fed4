//! What `codexd` does beside serving: one directory for each command.

pub(crate) mod check_config;
pub(crate) mod completions;
pub(crate) mod connect;
pub(crate) mod ctl;
pub(crate) mod doctor;
pub(crate) mod install;
pub(crate) mod jobs;
pub(crate) mod man;
#[cfg(test)]
mod reference;
pub(crate) mod run;
pub(crate) mod shim;
pub(crate) mod trial;
