//! Opening a file that has to be a regular one, without waiting for anything else.
//!
//! `open(2)` of a FIFO waits for the other end, that of a device may do anything, and reading either may never
//! end. So the kind is looked at first, the file is opened with O_NONBLOCK (which means nothing to a regular
//! file), and the kind of what was opened is checked again.

use std::fmt;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

/// The error of a path that leads to something else than a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotRegular {
    /// What is there, with its article.
    kind: &'static str,
}

impl fmt::Display for NotRegular {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {} and not a regular file", self.kind)
    }
}

impl std::error::Error for NotRegular {}

impl NotRegular {
    /// Returns whether this is what an operation failed for.
    pub(crate) fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<NotRegular>())
    }
}

/// Opens a file for reading.
///
/// # Errors
///
/// When the system refuses, or with [`NotRegular`].
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a file with `options`, whose custom flags are replaced.
///
/// # Errors
///
/// When the system refuses, or with [`NotRegular`].
pub(crate) fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    if let Ok(metadata) = std::fs::metadata(path) {
        check(metadata.file_type())?;
    }
    let file = options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits()).open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// Reads a whole file.
///
/// # Errors
///
/// As [`open`], and when it cannot be read.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole file of text.
///
/// # Errors
///
/// As [`read`], and when it is not UTF-8.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Checks that a path leads to a regular file or to nothing.
///
/// # Errors
///
/// With [`NotRegular`]; a path that cannot be looked at is no error here.
pub(crate) fn check_path(path: &Path) -> io::Result<()> {
    std::fs::metadata(path).map_or(Ok(()), |metadata| check(metadata.file_type()))
}

fn check(file: FileType) -> io::Result<()> {
    let kind = match () {
        () if file.is_file() => return Ok(()),
        () if file.is_dir() => "a directory",
        () if file.is_fifo() => "a FIFO",
        () if file.is_socket() => "a socket",
        () if file.is_char_device() || file.is_block_device() => "a device",
        () => "something else",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, NotRegular { kind }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_and_named() {
        let dir = crate::os::test_dir::test_dir();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        symlink(path("fifo"), path("link")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
        std::fs::create_dir(path("directory")).unwrap();
        for (name, says) in [
            ("fifo", "a FIFO"),
            ("link", "a FIFO"),
            ("device", "a device"),
            ("socket", "a socket"),
            ("directory", "a directory"),
        ] {
            for error in [
                read(&path(name)).unwrap_err(),
                open_with(OpenOptions::new().append(true).create(true), &path(name)).unwrap_err(),
                check_path(&path(name)).unwrap_err(),
            ] {
                assert!(NotRegular::caused(&error), "{name}: {error}");
                assert_eq!(error.to_string(), format!("it is {says} and not a regular file"));
            }
        }
    }

    #[test]
    fn a_regular_file_is_opened_as_ever() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("file");
        let absent = read(&path).unwrap_err();
        assert_eq!((absent.kind(), NotRegular::caused(&absent)), (io::ErrorKind::NotFound, false));
        check_path(&path).unwrap();
        open_with(OpenOptions::new().append(true).create(true), &path).unwrap();
        std::fs::write(&path, "text").unwrap();
        symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(read_to_string(&dir.path().join("link")).unwrap(), "text");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_to_string(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
