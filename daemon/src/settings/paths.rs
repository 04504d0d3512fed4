//! Where sockets, locks and records lie. Only names here: nothing is created or opened.
//!
//! | | Linux and others | macOS |
//! | --- | --- | --- |
//! | runtime directory | `$XDG_RUNTIME_DIR/codexd`, else `/run/user/UID/codexd` where that directory is there (Linux), else `codexd-UID` in the temporary directory | `codexd` in `$TMPDIR`, else as Linux |
//! | state directory | `$STATE_DIRECTORY`, else `codexd` in `$XDG_STATE_HOME` or `~/.local/state` | `$STATE_DIRECTORY`, else `~/Library/Application Support/codexd` |
//! | configuration | `codexd/config.toml` in `$XDG_CONFIG_HOME` or `~/.config` | the same |

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use codexd_proto::exit::ExitCode;
use codexd_proto::hash::fnv1a_32;

use crate::error::Error;
use crate::os::file_name::with_suffix;
use crate::settings::environment::Environment;

/// The longest path of a Unix socket, in bytes, without the final NUL (`unix(7)`; `sun_path` has 108
/// bytes on Linux and 104 on macOS).
#[cfg(target_os = "linux")]
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The longest path of a Unix socket, in bytes, without the final NUL.
#[cfg(not(target_os = "linux"))]
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 103;

/// The longest instance name, in bytes.
const MAX_INSTANCE_BYTES: usize = 64;

/// The name of the instance that serves the default CODEX_HOME.
const DEFAULT_INSTANCE: &str = "default";

/// Every path of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// The directory of codexd's own for sockets and locks.
    pub(crate) runtime_dir: PathBuf,
    /// The socket for clients.
    pub(crate) socket: PathBuf,
    /// The socket for `codexd ctl`.
    pub(crate) control_socket: PathBuf,
    /// The lock of the instance.
    pub(crate) lock: PathBuf,
    /// The lock of the socket, when that lies outside the runtime directory: two instances could name
    /// the same one.
    pub(crate) socket_lock: Option<PathBuf>,
    /// The directory of the records.
    pub(crate) state_dir: PathBuf,
    /// The record of the instance.
    pub(crate) record: PathBuf,
    /// What earlier daemons have remembered of threads.
    pub(crate) threads: PathBuf,
}

impl Paths {
    /// Computes the paths of `instance`; `socket` and `control_socket` are what the user named.
    ///
    /// # Errors
    ///
    /// When there is no home directory to keep state in, or a relative path cannot be made absolute.
    pub(crate) fn of(
        instance: &str,
        socket: Option<&Path>,
        control_socket: Option<&Path>,
        environment: &Environment,
    ) -> Result<Paths, Error> {
        let runtime_dir = runtime_dir(environment);
        let named_socket = socket.map(absolute).transpose()?;
        let control_socket = match (control_socket, &named_socket) {
            (Some(path), _) => absolute(path)?,
            (None, Some(socket)) => with_suffix(socket, ".ctl"),
            (None, None) => runtime_dir.join(format!("{instance}.ctl.sock")),
        };
        let socket = named_socket.unwrap_or_else(|| runtime_dir.join(format!("{instance}.sock")));
        let socket_lock =
            (socket.parent() != Some(runtime_dir.as_path())).then(|| with_suffix(&socket, ".lock"));
        let state_dir = state_dir(environment)?;
        Ok(Paths {
            lock: runtime_dir.join(format!("{instance}.lock")),
            record: state_dir.join(format!("{instance}.json")),
            threads: state_dir.join(format!("{instance}.threads.jsonl")),
            state_dir,
            runtime_dir,
            socket,
            control_socket,
            socket_lock,
        })
    }

    /// Returns whether the control socket is the default of the instance.
    pub(crate) fn control_socket_is_default(&self) -> bool {
        self.control_socket == self.lock.with_extension("ctl.sock")
    }

    /// Returns whether the socket for clients is the default of the instance.
    pub(crate) fn socket_is_default(&self) -> bool {
        self.socket == self.lock.with_extension("sock")
    }

    /// Returns the file that is locked by who starts the daemon of this instance.
    pub(crate) fn start_lock(&self) -> PathBuf {
        self.lock.with_extension("start")
    }

    /// Returns the log of a daemon of this instance that a client started.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.record.with_extension("log")
    }

    /// Returns the directories of the sockets that codexd does not make itself: their owner and mode are
    /// the user's affair and are checked.
    pub(crate) fn foreign_dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = [&self.socket, &self.control_socket]
            .into_iter()
            .filter_map(|path| path.parent())
            .filter(|dir| *dir != self.runtime_dir)
            .collect();
        dirs.dedup();
        dirs
    }
}

/// Checks that a path fits into the address of a Unix socket.
///
/// # Errors
///
/// When it is longer than [`MAX_SOCKET_PATH_BYTES`] or contains a NUL.
pub(crate) fn check_socket_path(path: &Path) -> Result<(), Error> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > MAX_SOCKET_PATH_BYTES {
        return Err(Error::new(
            ExitCode::CannotCreate,
            format!(
                "cannot use `{}` for a socket: the path has {} bytes and the system allows {MAX_SOCKET_PATH_BYTES}",
                path.display(),
                bytes.len()
            ),
        )
        .hint("name a shorter one with `--socket` and `--control-socket`, or set XDG_RUNTIME_DIR"));
    }
    if bytes.contains(&0) {
        return Err(Error::config("cannot use a path with a NUL byte for a socket"));
    }
    Ok(())
}

/// Checks a name that becomes part of file names.
///
/// # Errors
///
/// When it is empty, too long, begins with a full stop or has other characters than letters, digits,
/// `.`, `_` and `-` (all ASCII).
pub(crate) fn check_instance_name(name: &str) -> Result<(), Error> {
    let legal = !name.is_empty()
        && name.len() <= MAX_INSTANCE_BYTES
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if legal {
        return Ok(());
    }
    Err(Error::config(format!("`{name}` cannot be the name of an instance"))
        .hint(format!("use 1 to {MAX_INSTANCE_BYTES} letters, digits, `.`, `_`, `-`, the first no `.`")))
}

/// Returns the name of the instance that serves `codex_home`.
///
/// `default` for `~/.codex`; otherwise eight hexadecimal digits: FNV-1a with 32 bits over the bytes of
/// the canonical path. The function is fixed: another one would lose running daemons at an upgrade.
pub(crate) fn instance_name(codex_home: &Path, environment: &Environment) -> String {
    let canonical = canonical(codex_home);
    if default_codex_home(environment).is_some_and(|default| self::canonical(&default) == canonical) {
        return DEFAULT_INSTANCE.to_owned();
    }
    let mut name = String::with_capacity(8);
    // Writing to a string does not fail.
    let _ = write!(name, "{:08x}", fnv1a_32(canonical.as_os_str().as_bytes()));
    name
}

/// Returns CODEX_HOME: the variable, else `~/.codex`.
///
/// # Errors
///
/// When there is neither the variable nor a home directory.
pub(crate) fn codex_home(environment: &Environment) -> Result<PathBuf, Error> {
    match environment.path("CODEX_HOME") {
        Some(path) => absolute(&path),
        None => default_codex_home(environment).ok_or_else(|| no_home("the directory of codex")),
    }
}

/// Returns the configuration file that is read when none is named.
pub(crate) fn default_config_file(environment: &Environment) -> Option<PathBuf> {
    environment
        .absolute_path("XDG_CONFIG_HOME")
        .or_else(|| Some(home(environment)?.join(".config")))
        .map(|dir| dir.join("codexd").join("config.toml"))
}

/// Makes a path absolute without looking at the file system.
///
/// # Errors
///
/// When it is empty or the working directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path)
        .map_err(|error| Error::config(format!("cannot use the path `{}`", path.display())).because(error))
}

fn runtime_dir(environment: &Environment) -> PathBuf {
    if cfg!(target_os = "macos")
        && let Some(dir) = environment.absolute_path("TMPDIR")
    {
        // Per user and mode 0700 on macOS (`confstr(3)`, _CS_DARWIN_USER_TEMP_DIR).
        return dir.join("codexd");
    }
    match environment.absolute_path("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("codexd"),
        None => environment
            .absolute_path("TMPDIR")
            .unwrap_or_else(|| PathBuf::from("/tmp"))
            .join(format!("codexd-{}", nix::unistd::geteuid())),
    }
}

fn state_dir(environment: &Environment) -> Result<PathBuf, Error> {
    if let Some(dirs) = environment.value("STATE_DIRECTORY") {
        // A list with colons between, when the unit names several (`systemd.exec(5)`).
        let first = dirs.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        let first = Path::new(std::ffi::OsStr::from_bytes(first));
        if first.is_absolute() {
            return Ok(first.to_owned());
        }
    }
    if cfg!(target_os = "macos") {
        let home = home(environment).ok_or_else(|| no_home("the directory of records"))?;
        return Ok(home.join("Library/Application Support/codexd"));
    }
    environment
        .absolute_path("XDG_STATE_HOME")
        .or_else(|| Some(home(environment)?.join(".local/state")))
        .map(|dir| dir.join("codexd"))
        .ok_or_else(|| no_home("the directory of records"))
}

fn no_home(what: &str) -> Error {
    Error::config(format!("cannot tell where {what} is: HOME is not set and the user has no home directory"))
        .hint("set HOME")
}

/// Returns the home directory: HOME, else that of the user.
pub(crate) fn home(environment: &Environment) -> Option<PathBuf> {
    environment.absolute_path("HOME").or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
        Some(user.dir).filter(|dir| dir.is_absolute())
    })
}

fn default_codex_home(environment: &Environment) -> Option<PathBuf> {
    Some(home(environment)?.join(".codex"))
}

/// The canonical path where it exists, else the path as it is.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_home_is_the_default_instance_by_whatever_name() {
        let dir = crate::os::test_dir::test_dir();
        let home = dir.path().join("home");
        std::fs::create_dir_all(home.join(".codex")).unwrap();
        std::os::unix::fs::symlink(home.join(".codex"), dir.path().join("link")).unwrap();
        let environment = Environment::of([("HOME", home.to_str().unwrap())]);
        assert_eq!(instance_name(&home.join(".codex"), &environment), "default");
        assert_eq!(instance_name(&dir.path().join("link"), &environment), "default");
        let other = instance_name(dir.path(), &environment);
        assert_eq!(other.len(), 8);
        assert_ne!(other, "default");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn paths_follow_the_base_directories() {
        let environment = Environment::of([("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/u")]);
        let paths = Paths::of("default", None, None, &environment).unwrap();
        assert_eq!(paths.socket, Path::new("/run/user/7/codexd/default.sock"));
        assert_eq!(paths.control_socket, Path::new("/run/user/7/codexd/default.ctl.sock"));
        assert_eq!(paths.lock, Path::new("/run/user/7/codexd/default.lock"));
        assert_eq!(paths.socket_lock, None);
        assert_eq!(paths.state_dir, Path::new("/home/u/.local/state/codexd"));
        assert!(paths.foreign_dirs().is_empty());
        assert!(paths.control_socket_is_default());
        let paths = Paths::of("a.b", None, None, &environment).unwrap();
        assert!(paths.control_socket_is_default());
        assert_eq!(
            default_config_file(&environment).as_deref(),
            Some(Path::new("/home/u/.config/codexd/config.toml"))
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_a_runtime_dir_the_directory_is_per_user() {
        let environment =
            Environment::of([("TMPDIR", "/var/tmp"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "relative")]);
        let paths = Paths::of("x", None, None, &environment).unwrap();
        assert_eq!(paths.runtime_dir, Path::new(&format!("/var/tmp/codexd-{}", nix::unistd::geteuid())));
    }

    #[test]
    fn a_named_socket_brings_its_control_socket_and_lock() {
        let environment = Environment::of([
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("HOME", "/h"),
            ("STATE_DIRECTORY", "/s/a:/s/b"),
        ]);
        let paths = Paths::of("x", Some(Path::new("/srv/c.sock")), None, &environment).unwrap();
        assert_eq!(paths.control_socket, Path::new("/srv/c.sock.ctl"));
        assert_eq!(paths.socket_lock.as_deref(), Some(Path::new("/srv/c.sock.lock")));
        assert_eq!(paths.state_dir, Path::new("/s/a"));
        assert_eq!(paths.foreign_dirs(), [Path::new("/srv")]);
    }

    #[test]
    fn socket_paths_have_a_limit_in_bytes() {
        let fits = PathBuf::from(format!("/{}", "a".repeat(MAX_SOCKET_PATH_BYTES - 1)));
        assert!(check_socket_path(&fits).is_ok());
        let error = check_socket_path(&with_suffix(&fits, "b")).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::CannotCreate);
        assert!(error.next_step().is_some());
    }

    #[test]
    fn instance_names_cannot_leave_their_directory() {
        for name in ["", ".", "..", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(check_instance_name(name).is_err(), "{name}");
        }
        assert!(check_instance_name("work-2.x_Y").is_ok());
    }
}
