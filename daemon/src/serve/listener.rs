//! Sockets of our own: bound privately, replaced only when stale, removed only when still ours.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::error::Error;
use crate::os::file_name::with_suffix;
use crate::settings::paths;

/// Connections that the system keeps until they are accepted: as many as it allows, on Linux `net.core.somaxconn`. A number
/// would do for all systems, but `Backlog` refuses one above the C library's SOMAXCONN, which is 128 in musl and on macOS.
#[cfg(target_os = "linux")]
pub(crate) const BACKLOG: Backlog = Backlog::MAXALLOWABLE;
#[cfg(not(target_os = "linux"))]
pub(crate) const BACKLOG: Backlog = Backlog::MAXCONN;

/// How long a process that listens is assumed to be about to exit.
const LAST_MOMENTS: Duration = Duration::from_millis(300);
/// Time between these looks.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// The file of a socket: one that this process made, or one that a service manager made for it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// It belongs to the service manager, which keeps it for the next daemon: never removed.
    inherited: bool,
}

impl SocketFile {
    /// Returns whether the path still leads to the socket that was bound there.
    ///
    /// If not, someone removed or replaced the file, and no client can reach the daemon any more.
    pub(crate) fn still_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode)
    }

    /// Removes the file if this process made it and it is still ours, so that no client connects to a daemon that
    /// does not accept.
    pub(crate) fn remove(self) {
        drop(self);
    }

    fn of(path: &Path) -> io::Result<SocketFile> {
        let metadata = std::fs::symlink_metadata(path)?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(SocketFile { path: path.to_owned(), device, inode, inherited: false })
    }

    /// Returns the file of a socket that a service manager made; it is watched and never removed.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub(crate) fn of_manager(path: &Path) -> io::Result<SocketFile> {
        let mut file = SocketFile::of(path)?;
        file.inherited = true;
        Ok(file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.inherited && self.still_ours() {
            // A file that cannot be removed is stale for the next daemon, which replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What answers at a path.
#[derive(Debug, PartialEq, Eq)]
enum Occupant {
    Nothing,
    StaleSocket,
    LiveSocket,
    OtherFile,
}

/// Binds a socket with mode 0600 and listens on it; the listener does not block.
///
/// The caller holds the lock that covers `path` and has checked its directory. A socket that nobody
/// listens on is replaced. The mode is set before the socket has a name (Linux) or at once after; what
/// protects it in between is the check of the peer at each connection. The file is there only when somebody
/// listens.
///
/// # Errors
///
/// With exit code 75 when someone listens there, 73 when something else is in the way or the system
/// refuses.
pub(crate) fn bind_private(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    bind_within(LAST_MOMENTS, path)
}

/// Does so; a process that listens gets this long to exit.
fn bind_within(last_moments: Duration, path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    paths::check_socket_path(path)?;
    match lasting_occupant(last_moments, path).map_err(|errno| cannot_listen(path).because(errno))? {
        Occupant::Nothing => {}
        Occupant::StaleSocket => {
            std::fs::remove_file(path)
                .map_err(|error| cannot_listen(path).because(error).hint(format!("rm {}", path.display())))?;
            tracing::info!(socket.path = %path.display(), "replaced a stale socket");
        }
        Occupant::LiveSocket => {
            return Err(Error::new(
                ExitCode::AlreadyRunning,
                format!("cannot listen on `{}`: another process listens there", path.display()),
            )
            .hint(
                "stop that process (if it is the service manager: `systemctl --user stop codexd.socket`), \
                 or name another socket with `--socket`",
            ));
        }
        Occupant::OtherFile => {
            return Err(Error::new(
                ExitCode::CannotCreate,
                format!("cannot listen on `{}`: there is a file that is not a socket", path.display()),
            )
            .hint(format!("move {} away, or name another socket with `--socket`", path.display())));
        }
    }
    let (fd, file) = bind_and_listen(path).map_err(|error| cannot_listen(path).because(error))?;
    Ok((UnixListener::from(fd), file))
}

fn cannot_listen(path: &Path) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot listen on `{}`", path.display()))
}

/// Creates the socket under a temporary name and renames it once it listens: a process that waits for the file to
/// appear can connect. The system goes on showing the first name (`ss -xl`).
///
/// Where there is no room for the longer name, or something is there, the socket has its own from the start.
fn bind_and_listen(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let beside = with_suffix(path, ".new");
    let free = paths::check_socket_path(&beside).is_ok()
        && match occupant(&beside)? {
            Occupant::Nothing => true,
            // Of one that was killed right here.
            Occupant::StaleSocket => std::fs::remove_file(&beside).is_ok(),
            Occupant::LiveSocket | Occupant::OtherFile => false,
        };
    if !free {
        return listen_at(path);
    }
    let (fd, first) = listen_at(&beside)?;
    // Unlike a rename, this replaces nothing that another process creates there at this moment.
    match std::fs::hard_link(&beside, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Not every file system has hard links.
        Err(_) => std::fs::rename(&beside, path)?,
    }
    drop(first);
    Ok((fd, SocketFile::of(path)?))
}

fn listen_at(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let fd = nonblocking_socket()?;
    #[cfg(target_os = "linux")]
    {
        // The file takes over the mode of the socket, less the umask (`unix(7)`, pathname sockets).
        nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    }
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let file = SocketFile::of(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let mode = std::fs::symlink_metadata(path)?.mode() & 0o7777;
    if mode != 0o600 {
        return Err(io::Error::other(format!("the file system gives it mode {mode:04o} instead of 0600")));
    }
    listen(&fd, BACKLOG)?;
    Ok((fd, file))
}

/// Examines a path. A process that listens there may be about to exit: a process that is killed gives up its lock, by
/// which the caller got here, before its socket.
fn lasting_occupant(last_moments: Duration, path: &Path) -> Result<Occupant, Errno> {
    let give_up = Instant::now() + last_moments;
    loop {
        match occupant(path)? {
            Occupant::LiveSocket if Instant::now() < give_up => std::thread::park_timeout(RETRY_EVERY),
            other => return Ok(other),
        }
    }
}

/// Looks who is at a path, without waiting: a full backlog is a live socket too.
fn occupant(path: &Path) -> Result<Occupant, Errno> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nothing),
        Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or_default())),
        Ok(metadata) if !metadata.file_type().is_socket() => return Ok(Occupant::OtherFile),
        Ok(_) => {}
    }
    let fd = nonblocking_socket()?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => Ok(Occupant::LiveSocket),
        // A datagram or packet socket is no stale one of ours, but someone's.
        Err(Errno::EPROTOTYPE) => Ok(Occupant::LiveSocket),
        Err(Errno::ECONNREFUSED) => Ok(Occupant::StaleSocket),
        Err(Errno::ENOENT) => Ok(Occupant::Nothing),
        Err(errno) => Err(errno),
    }
}

/// Makes a stream socket that does not block and is closed on exec.
#[cfg(target_os = "linux")]
pub(crate) fn nonblocking_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Makes a stream socket that does not block and is closed on exec.
#[cfg(not(target_os = "linux"))]
pub(crate) fn nonblocking_socket() -> Result<OwnedFd, Errno> {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let (listener, file) = bind_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(file.still_ours());
        file.remove();
        assert!(!path.exists());
    }

    #[test]
    fn who_finds_the_file_can_connect() {
        const TIMES: usize = 200;
        let dir = crate::os::test_dir::test_dir();
        let path = |n: usize| dir.path().join(n.to_string());
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                for n in 0..TIMES {
                    while let Err(error) = UnixStream::connect(path(n)) {
                        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{n}");
                    }
                }
            });
            let _bound: Vec<_> = (0..TIMES).map(|n| bind_private(&path(n)).unwrap()).collect();
            looking.join().unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), TIMES);
        });
    }

    #[test]
    fn what_is_beside_the_socket_is_no_obstacle() {
        let dir = crate::os::test_dir::test_dir();
        let (path, beside) = (dir.path().join("s"), dir.path().join("s.new"));
        drop(UnixListener::bind(&beside).unwrap());
        drop(bind_private(&path).unwrap());
        assert!(!beside.exists(), "a stale one is cleared away");
        std::fs::write(&beside, "precious").unwrap();
        let (_listener, file) = bind_private(&path).unwrap();
        assert!(file.still_ours());
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), "precious");
        // As long as a path may be: no room for more.
        let long = dir.path().join("x".repeat(107 - 1 - dir.path().as_os_str().len()));
        if paths::check_socket_path(&long).is_ok() {
            let (_listener, file) = bind_private(&long).unwrap();
            assert!(file.still_ours());
            UnixStream::connect(&long).unwrap();
        }
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, file) = bind_private(&path).unwrap();
        assert!(file.still_ours());
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_whose_owner_is_in_its_last_moments_is_replaced() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let dying = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| bind_within(Duration::from_secs(60), &path));
            // The next one has looked at least once: its connection is here.
            dying.accept().unwrap();
            drop(dying);
            let (_listener, file) = next.join().unwrap().unwrap();
            assert!(file.still_ours());
        });
        UnixStream::connect(&path).unwrap_err();
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let _other = UnixListener::bind(&path).unwrap();
        assert_eq!(bind_private(&path).unwrap_err().exit_code(), ExitCode::AlreadyRunning);
        UnixStream::connect(&path).unwrap();
        let datagram = dir.path().join("d");
        let _other = UnixDatagram::bind(&datagram).unwrap();
        assert_eq!(bind_private(&datagram).unwrap_err().exit_code(), ExitCode::AlreadyRunning);
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_deleted() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_private(&path).unwrap_err().exit_code(), ExitCode::CannotCreate);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_socket_of_a_service_manager_stays() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let file = SocketFile::of_manager(&path).unwrap();
        assert!(file.inherited && file.still_ours());
        file.remove();
        assert!(path.exists());
    }

    #[test]
    fn someone_elses_file_at_our_path_stays() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let (_listener, file) = bind_private(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!file.still_ours());
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!file.still_ours());
        drop(file);
        assert!(path.exists());
    }
}
