//! Safe functions for what the operating system and its service manager offer.

pub(crate) mod end_watch;
pub(crate) mod file_name;
pub(crate) mod journal;
#[cfg(target_os = "linux")]
mod mappings;
pub(crate) mod memory;
pub(crate) mod open_files;
pub(crate) mod peer;
pub(crate) mod plain_file;
pub(crate) mod priority;
pub(crate) mod private_dir;
pub(crate) mod process;
pub(crate) mod program_mark;
pub(crate) mod service_manager;
pub(crate) mod signals;
#[cfg(test)]
pub(crate) mod test_dir;
pub(crate) mod unix_time;
pub(crate) mod unsafe_calls;
