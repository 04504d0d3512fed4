//! Getting a connection to a daemon, one that is started for it if need be.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;
use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, connect};

use crate::error::Error;
use crate::os::peer::check_peer;
use crate::serve::listener::nonblocking_socket;
use crate::settings::paths::check_socket_path;
use crate::start::{self, Attempt, Target};
use crate::terminal::note;

/// Time between polls of a state that sends no notification when it changes, at first and later.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Time without an accepted connection after which stderr names what the client is waiting for.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// How a try went.
#[derive(Debug)]
enum Dialled {
    Connected(UnixStream),
    /// Nobody listens.
    Nobody,
    /// A process listens, and accepts no connection at the moment.
    Busy,
}

/// What bounds the wait.
pub(crate) struct Wait<'a> {
    /// When to give up.
    pub(crate) until: Instant,
    /// Since when a failed start counts as one's own, in milliseconds since the epoch.
    pub(crate) since_unix_ms: u64,
    /// Returns whether the client is gone.
    pub(crate) client_gone: &'a dyn Fn() -> bool,
}

/// Returns a connection to a process that listens; whether it serves is known after the handshake. The stream does
/// not block.
///
/// # Errors
///
/// When there is none in time, and none can be started.
pub(crate) fn obtain(target: &Target<'_>, wait: &Wait<'_>) -> Result<UnixStream, Error> {
    let socket = &target.settings.paths.socket;
    check_socket_path(socket)?;
    start::check_runs(target)?;
    let mut pause = FIRST_PAUSE;
    let began = Instant::now();
    let mut noted = false;
    loop {
        let busy = match dial(socket)? {
            Dialled::Connected(stream) => return Ok(stream),
            Dialled::Busy => true,
            Dialled::Nobody => {
                let listening = || !matches!(dial(socket), Ok(Dialled::Nobody));
                match start::attempt(target, wait.since_unix_ms, listening)? {
                    Attempt::Started => continue_at_once(&mut pause),
                    Attempt::Wait => {}
                }
                false
            }
        };
        if busy && began.elapsed() >= BUSY_FOR && !std::mem::replace(&mut noted, true) {
            let left = wait.until.saturating_duration_since(Instant::now()).as_secs();
            note(&format!(
                "codexd: the daemon of `{}` accepts no connection at the moment; trying again for up to {left} s",
                socket.display()
            ));
        }
        if (wait.client_gone)() {
            return Err(Error::new(ExitCode::Unavailable, "the client went away"));
        }
        if Instant::now() >= wait.until {
            let what = if busy {
                "accepts no connection"
            } else {
                "is ending or starting, and did not finish in time"
            };
            return Err(Error::new(
                ExitCode::Unavailable,
                format!("the daemon of `{}` {what}", socket.display()),
            )
            .hint(format!("`{ctl} status` shows it, `{ctl} stop --now` ends it", ctl = start::ctl(target))));
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn continue_at_once(pause: &mut Duration) {
    *pause = Duration::from_millis(1);
}

fn dial(path: &Path) -> Result<Dialled, Error> {
    let failed = |errno: Errno| {
        let error = Error::new(ExitCode::Unavailable, format!("cannot connect to `{}`", path.display()))
            .because(errno);
        match errno {
            Errno::EACCES | Errno::EPERM => {
                error.hint("the socket belongs to another user, or a sandbox forbids this process to use it")
            }
            _ => error,
        }
    };
    let fd = nonblocking_socket().map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => return Ok(Dialled::Nobody),
        Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EINTR) => return Ok(Dialled::Busy),
        Err(errno) => return Err(failed(errno)),
    }
    // Prompts are sent only to a process of this user.
    check_peer(&fd).map_err(|error| {
        Error::new(
            ExitCode::Unavailable,
            format!("cannot trust the process that listens on `{}`", path.display()),
        )
        .because(error)
    })?;
    Ok(Dialled::Connected(UnixStream::from(fd)))
}
