//! Names of files that stand beside another.

use std::path::{Path, PathBuf};

/// Appends to the file name, keeping its extension.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
