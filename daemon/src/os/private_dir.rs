//! Directories in which no other user can create, replace or read anything.
//!
//! A user who can write to the directory of a socket can put a socket of their own there and impersonate codexd; so
//! the directory is checked before anything in it is used.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use codexd_proto::exit::ExitCode;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::error::Error;

/// Write permission of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The sticky bit: only an entry's owner may rename or remove it (`inode(7)`).
const STICKY: u32 = 0o1000;

/// Makes codexd's own runtime directory, or checks the one that is there.
///
/// Only the last component is made, with mode 0700. One that exists must be a directory and no symbolic
/// link, belong to this user and be closed to everyone else; the directory above it must not let others
/// replace it.
///
/// # Errors
///
/// With exit code 77 when the directory is not safe, 73 when it cannot be made.
pub(crate) fn ensure_own(path: &Path) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        check_above(parent)?;
    }
    let created = match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => {
            return Err(cannot_create(path, error).hint(
                "check that the directory above exists and is yours, or set XDG_RUNTIME_DIR to one that is",
            ));
        }
    };
    let dir = check_own(path, created)?;
    if created {
        // The umask may have cleared more bits than wanted.
        dir.set_permissions(std::fs::Permissions::from_mode(0o700))
            .map_err(|error| cannot_create(path, error))?;
    }
    Ok(())
}

/// Checks codexd's own runtime directory and makes nothing; one that is not there is in order.
///
/// # Errors
///
/// With exit code 77 when the directory, or the one above it, is not safe.
pub(crate) fn inspect_own(path: &Path) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        check_above(parent)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => check_own(path, false).map(drop),
    }
}

fn check_own(path: &Path, created: bool) -> Result<File, Error> {
    // From here on the open directory is looked at, not its name.
    let dir = open_dir(path).map_err(|error| not_a_plain_dir(path, error))?;
    let metadata = dir.metadata().map_err(|error| cannot_look_at(path, error))?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(not_safe(path, format!("it belongs to user {}", metadata.uid())).hint(format!(
            "remove it as that user, or set XDG_RUNTIME_DIR to a directory of yours; you are user {}",
            geteuid()
        )));
    }
    if !created && metadata.mode() & 0o077 != 0 {
        return Err(not_safe(path, format!("its mode is {:04o}", metadata.mode() & 0o7777))
            .hint(format!("chmod 700 {}", path.display())));
    }
    Ok(dir)
}

/// Makes the directory of a socket that the user named, or checks the one that is there.
///
/// It may be a symbolic link, may belong to root, and others may read it; they must not write to it.
///
/// # Errors
///
/// With exit code 77 when the directory is not safe, 73 when it cannot be made.
pub(crate) fn ensure_foreign(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // On a read-only or foreign file system an existing directory may be reported like this.
        Err(_) if path.is_dir() => {}
        Err(error) => {
            return Err(cannot_create(path, error).hint(format!("mkdir -m 700 -p {}", path.display())));
        }
    }
    let metadata = std::fs::metadata(path).map_err(|error| cannot_look_at(path, error))?;
    if !metadata.is_dir() {
        return Err(Error::new(
            ExitCode::CannotCreate,
            format!("cannot put a socket into `{}`: not a directory", path.display()),
        ));
    }
    check_owner(path, &metadata)?;
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(not_safe(
            path,
            format!("others can write to it (mode {:04o})", metadata.mode() & 0o7777),
        )
        .hint(format!("chmod go-w {}, or put the socket into a directory of its own", path.display())));
    }
    Ok(())
}

/// Makes a directory for records, with all above it.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn ensure_state(path: &Path) -> Result<(), io::Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Checks a directory that contains one of codexd's: no other user may be able to replace that.
fn check_above(path: &Path) -> Result<(), Error> {
    let Ok(metadata) = std::fs::metadata(path) else {
        // It does not exist or cannot be examined: creating ours fails with the reason.
        return Ok(());
    };
    check_owner(path, &metadata)?;
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0 {
        return Err(not_safe(
            path,
            format!("others can write to it (mode {:04o}) and it is not sticky", metadata.mode() & 0o7777),
        )
        .hint(format!("chmod go-w {}", path.display())));
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    if metadata.uid() == geteuid().as_raw() || metadata.uid() == 0 {
        return Ok(());
    }
    Err(not_safe(path, format!("it belongs to user {}, not to you or root", metadata.uid()))
        .hint("put the socket into a directory of yours"))
}

fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(path)
}

/// Says why a path could not be opened as a directory: `open(2)` with these flags fails with ENOTDIR or
/// ELOOP for a symbolic link, ENOTDIR for any other file.
fn not_a_plain_dir(path: &Path, error: io::Error) -> Error {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => not_safe(path, "it is a symbolic link".to_owned())
            .hint(format!("rm {}, or set XDG_RUNTIME_DIR", path.display())),
        Ok(metadata) if metadata.uid() != geteuid().as_raw() => {
            not_safe(path, format!("it belongs to user {}", metadata.uid()))
                .hint("set XDG_RUNTIME_DIR to a directory of yours")
        }
        Ok(metadata) if metadata.is_dir() => {
            not_safe(path, format!("its mode is {:04o}", metadata.mode() & 0o7777))
                .hint(format!("chmod 700 {}", path.display()))
        }
        Ok(_) => Error::new(
            ExitCode::CannotCreate,
            format!("cannot use `{}` as the runtime directory: not a directory", path.display()),
        )
        .hint(format!("move {} away", path.display())),
        Err(_) => cannot_look_at(path, error),
    }
}

fn not_safe(path: &Path, why: String) -> Error {
    Error::new(ExitCode::Unsafe, format!("the directory `{}` is not safe: {why}", path.display()))
}

fn cannot_create(path: &Path, error: io::Error) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot create the directory `{}`", path.display()))
        .because(error)
}

fn cannot_look_at(path: &Path, error: io::Error) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot look at the directory `{}`", path.display()))
        .because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_directory_is_made_private_and_accepted_again() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("codexd");
        ensure_own(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        ensure_own(&path).unwrap();
    }

    #[test]
    fn an_open_directory_is_refused_with_the_command_that_closes_it() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("codexd");
        std::fs::create_dir(&path).unwrap();
        for bits in [0o755, 0o770, 0o701] {
            chmod(&path, bits);
            let error = ensure_own(&path).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Unsafe);
            assert_eq!(error.next_step().unwrap(), format!("chmod 700 {}", path.display()));
        }
    }

    #[test]
    fn a_symbolic_link_or_a_file_is_not_our_directory() {
        let dir = crate::os::test_dir::test_dir();
        let (target, link) = (dir.path().join("target"), dir.path().join("codexd"));
        ensure_own(&target).unwrap();
        symlink(&target, &link).unwrap();
        assert_eq!(ensure_own(&link).unwrap_err().exit_code(), ExitCode::Unsafe);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(ensure_own(&file).unwrap_err().exit_code(), ExitCode::CannotCreate);
        assert_eq!(ensure_own(&dir.path().join("a/b")).unwrap_err().exit_code(), ExitCode::CannotCreate);
    }

    #[test]
    fn the_directory_above_must_not_let_others_swap_ours() {
        let dir = crate::os::test_dir::test_dir();
        let above = dir.path().join("above");
        std::fs::create_dir(&above).unwrap();
        chmod(&above, 0o777);
        assert_eq!(ensure_own(&above.join("x")).unwrap_err().exit_code(), ExitCode::Unsafe);
        chmod(&above, 0o1777);
        ensure_own(&above.join("x")).unwrap();
    }

    #[test]
    fn a_named_directory_may_be_read_but_not_written_by_others() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("named");
        ensure_foreign(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        chmod(&path, 0o755);
        ensure_foreign(&path).unwrap();
        for bits in [0o775, 0o1777] {
            chmod(&path, bits);
            let error = ensure_foreign(&path).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Unsafe);
            assert!(error.next_step().unwrap().contains("chmod go-w"));
        }
        assert_eq!(ensure_foreign(&dir.path().join("a/b")).unwrap_err().exit_code(), ExitCode::CannotCreate);
    }
}
