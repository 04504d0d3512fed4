//! The loop that passes bytes between a client's standard streams and a daemon.
//!
//! One thread and `poll(2)`. The client's streams are left as they are, since their flags may be shared with other
//! programs: a read is done when there is something, and a write of no more than a pipe takes without blocking
//! (`PIPE_BUF`, `pipe(7)`). Of each direction at most [`HIGH_BYTES`] and one line wait; above that the source is not
//! read. If the daemon closes the connection meanwhile, everything it has sent is still read: it can contain the
//! reason, and the socket's buffer bounds it.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use codexd_proto::bridge::{ConnectionState, LineKind, Outgoing, Verdict};
use codexd_proto::exit::ExitCode;
use codexd_proto::router::OrphanedTurns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::dial::{self, Wait};
use super::lines::{FROM_CLIENT_BYTES, FROM_DAEMON_BYTES, Lines, Piece};
use super::{PATIENCE, compare, direct};
use crate::error::Error;
use crate::os::end_watch::EndWatch;
use crate::start::{self, Target};
use crate::terminal::{note, note_error};

/// Bytes waiting in one direction above which its source is not read.
const HIGH_BYTES: usize = 512 << 10;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes written to the client at once: what a pipe that is ready takes without blocking.
const WRITE_BYTES: usize = 4096;
/// How long a daemon may take to answer `initialize`: longer than codex may take to start.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(45);
/// How long outstanding answers are waited for when the client has ended its input.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long the client has to read the last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// Time between tries with daemons that do not serve, at first and later.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A bridge. See the [module's documentation](self).
pub(super) struct Bridge<'a> {
    target: &'a Target<'a>,
    may_run_codex: bool,
    /// The client's directory, where it is text.
    cwd: Option<String>,
    state: ConnectionState,
    link: Link,
    from_client: Lines,
    from_daemon: Lines,
    to_daemon: VecDeque<Outgoing>,
    to_daemon_bytes: usize,
    /// Bytes of the first of them that are written.
    first_written: usize,
    to_client: Vec<u8>,
    to_client_written: usize,
    client_ended: bool,
    /// The daemon is gone, and nothing of this client's was lost with it: the bridge connects to the next daemon when
    /// the client sends something.
    awaits_client: bool,
    /// Since when daemons do not serve, how often, and what that means.
    search: Option<Search>,
    /// The reason why the client is not served that stderr has already.
    noted_refusal: Option<String>,
    since_unix_ms: u64,
    compared: bool,
    scratch: Vec<u8>,
}

/// The other end.
struct Link {
    stream: UnixStream,
    /// codex itself, if it is no daemon.
    codex: Option<Child>,
    /// When `initialize` was written.
    initialize_written_at: Option<Instant>,
    /// When the sending direction was closed.
    shut_at: Option<Instant>,
    /// Stderr has why the daemon closes it.
    noted_closing: bool,
    /// Reports the end while nothing is read; created when that is first needed.
    end_watch: Option<EndWatch>,
    /// It has ended with this event, which is handled when the client has read enough.
    ended: Option<LinkEvent>,
}

/// A row of daemons that did not serve.
struct Search {
    until: Instant,
    pause: Duration,
}

/// What happened to the link.
enum LinkEvent {
    Lost,
    NotServing,
    /// No daemon is available, and none will be: the reason, and the daemon's line with it.
    NoDaemon(Error, Vec<u8>),
}

impl<'a> Bridge<'a> {
    pub(super) fn new(
        target: &'a Target<'a>,
        stream: UnixStream,
        may_run_codex: bool,
        since_unix_ms: u64,
        orphaned_turns: Option<OrphanedTurns>,
    ) -> Bridge<'a> {
        let cwd = std::env::current_dir().ok().and_then(|path| path.into_os_string().into_string().ok());
        Bridge {
            target,
            may_run_codex,
            cwd,
            state: ConnectionState::new(orphaned_turns),
            link: Link::to(stream, None),
            from_client: Lines::new(FROM_CLIENT_BYTES),
            from_daemon: Lines::new(FROM_DAEMON_BYTES),
            to_daemon: VecDeque::new(),
            to_daemon_bytes: 0,
            first_written: 0,
            to_client: Vec::new(),
            to_client_written: 0,
            client_ended: false,
            awaits_client: false,
            search: None,
            noted_refusal: None,
            since_unix_ms,
            compared: false,
            scratch: vec![0; READ_BYTES],
        }
    }

    /// Passes bytes until one side ends; returns the exit code.
    pub(super) fn run(mut self) -> u8 {
        loop {
            if self.awaits_client && self.needs_daemon() {
                self.awaits_client = false;
                if let Some(code) = self.move_on() {
                    return self.flush_client(code);
                }
            } else if self.awaits_client && self.client_ended {
                return self.flush_client(0);
            }
            let mut event = self.write_daemon();
            if event.is_none() && self.reads_daemon() {
                event = self.link.ended.take();
            }
            if event.is_none() {
                self.finish_sending();
                let ready = self.wait();
                if ready.client_gone || ready.client_takes && !self.write_client() {
                    // The client's output is closed: responses in flight have no reader.
                    return 0;
                }
                if ready.client_says {
                    self.read_client();
                }
                if ready.daemon_says {
                    event = self.read_daemon();
                } else if ready.daemon_ends {
                    self.link.ended = self.read_rest();
                    if self.state.closing().is_none() && self.link.codex.is_none() {
                        note("codexd: the daemon ended the connection while the client was not reading");
                    }
                }
                if event.is_none()
                    && self.overdue(
                        self.link.initialize_written_at.filter(|_| self.state.awaits_initialize()),
                        HANDSHAKE_WITHIN,
                    )
                {
                    event = Some(LinkEvent::NotServing);
                }
            }
            if self.overdue(self.link.shut_at, ANSWERS_WITHIN) {
                note(&format!("codexd: {} requests were not answered in time", self.state.unanswered()));
                return self.flush_client(0);
            }
            if let Some(event) = event
                && let Some(code) = self.lost(event)
            {
                return self.flush_client(code);
            }
        }
    }

    fn overdue(&self, since: Option<Instant>, limit: Duration) -> bool {
        since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Whether the client has read enough for more to be read from the daemon.
    fn reads_daemon(&self) -> bool {
        self.to_client.len() - self.to_client_written < HIGH_BYTES
    }

    /// Waits until something can be done.
    fn wait(&mut self) -> Ready {
        let reads_daemon = self.reads_daemon();
        let linked = !self.awaits_client && self.link.ended.is_none();
        if linked && !reads_daemon && self.link.end_watch.is_none() {
            // Without it, the end is noticed when the client reads again.
            self.link.end_watch = EndWatch::of(&self.link.stream).ok();
        }
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let to_client = self.to_client.len() - self.to_client_written;
        let mut fds = vec![PollFd::new(
            stdout.as_fd(),
            if to_client > 0 { PollFlags::POLLOUT } else { PollFlags::empty() },
        )];
        // A stream that is not wanted is left out: its end would be reported again and again.
        let wants_client = !self.client_ended && self.to_daemon_bytes < HIGH_BYTES;
        if wants_client {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads_daemon);
        flags.set(PollFlags::POLLOUT, self.may_write_daemon());
        let daemon = fds.len();
        if !flags.is_empty() && linked {
            fds.push(PollFd::new(self.link.stream.as_fd(), flags));
        }
        let end = fds.len();
        if let Some(watch) = self.link.end_watch.as_ref().filter(|_| linked && !reads_daemon) {
            fds.push(PollFd::new(watch.as_fd(), EndWatch::FLAGS));
        }
        let deadlines = [
            self.link
                .initialize_written_at
                .filter(|_| self.state.awaits_initialize())
                .map(|at| at + HANDSHAKE_WITHIN),
            self.link.shut_at.map(|at| at + ANSWERS_WITHIN),
        ];
        let timeout = deadlines.into_iter().flatten().min().map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        if poll(&mut fds, timeout).is_err() {
            return Ready::default();
        }
        let seen = |index: usize, any: PollFlags| {
            fds.get(index).and_then(PollFd::revents).is_some_and(|flags| flags.intersects(any))
        };
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        Ready {
            client_gone: seen(0, ended),
            client_takes: seen(0, PollFlags::POLLOUT),
            client_says: wants_client && seen(1, PollFlags::POLLIN | ended),
            daemon_says: reads_daemon && daemon < end && seen(daemon, PollFlags::POLLIN | ended),
            daemon_ends: seen(end, PollFlags::POLLIN | ended),
        }
    }

    // From the client to the daemon.

    fn read_client(&mut self) {
        let length = match nix::unistd::read(io::stdin(), &mut self.scratch) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => 0,
        };
        if length == 0 {
            self.client_ended = true;
            let mut rest = self.from_client.rest();
            if !rest.is_empty() {
                rest.push(b'\n');
                self.queue(Piece::Line(rest));
            }
            return;
        }
        let scratch = std::mem::take(&mut self.scratch);
        let mut chunk = &scratch[..length];
        while let Some(piece) = self.from_client.next(&mut chunk) {
            self.queue(piece);
        }
        self.scratch = scratch;
    }

    fn queue(&mut self, piece: Piece) {
        let line = match piece {
            Piece::Line(line) => self.state.outgoing(line, self.cwd.as_deref()),
            Piece::Start(start) => self.state.outgoing_start(start),
            Piece::More(bytes) => Outgoing::more(bytes),
        };
        self.to_daemon_bytes += line.bytes.len();
        self.to_daemon.push_back(line);
    }

    /// Returns whether there is something to write. After `initialize` nothing is, until it is answered: a daemon
    /// that does not serve must not have got more than that.
    fn may_write_daemon(&self) -> bool {
        let deferred = self.link.initialize_written_at.is_some() && self.state.awaits_initialize();
        !(self.to_daemon.is_empty() || self.awaits_client || deferred || self.link.ended.is_some())
    }

    /// Returns whether something waits that is more than a part of the handshake, which is repeated anyway.
    fn needs_daemon(&self) -> bool {
        self.to_daemon.iter().any(|line| line.kind == LineKind::Other)
    }

    fn write_daemon(&mut self) -> Option<LinkEvent> {
        while self.may_write_daemon() {
            let line = self.to_daemon.front()?;
            match (&self.link.stream).write(&line.bytes[self.first_written..]) {
                Ok(length) => {
                    if self.first_written == 0 {
                        self.state.written(line);
                    }
                    self.first_written += length;
                    if self.first_written == line.bytes.len() {
                        self.link.initialize_written_at = if line.kind == LineKind::Initialize {
                            Some(Instant::now())
                        } else {
                            self.link.initialize_written_at
                        };
                        self.to_daemon_bytes -= line.bytes.len();
                        self.to_daemon.pop_front();
                        self.first_written = 0;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    // Everything that the daemon has sent is read first: it can contain the responses.
                    _ => return self.read_rest(),
                },
            }
        }
        None
    }

    /// Shuts the sending direction down, so that the daemon knows that the client sends nothing more.
    fn finish_sending(&mut self) {
        if self.client_ended
            && self.to_daemon.is_empty()
            && !self.awaits_client
            && self.link.shut_at.is_none()
        {
            self.link.shut_at = Some(Instant::now());
            // The next read reports that the connection has ended.
            let _ = self.link.stream.shutdown(Shutdown::Write);
        }
    }

    // From the daemon to the client.

    /// Reads what is left in a connection that cannot be written to.
    fn read_rest(&mut self) -> Option<LinkEvent> {
        loop {
            if let Some(event) = self.read_daemon() {
                return Some(event);
            }
            let mut fds = [PollFd::new(self.link.stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO) == Ok(0) {
                return Some(LinkEvent::Lost);
            }
        }
    }

    fn read_daemon(&mut self) -> Option<LinkEvent> {
        let length = match (&self.link.stream).read(&mut self.scratch) {
            Ok(length) => length,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return None,
                _ => 0,
            },
        };
        if length == 0 {
            return Some(LinkEvent::Lost);
        }
        let scratch = std::mem::take(&mut self.scratch);
        let mut chunk = &scratch[..length];
        let mut event = None;
        while let Some(piece) = self.from_daemon.next(&mut chunk) {
            event = self.deliver(&piece);
            if event.is_some() {
                break;
            }
        }
        self.scratch = scratch;
        event
    }

    fn deliver(&mut self, piece: &Piece) -> Option<LinkEvent> {
        match piece {
            Piece::Line(line) => {
                let handshake = self.state.awaits_initialize();
                let verdict = self.state.incoming(line);
                match &verdict {
                    Verdict::Elsewhere => {
                        self.note_refusal();
                        return Some(LinkEvent::NotServing);
                    }
                    Verdict::NoDaemon(why) => {
                        let why = Error::new(ExitCode::Unavailable, why);
                        return Some(LinkEvent::NoDaemon(why, line.clone()));
                    }
                    Verdict::Deliver | Verdict::Swallow => {}
                }
                self.note_closing();
                if handshake && !self.state.awaits_initialize() {
                    self.search = None;
                    self.noted_refusal = None;
                    self.link.initialize_written_at = None;
                    self.compare_environments();
                }
                if verdict == Verdict::Deliver {
                    self.to_client.extend_from_slice(line);
                }
            }
            Piece::Start(bytes) => {
                self.state.incoming_start(bytes);
                self.to_client.extend_from_slice(bytes);
            }
            Piece::More(bytes) => self.to_client.extend_from_slice(bytes),
        }
        None
    }

    /// Says on stderr why the client is not served yet: at once, and once for each reason.
    fn note_refusal(&mut self) {
        let Some(refusal) = self.state.refusal().filter(|why| self.noted_refusal.as_deref() != Some(*why))
        else {
            return;
        };
        let left =
            self.search.as_ref().map_or(PATIENCE, |s| s.until.saturating_duration_since(Instant::now()));
        note(&format!(
            "codexd: the daemon does not accept this client ({refusal}); trying again for up to {} s",
            left.as_secs()
        ));
        self.noted_refusal = Some(refusal.to_owned());
    }

    /// Says on stderr that the daemon closes the connection, and why: at once, since the client might not be reading.
    fn note_closing(&mut self) {
        if let Some(why) = self.state.closing()
            && !std::mem::replace(&mut self.link.noted_closing, true)
        {
            note(&format!("codexd: the daemon closes the connection of this client: {why}"));
        }
    }

    /// Writes as much as the client takes without blocking; false when it is gone.
    fn write_client(&mut self) -> bool {
        let end = self.to_client.len().min(self.to_client_written + WRITE_BYTES);
        match nix::unistd::write(io::stdout(), &self.to_client[self.to_client_written..end]) {
            Ok(length) => self.to_client_written += length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
        if self.to_client_written == self.to_client.len() {
            self.to_client.clear();
            self.to_client_written = 0;
        } else if self.to_client_written >= HIGH_BYTES {
            self.to_client.drain(..self.to_client_written);
            self.to_client_written = 0;
        }
        true
    }

    // When the daemon is gone.

    /// Finds another daemon, or returns how this ends.
    fn lost(&mut self, event: LinkEvent) -> Option<u8> {
        if let Some(codex) = &mut self.link.codex {
            let code =
                codex.wait().ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
            return Some(self.resolve_pending("codex app-server ended", code.unwrap_or(1)));
        }
        let done = self.client_ended && self.to_daemon.is_empty() && self.state.unanswered() == 0;
        if matches!(event, LinkEvent::Lost) && done {
            return Some(0);
        }
        if !self.state.can_move()
            || self.from_client.is_inside_long_line()
            || self.from_daemon.is_inside_long_line()
        {
            let what = match (self.state.closing(), self.state.announced()) {
                (Some(why), _) => format!("codexd closed the connection ({why})"),
                (None, Some(why)) => format!("the connection to codexd was lost ({why})"),
                (None, None) => "the connection to codexd was lost".to_owned(),
            };
            return Some(self.resolve_pending(&what, 1));
        }
        if let LinkEvent::NoDaemon(why, answer) = event {
            if !self.may_run_codex && self.state.refused() {
                self.to_client.extend_from_slice(&answer);
            }
            return self.run_codex(why);
        }
        if !self.state.awaits_initialize() && !self.needs_daemon() {
            self.awaits_client = true;
            return None;
        }
        self.move_on()
    }

    /// Connects to the next daemon and repeats the handshake that the last one got; runs codex if there is none.
    fn move_on(&mut self) -> Option<u8> {
        let now = Instant::now();
        if self.search.is_none() && self.compared {
            // A daemon that had served is gone: earlier failures are another story.
            self.since_unix_ms = crate::os::unix_time::unix_ms();
        }
        let search = self.search.get_or_insert(Search { until: now + PATIENCE, pause: FIRST_PAUSE });
        let until = search.until;
        std::thread::park_timeout(search.pause);
        search.pause = (search.pause * 2).min(LONGEST_PAUSE);
        let wait = Wait { until, since_unix_ms: self.since_unix_ms, client_gone: &client_gone };
        let found = if now < until {
            dial::obtain(self.target, &wait)
        } else {
            let error = Error::new(ExitCode::Unavailable, "no daemon accepted this client in time")
                .hint(format!("`{} status` shows what it does", start::ctl(self.target)));
            Err(match self.state.refusal() {
                Some(refusal) => error.because(refusal.to_owned()),
                None => error,
            })
        };
        match found {
            Ok(stream) => self.begin(Link::to(stream, None)),
            Err(_) if client_gone() => return Some(0),
            Err(error) => return self.run_codex(error),
        }
        None
    }

    /// Runs codex itself because there is no daemon, or fails the client's requests and writes `why` to stderr.
    fn run_codex(&mut self, why: Error) -> Option<u8> {
        let unavailable = ExitCode::Unavailable.number();
        if !self.may_run_codex {
            note_error(&why);
            return Some(self.resolve_pending("no daemon is available", unavailable));
        }
        let Target { settings, environment, codex_args, .. } = self.target;
        let started = direct::prepare(settings, codex_args, environment).and_then(direct::spawn);
        match started {
            Ok((stream, child)) => {
                note_error(&why);
                note(direct::NOTICE);
                self.begin(Link::to(stream, Some(child)));
                None
            }
            Err(error) => {
                note_error(&direct::neither(why, error));
                Some(self.resolve_pending("no daemon is available", unavailable))
            }
        }
    }

    /// Switches to another peer and repeats the handshake that the last one got.
    fn begin(&mut self, link: Link) {
        self.link = link;
        self.from_daemon = Lines::new(FROM_DAEMON_BYTES);
        self.first_written = 0;
        self.to_daemon.retain(|line| line.kind == LineKind::Other);
        for line in self.state.replay().into_iter().rev() {
            self.to_daemon.push_front(line);
        }
        self.to_daemon_bytes = self.to_daemon.iter().map(|line| line.bytes.len()).sum();
    }

    /// Fails every pending request of the client and writes to stderr what to do next; returns `code`.
    fn resolve_pending(&mut self, what: &str, code: u8) -> u8 {
        // What has come of a line cannot be read any more.
        if self.from_daemon.is_inside_long_line() {
            self.to_client.push(b'\n');
        }
        let count = self.state.unanswered();
        if code != 0 || count > 0 {
            note(&format!("codexd: {what}; {count} requests were not answered"));
        }
        if code != 0 && self.state.is_attached() {
            note(
                "hint: connect again and resume the thread; what was running may have been carried out in part",
            );
        }
        let truth = self.state.resolve(&format!("{what} before this was answered"));
        self.to_client.extend_from_slice(&truth);
        code
    }

    /// Writes the last lines to the client until everything is written, the client stops reading or [`FLUSH_WITHIN`]
    /// has passed; returns `code`.
    fn flush_client(mut self, code: u8) -> u8 {
        let until = Instant::now() + FLUSH_WITHIN;
        while !self.to_client.is_empty() {
            let stdout = io::stdout();
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => break,
                _ if !self.write_client() => break,
                _ => {}
            }
        }
        code
    }

    /// Compares environments, once. Beside the loop: a daemon that is slow to answer must not hold up
    /// anything.
    fn compare_environments(&mut self) {
        if std::mem::replace(&mut self.compared, true) || self.link.codex.is_some() {
            return;
        }
        let client = compare::Client::of(self.target);
        std::thread::spawn(move || client.compare());
    }
}

/// What [`Bridge::wait`] saw.
#[derive(Default)]
struct Ready {
    client_gone: bool,
    client_takes: bool,
    client_says: bool,
    daemon_says: bool,
    daemon_ends: bool,
}

impl Link {
    fn to(stream: UnixStream, codex: Option<Child>) -> Link {
        Link {
            stream,
            codex,
            initialize_written_at: None,
            shut_at: None,
            noted_closing: false,
            end_watch: None,
            ended: None,
        }
    }
}

/// Returns whether the reading end of the standard output is closed.
pub(super) fn client_gone() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|flags| flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
