//! The loop that passes bytes between a client's standard streams and a row of daemons.
//!
//! One thread and `poll(2)`. The client's streams are left as they are, since their flags may be shared with other
//! programs: a read is done when there is something, and a write takes no longer than the stream allows ([`Output`]). Of each direction at most [`HIGH_BYTES`] and one line wait; above that the source is not
//! read. If the daemon closes the connection meanwhile, everything it has sent is still read: it can contain the
//! reason, and the socket's buffer bounds it.
//!
//! What lines mean, and what becomes of them when a daemon is lost, is decided by [`ConnectionState`]. The next daemon is
//! found or started beside the loop ([`Dialing`]): the client gets the ends of its turns at once.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use codexd_proto::bridge::{ConnectionState, Delivery, LineKind};
use codexd_proto::exit::ExitCode;
use codexd_proto::router::OrphanedTurns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::dialing::Dialing;
use super::lines::{FROM_CLIENT_BYTES, FROM_DAEMON_BYTES, Lines, Piece};
use super::output::Output;
use super::{compare, direct};
use crate::error::Error;
use crate::os::end_watch::EndWatch;
use crate::os::memory;
use crate::os::unix_time::unix_ms;
use crate::start::{self, Target};
use crate::terminal::{note, note_error};

/// Bytes waiting for the client above which the daemon is not read.
const HIGH_BYTES: usize = 512 << 10;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a daemon may take to answer `initialize`: longer than codex may take to start.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(45);
/// How long outstanding answers are waited for when the client has ended its input.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long the client has to read the last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// How long after the start memory is given back that only the start needed.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(1);
/// Time between tries with daemons that do not serve, at first and later.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Time between two looks whether somebody else has started a daemon.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// What the bridge may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Codex itself may take the place of a daemon.
    pub(super) may_run_codex: bool,
    /// What the client's turns are to do when it has left, if it does not say so itself.
    pub(super) orphaned_turns: Option<OrphanedTurns>,
    /// How long the next daemon is looked for; zero: not at all for a client that had something in the last one.
    pub(super) patience: Duration,
}

/// A bridge. See the [module's documentation](self).
pub(super) struct Bridge<'a> {
    target: &'a Target<'a>,
    policy: Policy,
    state: ConnectionState,
    /// The daemon; `None` while there is none.
    link: Option<Link>,
    from_client: Lines,
    from_daemon: Lines,
    output: Output,
    to_client: Vec<u8>,
    to_client_written: usize,
    client_ended: bool,
    /// Since when daemons do not serve, how often, and what that means.
    search: Option<Search>,
    /// When it is to be looked again whether somebody else has started a daemon.
    next_look: Instant,
    /// Since when there is no daemon.
    lost_at: Option<Instant>,
    /// The reason why the client is not served that stderr has already.
    noted_refusal: Option<String>,
    since_unix_ms: u64,
    compared: bool,
    /// When memory is given back that only the start needed.
    gives_back_at: Option<Instant>,
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
    dialing: Option<Dialing>,
    /// No daemon was to be started when the last attempt began: if it fails, that may be why, though the pause is over.
    backed_off: bool,
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
        policy: Policy,
        since_unix_ms: u64,
    ) -> Bridge<'a> {
        let cwd = std::env::current_dir().ok().and_then(|path| path.into_os_string().into_string().ok());
        Bridge {
            target,
            policy,
            state: ConnectionState::new(policy.orphaned_turns, cwd),
            link: Some(Link::to(stream, None)),
            from_client: Lines::new(FROM_CLIENT_BYTES),
            from_daemon: Lines::new(FROM_DAEMON_BYTES),
            output: Output::of_process(),
            to_client: Vec::new(),
            to_client_written: 0,
            client_ended: false,
            search: None,
            next_look: Instant::now(),
            lost_at: None,
            noted_refusal: None,
            since_unix_ms,
            compared: false,
            gives_back_at: None,
            scratch: vec![0; READ_BYTES],
        }
    }

    /// Passes bytes until one side ends; returns the exit code.
    pub(super) fn run(mut self) -> u8 {
        loop {
            if self.link.is_none()
                && let Some(code) = self.look_for_daemon()
            {
                return self.flush_client(code);
            }
            let mut event = self.write_daemon();
            if event.is_none() && self.reads_daemon() {
                event = self.link.as_mut().and_then(|link| link.ended.take());
            }
            if event.is_none() {
                self.finish_sending();
                if self.output.never_waits() && !self.to_client.is_empty() && !self.write_client() {
                    return 0;
                }
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
                    self.daemon_ended();
                }
                if self.gives_back_at.is_some_and(|at| at <= Instant::now()) {
                    self.gives_back_at = None;
                    memory::give_back_start();
                }
                if event.is_none() && self.overdue(self.handshake_since(), HANDSHAKE_WITHIN) {
                    event = Some(LinkEvent::NotServing);
                }
            }
            if self.overdue(self.link.as_ref().and_then(|link| link.shut_at), ANSWERS_WITHIN) {
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

    /// Returns since when the daemon has had an `initialize` without an answer.
    fn handshake_since(&self) -> Option<Instant> {
        self.link.as_ref()?.initialize_written_at.filter(|_| self.state.awaits_initialize())
    }

    /// Whether the client has read enough for more to be read from the daemon.
    fn reads_daemon(&self) -> bool {
        self.to_client.len() - self.to_client_written < HIGH_BYTES
    }

    /// Waits until something can be done.
    fn wait(&mut self) -> Ready {
        let reads_daemon = self.reads_daemon();
        if let Some(link) = self.link.as_mut().filter(|link| link.ended.is_none())
            && !reads_daemon
            && link.end_watch.is_none()
        {
            // Without it, the end is noticed when the client reads again.
            link.end_watch = EndWatch::of(&link.stream).ok();
        }
        let link = self.link.as_ref().filter(|link| link.ended.is_none());
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let to_client = self.to_client.len() - self.to_client_written;
        let mut fds = vec![PollFd::new(
            stdout.as_fd(),
            if to_client > 0 { PollFlags::POLLOUT } else { PollFlags::empty() },
        )];
        // A stream that is not wanted is left out: its end would be reported again and again.
        let wants_client = !self.client_ended && self.state.reads_client(self.from_client.partial_bytes());
        if wants_client {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads_daemon);
        flags.set(PollFlags::POLLOUT, link.is_some() && self.state.to_daemon().is_some());
        let daemon = fds.len();
        if let Some(link) = link.filter(|_| !flags.is_empty()) {
            fds.push(PollFd::new(link.stream.as_fd(), flags));
        }
        let end = fds.len();
        if let Some(watch) = link.and_then(|link| link.end_watch.as_ref()).filter(|_| !reads_daemon) {
            fds.push(PollFd::new(watch.as_fd(), EndWatch::FLAGS));
        }
        let dialing = fds.len();
        if let Some(next) = self.search.as_ref().and_then(|search| search.dialing.as_ref()) {
            fds.push(PollFd::new(next.as_fd(), PollFlags::POLLIN));
        }
        let deadlines = [
            self.handshake_since().map(|at| at + HANDSHAKE_WITHIN),
            self.link.as_ref().and_then(|link| link.shut_at).map(|at| at + ANSWERS_WITHIN),
            self.gives_back_at,
            self.awaits_others().then_some(self.next_look),
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
            daemon_ends: end < dialing && seen(end, PollFlags::POLLIN | ended),
        }
    }

    /// Whether there is no daemon, and none is started for this client, which joins one that somebody else starts.
    fn awaits_others(&self) -> bool {
        self.link.is_none() && self.search.is_none() && self.state.joins_daemon()
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
                self.state.client_line(rest);
            }
            return;
        }
        let scratch = std::mem::take(&mut self.scratch);
        let mut chunk = &scratch[..length];
        while let Some(piece) = self.from_client.next(&mut chunk) {
            match piece {
                Piece::Line(line) => self.state.client_line(line),
                Piece::Start(start) => self.state.client_start(start),
                Piece::More(bytes) => self.state.client_more(bytes),
            }
        }
        self.scratch = scratch;
        self.take_output();
    }

    fn write_daemon(&mut self) -> Option<LinkEvent> {
        let link = self.link.as_mut().filter(|link| link.ended.is_none())?;
        while let Some(bytes) = self.state.to_daemon() {
            match (&link.stream).write(bytes) {
                Ok(length) => {
                    if self.state.daemon_took(length) == Some(LineKind::Initialize) {
                        link.initialize_written_at = Some(Instant::now());
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
        if let Some(link) = &mut self.link
            && self.client_ended
            && self.state.is_all_written()
            && link.shut_at.is_none()
        {
            link.shut_at = Some(Instant::now());
            // The next read reports that the connection has ended.
            let _ = link.stream.shutdown(Shutdown::Write);
        }
    }

    // From the daemon to the client.

    /// The daemon has ended the connection while the client does not read.
    fn daemon_ended(&mut self) {
        let event = self.read_rest();
        let Some(link) = &mut self.link else { return };
        link.ended = event;
        if self.state.closing().is_none() && link.codex.is_none() {
            note("codexd: the daemon ended the connection while the client was not reading");
        }
    }

    /// Reads what is left in a connection that cannot be written to.
    fn read_rest(&mut self) -> Option<LinkEvent> {
        loop {
            if let Some(event) = self.read_daemon() {
                return Some(event);
            }
            let link = self.link.as_ref()?;
            let mut fds = [PollFd::new(link.stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO) == Ok(0) {
                return Some(LinkEvent::Lost);
            }
        }
    }

    fn read_daemon(&mut self) -> Option<LinkEvent> {
        let link = self.link.as_ref()?;
        let length = match (&link.stream).read(&mut self.scratch) {
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
        self.take_output();
        event
    }

    fn deliver(&mut self, piece: &Piece) -> Option<LinkEvent> {
        match piece {
            Piece::Line(line) => {
                let handshake = self.state.awaits_initialize();
                match self.state.daemon_line(line) {
                    Delivery::Elsewhere => {
                        self.note_refusal();
                        return Some(LinkEvent::NotServing);
                    }
                    Delivery::NoDaemon(why) => {
                        let why = Error::new(ExitCode::Unavailable, why);
                        return Some(LinkEvent::NoDaemon(why, line.clone()));
                    }
                    Delivery::Done => {}
                }
                self.note_closing();
                if handshake && !self.state.awaits_initialize() {
                    self.found();
                }
            }
            Piece::Start(bytes) => self.state.daemon_start(bytes),
            Piece::More(bytes) => self.state.daemon_more(bytes),
        }
        None
    }

    /// A daemon serves this client.
    fn found(&mut self) {
        self.search = None;
        self.noted_refusal = None;
        if let Some(link) = &mut self.link {
            link.initialize_written_at = None;
        }
        if self.lost_at.take().is_some() && self.state.is_attached() {
            note("codexd: connected again");
        }
        self.compare_environments();
    }

    /// Moves what is for the client to what waits for it.
    fn take_output(&mut self) {
        let output = self.state.take_output();
        if self.to_client.is_empty() {
            self.to_client = output;
        } else {
            self.to_client.extend_from_slice(&output);
        }
    }

    /// Says on stderr why the client is not served yet: at once, and once for each reason.
    fn note_refusal(&mut self) {
        let Some(refusal) = self.state.refusal().filter(|why| self.noted_refusal.as_deref() != Some(*why))
        else {
            return;
        };
        let left = self
            .search
            .as_ref()
            .map_or(self.policy.patience, |s| s.until.saturating_duration_since(Instant::now()));
        note(&format!(
            "codexd: the daemon does not accept this client ({refusal}); trying again for up to {} s",
            left.as_secs()
        ));
        self.noted_refusal = Some(refusal.to_owned());
    }

    /// Says on stderr that the daemon closes the connection, and why: at once, since the client might not be reading.
    fn note_closing(&mut self) {
        if let (Some(why), Some(link)) = (self.state.closing(), &mut self.link)
            && !std::mem::replace(&mut link.noted_closing, true)
        {
            note(&format!("codexd: the daemon closes the connection of this client: {why}"));
        }
    }

    /// Writes as much as the client takes without blocking; false when it is gone.
    fn write_client(&mut self) -> bool {
        match self.output.write(&self.to_client[self.to_client_written..]) {
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

    /// Resolves what was lost with the daemon, or returns how this ends.
    fn lost(&mut self, event: LinkEvent) -> Option<u8> {
        let why = self.state.why_lost();
        if let Some(codex) = self.link.as_mut().and_then(|link| link.codex.as_mut()) {
            let code =
                codex.wait().ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
            self.resolve_lost();
            return Some(self.give_up("codex app-server ended", code.unwrap_or(1)));
        }
        let done = self.client_ended && self.state.is_all_written() && self.state.unanswered() == 0;
        if matches!(event, LinkEvent::Lost) && done {
            return Some(0);
        }
        // The daemon lives, and goes on with the turns of this client.
        if self.state.closing().is_some() && self.state.is_attached() {
            return Some(self.give_up(&why, 1));
        }
        if self.from_daemon.is_inside_long_line() {
            // The client has half a line, and what comes after it cannot be read.
            self.to_client.push(b'\n');
            self.resolve_lost();
            return Some(self.give_up(&why, 1));
        }
        if self.state.is_attached() && self.search.is_none() && !self.policy.patience.is_zero() {
            note(&format!("codexd: {why}; the client stays, and gets the next daemon"));
        }
        self.resolve_lost();
        if self.state.is_attached() && self.policy.patience.is_zero() {
            return Some(self.give_up(&why, 1));
        }
        self.link = None;
        self.from_daemon = Lines::new(FROM_DAEMON_BYTES);
        self.lost_at.get_or_insert_with(Instant::now);
        // Not at once: the one that ends still listens for a moment.
        self.next_look = Instant::now() + LOOKS_EVERY;
        let LinkEvent::NoDaemon(why, answer) = event else { return None };
        if !self.policy.may_run_codex && self.state.refused() {
            self.to_client.extend_from_slice(&answer);
        }
        self.no_daemon(why)
    }

    /// Gives the client what the lost daemon could not say any more.
    fn resolve_lost(&mut self) {
        self.state.lost();
        self.take_output();
    }

    /// Looks for the next daemon if one is wanted; returns how this ends if it does.
    fn look_for_daemon(&mut self) -> Option<u8> {
        let dialing = self.search.as_ref().and_then(|search| search.dialing.as_ref());
        if self.client_ended && self.state.unanswered() == 0 {
            return Some(0);
        }
        let Some(dialing) = dialing else {
            if self.state.wants_daemon() {
                return self.dial(self.target.may_spawn);
            }
            // The next time, it is another search.
            self.search = None;
            if self.awaits_others() && Instant::now() >= self.next_look {
                self.next_look = Instant::now() + LOOKS_EVERY;
                // Unlike the client socket, a socket unit does not listen there: to connect starts nothing.
                if UnixStream::connect(&self.target.settings.paths.control_socket).is_ok() {
                    return self.dial(false);
                }
            }
            return None;
        };
        let found = dialing.poll()?;
        if let Some(search) = &mut self.search {
            search.dialing = None;
        }
        match found {
            Ok(stream) => self.begin(Link::to(stream, None)),
            Err(_) if client_gone() => return Some(0),
            // It has gone again; another one may come.
            Err(_) if self.state.joins_daemon() && !self.state.wants_daemon() => self.search = None,
            Err(error) if self.may_help_again(&error) => {
                // What others have failed at until now is known.
                self.since_unix_ms = unix_ms() + 1;
                if self.noted_refusal.as_deref() != Some(&error.chain()) {
                    note_error(&error);
                    self.noted_refusal = Some(error.chain());
                }
                return self.dial(self.target.may_spawn);
            }
            Err(error) => return self.no_daemon(error),
        }
        None
    }

    /// Whether another attempt may find a daemon: for a client that has lost one, for as long as the bound says.
    fn may_help_again(&self, error: &Error) -> bool {
        let in_time = self.search.as_ref().is_some_and(|search| Instant::now() < search.until);
        let backed_off = self.search.as_ref().is_some_and(|search| search.backed_off);
        let passes = !self.target.may_spawn
            || !error.exit_code().is_permanent()
            || backed_off
            || start::is_backing_off(self.target);
        in_time && passes && self.state.is_attached()
    }

    /// Begins to connect to the next daemon, one that is started for it if need be.
    fn dial(&mut self, may_spawn: bool) -> Option<u8> {
        if self.search.is_none() && self.compared {
            // A daemon that had served is gone: earlier failures are another story.
            self.since_unix_ms = unix_ms();
        }
        let patience = self.policy.patience;
        let search = self.search.get_or_insert_with(|| Search {
            until: Instant::now() + patience,
            pause: FIRST_PAUSE,
            dialing: None,
            backed_off: false,
        });
        search.backed_off = start::is_backing_off(self.target);
        let begun = Dialing::begin(self.target, may_spawn, search.pause, search.until, self.since_unix_ms);
        search.pause = (search.pause * 2).min(LONGEST_PAUSE);
        match begun {
            Ok(dialing) => search.dialing = Some(dialing),
            Err(error) => {
                let why = Error::os("cannot begin to connect").because(error);
                return Some(self.give_up_because(&why));
            }
        }
        None
    }

    /// There is no daemon and there will be none: runs codex itself, if nothing of this client was lost and it may.
    fn no_daemon(&mut self, why: Error) -> Option<u8> {
        let in_vain = self.search.as_ref().is_some_and(|search| Instant::now() >= search.until);
        let why = match self.state.refusal().filter(|_| in_vain) {
            Some(refusal) => why.because(refusal.to_owned()),
            None => why,
        };
        // Codex alone would resume its threads with other permissions than they had.
        if self.state.is_attached() {
            return Some(self.give_up_because(&why));
        }
        let unavailable = ExitCode::Unavailable.number();
        if !self.policy.may_run_codex {
            note_error(&why);
            return Some(self.give_up("no daemon is available", unavailable));
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
                Some(self.give_up("no daemon is available", unavailable))
            }
        }
    }

    /// Switches to another peer, which gets the handshake that the last one got.
    fn begin(&mut self, link: Link) {
        self.link = Some(link);
        let down = self.lost_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.state.connected(u64::try_from(down.as_millis()).unwrap_or(u64::MAX));
        if !self.state.awaits_initialize() {
            self.search = None;
            self.lost_at = None;
        }
    }

    /// Ends a client that had something in a daemon, because there is no other one.
    fn give_up_because(&mut self, why: &Error) -> u8 {
        note_error(why);
        self.give_up("no daemon is available", 1)
    }

    /// Fails every pending request of the client and writes to stderr what to do next; returns `code`.
    fn give_up(&mut self, what: &str, code: u8) -> u8 {
        let count = self.state.unanswered();
        if code != 0 || count > 0 {
            note(&format!("codexd: {what}; {count} requests were not answered"));
        }
        if code != 0 && self.state.is_attached() {
            note(
                "hint: connect again and resume the thread; what was running may have been carried out in part",
            );
        }
        self.state.give_up(what);
        self.take_output();
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
        let is_codex = self.link.as_ref().is_some_and(|link| link.codex.is_some());
        if std::mem::replace(&mut self.compared, true) || is_codex {
            return;
        }
        let client = compare::Client::of(self.target);
        std::thread::spawn(move || client.compare());
        self.gives_back_at = Some(Instant::now() + GIVE_BACK_AFTER);
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
