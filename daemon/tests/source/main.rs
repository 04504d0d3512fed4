//! Rules for the sources of the daemon, checked by reading them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

mod layers;
mod log_roles;

/// Returns the files with Rust code below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
