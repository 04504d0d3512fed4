//! Directories of unit tests.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

/// Bytes of a directory's path below which tests can bind sockets: `sun_path` has 103 where it is shortest.
const SHORT: usize = 50;

/// Makes a directory that only its owner can enter, whatever the umask, with a path that is short whatever TMPDIR is.
pub(crate) fn test_dir() -> TempDir {
    let usual = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    let short =
        usual.iter().find(|path| path.as_os_str().len() <= SHORT && path.is_dir()).unwrap_or(&usual[0]);
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir_in(short).unwrap()
}
