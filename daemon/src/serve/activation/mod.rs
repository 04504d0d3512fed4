//! The client socket when a service manager opened it: systemd (`sd_listen_fds(3)`,
//! `systemd.socket(5)`) or launchd (`launch(3)`).
//!
//! Only the client socket is taken over. The control socket is always codexd's own: asking for the status
//! must not start the daemon.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_proto::exit::ExitCode;
use nix::errno::Errno;
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, listen, sockopt};

use crate::error::Error;
use crate::serve::listener::{BACKLOG, SocketFile};

mod refuse;

/// The name under which the client socket is handed in: `FileDescriptorName=`, or the key in the agent's
/// `Sockets`. Without such a name, the first socket is taken.
const NAME: &CStr = c"codexd";

/// How long waiting clients get the reason of a permanent failure before the process exits.
///
/// A socket whose service fails at once is triggered again by the next connection, and after `StartLimitBurst=`
/// starts the socket itself fails and stays so until it is reset (seen with systemd 252). With this pause, the units'
/// limit of 20 starts in a minute cannot be reached this way.
const LINGER: Duration = Duration::from_secs(5);

/// A listening socket that belongs to a service manager.
#[derive(Debug)]
pub(crate) struct Inherited {
    listener: UnixListener,
    path: Option<PathBuf>,
}

/// Asks launchd for the sockets of a name.
type Launchd = fn(&CStr) -> Result<Vec<OwnedFd>, Errno>;

#[cfg(target_os = "macos")]
const LAUNCHD: Launchd = crate::os::unsafe_calls::launch_activate_socket;
#[cfg(not(target_os = "macos"))]
const LAUNCHD: Launchd = |_| Err(Errno::ESRCH);

/// Takes over the client socket if a service manager has opened one for this process.
///
/// To be called once, at the very start of the process.
///
/// # Errors
///
/// With exit code 78 when what was handed in cannot serve clients.
pub(crate) fn take() -> Result<Option<Inherited>, Error> {
    match from_systemd()? {
        Some(socket) => Ok(Some(socket)),
        None => from_launchd(LAUNCHD),
    }
}

fn from_systemd() -> Result<Option<Inherited>, Error> {
    let handed = match sd_notify::listen_fds_with_names() {
        Ok(handed) => handed,
        // The numbers are for another process, or lead nowhere: then there is nothing to lose.
        Err(error) => return Err(unusable("cannot take over the sockets of systemd").because(error)),
    };
    let sockets = handed.map(|(fd, name)| (name, crate::os::unsafe_calls::take_inherited(fd))).collect();
    choose(sockets).map(Inherited::of).transpose()
}

fn from_launchd(activate: Launchd) -> Result<Option<Inherited>, Error> {
    match activate(NAME) {
        Ok(sockets) => {
            let name = NAME.to_string_lossy();
            choose(sockets.into_iter().map(|fd| (name.clone().into_owned(), fd)).collect())
                .map(Inherited::of)
                .transpose()
        }
        // No job of launchd's, or one without sockets.
        Err(Errno::ESRCH | Errno::ENOENT) => Ok(None),
        Err(errno) => Err(unusable("cannot take over the socket of launchd").because(errno)),
    }
}

/// Returns the socket with our name, else the first. The others are closed here; the manager keeps them.
fn choose(mut sockets: Vec<(String, OwnedFd)>) -> Option<OwnedFd> {
    if sockets.is_empty() {
        return None;
    }
    let ours = sockets.iter().position(|(name, _)| name.as_bytes() == NAME.to_bytes()).unwrap_or_default();
    Some(sockets.swap_remove(ours).1)
}

fn unusable(context: &str) -> Error {
    Error::config(context).hint("the socket unit needs one `ListenStream=` with an absolute path")
}

impl Inherited {
    fn of(fd: OwnedFd) -> Result<Inherited, Error> {
        let path = check(&fd)?;
        let again = || -> std::io::Result<UnixListener> {
            // What the other side learns about its peer is who called listen() last (`unix(7)`,
            // SO_PEERCRED): without this, it would be the service manager.
            listen(&fd, BACKLOG)?;
            let listener = UnixListener::from(fd.try_clone()?);
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener =
            again().map_err(|error| unusable("cannot listen on the inherited socket").because(error))?;
        Ok(Inherited { listener, path })
    }

    /// Returns where clients find it; `None` for an abstract or a removed name.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the listener and its file; the file is watched and never removed.
    pub(crate) fn into_parts(self) -> (UnixListener, Option<SocketFile>) {
        let file = self.path.as_deref().and_then(|path| SocketFile::of_manager(path).ok());
        (self.listener, file)
    }

    /// Keeps a second handle, to answer clients if the start fails.
    pub(crate) fn keep(&self) -> Option<Waiting> {
        self.listener.try_clone().ok().map(|listener| Waiting { listener })
    }
}

/// The clients that wait on an inherited socket.
#[derive(Debug)]
pub(crate) struct Waiting {
    listener: UnixListener,
}

impl Waiting {
    /// Answers waiting clients with the reason of a permanent failure, and those that connect within the next
    /// seconds. Returns at once when no client waits.
    pub(crate) fn refuse(&self, failure: &Failure) {
        refuse::all(&self.listener, failure, LINGER);
    }
}

/// Why no client can be served.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exit code that the process is about to end with.
    pub(crate) code: u8,
    /// For people, with the next step.
    pub(crate) message: String,
    /// Whether the same attempt can succeed although nothing was changed here.
    pub(crate) retryable: bool,
}

impl Failure {
    /// Describes an error of the start.
    pub(crate) fn of(error: &Error) -> Failure {
        let hint = error.next_step().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        Failure {
            code: error.exit_code().number(),
            message: format!("{}{hint}", error.chain()),
            retryable: error.is_retryable(),
        }
    }

    /// Describes a life that ended before or while it served.
    pub(crate) fn of_end(code: ExitCode, reason: &str) -> Failure {
        Failure { code: code.number(), message: reason.to_owned(), retryable: !code.is_permanent() }
    }
}

/// Checks that a descriptor is a listening Unix stream socket, and returns its path.
fn check(fd: &OwnedFd) -> Result<Option<PathBuf>, Error> {
    let wrong = |what: &str| unusable(&format!("cannot serve clients on the inherited socket: {what}"));
    let kind = getsockopt(&fd.as_fd(), sockopt::SockType).map_err(|_| wrong("it is no socket"))?;
    if kind != SockType::Stream {
        return Err(wrong("it is no stream socket"));
    }
    let address: UnixAddr =
        getsockname(std::os::fd::AsRawFd::as_raw_fd(fd)).map_err(|_| wrong("it is no Unix socket"))?;
    if !getsockopt(&fd.as_fd(), sockopt::AcceptConn).map_err(|errno| wrong(errno.desc()))? {
        return Err(wrong("it does not listen (`Accept=yes`?)"));
    }
    Ok(address.path().map(Path::to_owned))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn the_named_socket_is_taken_else_the_first() {
        let dir = crate::os::test_dir::test_dir();
        let socket = |name: &str| OwnedFd::from(UnixListener::bind(dir.path().join(name)).unwrap());
        let path = |fd: OwnedFd| Inherited::of(fd).unwrap().path().unwrap().to_owned();
        let sockets = vec![("other".to_owned(), socket("a")), ("codexd".to_owned(), socket("b"))];
        assert_eq!(path(choose(sockets).unwrap()), dir.path().join("b"));
        let sockets = vec![("x.socket".to_owned(), socket("c")), ("y.socket".to_owned(), socket("d"))];
        assert_eq!(path(choose(sockets).unwrap()), dir.path().join("c"));
        assert!(choose(Vec::new()).is_none());
    }

    #[test]
    fn what_cannot_serve_clients_is_refused() {
        let dir = crate::os::test_dir::test_dir();
        let (connected, _other) = UnixStream::pair().unwrap();
        let datagram = UnixDatagram::bind(dir.path().join("d")).unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let inet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (fd, says) in [
            (OwnedFd::from(connected), "does not listen"),
            (OwnedFd::from(datagram), "no stream socket"),
            (OwnedFd::from(file), "no socket"),
            (OwnedFd::from(inet), "no Unix socket"),
        ] {
            let error = Inherited::of(fd).unwrap_err();
            assert_eq!(error.exit_code().number(), 78);
            assert!(error.chain().contains(says), "{}", error.chain());
        }
    }

    #[test]
    fn listening_again_makes_this_process_the_peer() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let inherited = Inherited::of(UnixListener::bind(&path).unwrap().into()).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(crate::os::peer::check_peer(&client).unwrap().pid, Some(std::process::id()));
        let (listener, file) = inherited.into_parts();
        listener.accept().unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn launchd_hands_in_sockets_or_says_that_it_has_none() {
        assert!(from_launchd(|_| Err(Errno::ESRCH)).unwrap().is_none());
        assert!(from_launchd(|_| Err(Errno::ENOENT)).unwrap().is_none());
        assert!(from_launchd(|_| Ok(Vec::new())).unwrap().is_none());
        let taken = from_launchd(|_| Err(Errno::EALREADY)).unwrap_err();
        assert!(taken.chain().contains("launchd"), "{}", taken.chain());
        let socket = from_launchd(|name| {
            assert_eq!(name, c"codexd");
            let dir = crate::os::test_dir::test_dir();
            Ok(vec![UnixListener::bind(dir.path().join("s")).unwrap().into()])
        });
        assert!(socket.unwrap().is_some());
    }
}
