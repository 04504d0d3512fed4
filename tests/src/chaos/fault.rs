//! What can go wrong, and what is promised then.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::random::Random;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The upstream gets a signal.
    UpstreamSignal(Signal),
    /// A turn of a client of its own does this to the upstream: a marker of `fake-codex`.
    UpstreamScript(&'static str),
    /// The upstream is stopped (SIGSTOP); with `full`, its input fills up, too.
    UpstreamStopped {
        /// More than a pipe holds is sent to it.
        full: bool,
    },
    /// The upstream reads nothing after its handshake.
    UpstreamNeverReads,
    /// The upstream refuses `initialize`.
    HandshakeRefused,
    /// The upstream ends at `initialize`, three starts in a row.
    HandshakeExit(u8),
    /// The upstream never answers `initialize`, and then the daemon is stopped.
    HandshakeHangs,
    /// The daemon gets these signals, so far apart.
    Signals(Vec<Signal>, Duration),
    /// `ctl stop`, with `--now` or without.
    CtlStop {
        /// `--now`.
        now: bool,
    },
    /// The daemon gets a signal, and clients connect while it drains.
    LateClients,
    /// The daemon is killed.
    DaemonKilled,
    /// The daemon is suspended for this long, as with the lid of a laptop.
    DaemonSuspended(Duration),
    /// The daemon is suspended, and gets SIGTERM before it goes on.
    DaemonSuspendedStop,
    /// The daemon is suspended, and the upstream killed before it goes on.
    DaemonSuspendedLoss,
    /// The daemon is stopped, and so much later the upstream is killed.
    DrainLoss(Duration),
    /// The daemon is stopped, and a client disconnects while it drains.
    DrainClientGone,
    /// The daemon is stopped in the middle of a flood of requests.
    DrainFlood,
    /// The upstream is killed in the middle of a flood of requests.
    UpstreamKilledInFlood,
    /// The daemon reads its configuration again (SIGHUP).
    Reload {
        /// What stands there cannot be used.
        broken: bool,
    },
    /// The control socket gets garbage, and connections that send nothing.
    ControlGarbage,
    /// The socket's file is removed.
    SocketRemoved,
    /// A client ends its connection in the middle of its work.
    ClientGone,
    /// A client ends its sending half in the middle of its work.
    ClientHalfCloses,
    /// The process of a client is killed: `codexd connect`.
    ClientKilled,
    /// A client asks for much and does not read.
    ClientNeverReads,
    /// A client sends what no client should.
    ClientGarbage,
    /// A client sends one byte at a time.
    ClientByteByByte,
    /// A client sends 5,000 requests at once.
    ClientFlood,
    /// A client sends half a line and goes.
    ClientTornLine,
    /// A client asks for `broker/shutdown` beside others.
    ShutdownBeside,
    /// The last client asks for `broker/shutdown`.
    ShutdownLast,
}

/// What is promised of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, and clients that are not concerned notice nothing.
    Lives,
    /// It ends with this exit code after it has notified all of its clients.
    Ends(i32),
    /// It is gone at once; clients see the end of their connection.
    Killed,
}

impl Fault {
    /// Returns the outcome that is promised.
    pub fn outcome(&self) -> Outcome {
        match self {
            Fault::UpstreamSignal(_)
            | Fault::UpstreamScript(_)
            | Fault::UpstreamStopped { .. }
            | Fault::UpstreamNeverReads
            | Fault::UpstreamKilledInFlood
            | Fault::DaemonSuspendedLoss
            | Fault::HandshakeExit(_) => Outcome::Ends(1),
            Fault::HandshakeRefused => Outcome::Ends(76),
            Fault::HandshakeHangs
            | Fault::Signals(..)
            | Fault::CtlStop { .. }
            | Fault::LateClients
            | Fault::DaemonSuspendedStop
            | Fault::DrainLoss(_)
            | Fault::DrainClientGone
            | Fault::DrainFlood
            | Fault::ShutdownLast => Outcome::Ends(0),
            Fault::DaemonKilled => Outcome::Killed,
            Fault::DaemonSuspended(_)
            | Fault::Reload { .. }
            | Fault::ControlGarbage
            | Fault::SocketRemoved
            | Fault::ClientGone
            | Fault::ClientHalfCloses
            | Fault::ClientKilled
            | Fault::ClientNeverReads
            | Fault::ClientGarbage
            | Fault::ClientByteByByte
            | Fault::ClientFlood
            | Fault::ClientTornLine
            | Fault::ShutdownBeside => Outcome::Lives,
        }
    }

    /// Returns whether it leaves running turns the time to end.
    pub(crate) fn lets_turns_end(&self) -> bool {
        match self {
            Fault::Signals(signals, _) => signals.len() == 1,
            Fault::CtlStop { now } => !now,
            Fault::LateClients | Fault::DrainClientGone | Fault::DrainFlood | Fault::DaemonSuspendedStop => {
                true
            }
            _ => false,
        }
    }

    /// Returns whether it happens before the daemon is ready.
    pub fn is_at_start(&self) -> bool {
        matches!(self, Fault::HandshakeRefused | Fault::HandshakeExit(_) | Fault::HandshakeHangs)
    }

    /// Returns whether the health check has to find it.
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Fault::UpstreamStopped { .. } | Fault::UpstreamNeverReads | Fault::UpstreamScript("freeze")
        )
    }

    /// Returns whether a client has to connect for it.
    pub(crate) fn needs_socket(&self) -> bool {
        matches!(
            self,
            Fault::UpstreamScript(_)
                | Fault::UpstreamStopped { full: true }
                | Fault::UpstreamKilledInFlood
                | Fault::LateClients
                | Fault::DrainFlood
                | Fault::ShutdownLast
        )
    }

    /// Returns the behaviour of `fake-codex` as a process that it needs.
    pub fn script(&self) -> String {
        match self {
            Fault::UpstreamNeverReads => "[[never-read]]".to_owned(),
            Fault::HandshakeRefused => "[[init-error]]".to_owned(),
            Fault::HandshakeExit(code) => format!("[[init-exit:{code}]]"),
            Fault::HandshakeHangs => "[[init-hang]]".to_owned(),
            _ => String::new(),
        }
    }

    /// Returns its line in the table.
    pub fn name(&self) -> String {
        match self {
            Fault::UpstreamSignal(signal) => format!("upstream: {signal}"),
            Fault::UpstreamScript(marker) => format!("upstream: {}", marker.replace("]][[", ", ")),
            Fault::UpstreamStopped { full: false } => "upstream: SIGSTOP".to_owned(),
            Fault::UpstreamStopped { full: true } => "upstream: SIGSTOP, input full".to_owned(),
            Fault::UpstreamNeverReads => "upstream: never reads".to_owned(),
            Fault::HandshakeRefused => "handshake: refused".to_owned(),
            Fault::HandshakeExit(_) => "handshake: exits, three times".to_owned(),
            Fault::HandshakeHangs => "handshake: hangs, then SIGTERM".to_owned(),
            Fault::Signals(signals, _) => {
                format!("daemon: {} signal{}", signals.len(), if signals.len() == 1 { "" } else { "s" })
            }
            Fault::CtlStop { now: false } => "daemon: ctl stop".to_owned(),
            Fault::CtlStop { now: true } => "daemon: ctl stop --now".to_owned(),
            Fault::LateClients => "drain: clients come".to_owned(),
            Fault::DaemonKilled => "daemon: SIGKILL".to_owned(),
            Fault::DaemonSuspended(_) => "daemon: suspended".to_owned(),
            Fault::DaemonSuspendedStop => "daemon: suspended, SIGTERM".to_owned(),
            Fault::DaemonSuspendedLoss => "daemon: suspended, upstream SIGKILL".to_owned(),
            Fault::DrainLoss(_) => "drain: upstream SIGKILL".to_owned(),
            Fault::DrainClientGone => "drain: client gone".to_owned(),
            Fault::DrainFlood => "drain: in a flood".to_owned(),
            Fault::UpstreamKilledInFlood => "upstream: SIGKILL in a flood".to_owned(),
            Fault::Reload { broken: false } => "daemon: reload".to_owned(),
            Fault::Reload { broken: true } => "daemon: reload of a broken file".to_owned(),
            Fault::ControlGarbage => "daemon: garbage on the control socket".to_owned(),
            Fault::SocketRemoved => "daemon: socket removed".to_owned(),
            Fault::ClientGone => "client: gone in its work".to_owned(),
            Fault::ClientHalfCloses => "client: half-closes".to_owned(),
            Fault::ClientKilled => "client: SIGKILL".to_owned(),
            Fault::ClientNeverReads => "client: never reads".to_owned(),
            Fault::ClientGarbage => "client: garbage".to_owned(),
            Fault::ClientByteByByte => "client: byte by byte".to_owned(),
            Fault::ClientFlood => "client: 5,000 requests".to_owned(),
            Fault::ClientTornLine => "client: torn line".to_owned(),
            Fault::ShutdownBeside => "client: shutdown beside others".to_owned(),
            Fault::ShutdownLast => "client: shutdown as the last".to_owned(),
        }
    }

    /// Picks a fault after which the daemon lives.
    pub(crate) fn passing(random: &mut Random, real: bool) -> Fault {
        match random.below(13) {
            // Only the stand-in can be scripted to write so much.
            5 if real => Fault::ClientFlood,
            0 => Fault::DaemonSuspended(Duration::from_millis(50 + random.below(1500))),
            1 => Fault::SocketRemoved,
            2 => Fault::ClientGone,
            3 => Fault::ClientHalfCloses,
            4 => Fault::ClientKilled,
            5 => Fault::ClientNeverReads,
            6 => Fault::ClientGarbage,
            7 => Fault::ClientByteByByte,
            8 => Fault::ClientFlood,
            9 => Fault::ClientTornLine,
            10 => Fault::Reload { broken: random.one_in(2) },
            11 => Fault::ControlGarbage,
            _ => Fault::ShutdownBeside,
        }
    }

    /// Picks a fault that ends the daemon; of the real codex, one that it can have.
    pub(crate) fn ending(random: &mut Random, real: bool) -> Fault {
        match random.below(if real { 18 } else { 30 }) {
            0..=2 => Fault::UpstreamSignal(random.pick(&[
                Signal::SIGKILL,
                Signal::SIGTERM,
                Signal::SIGABRT,
                Signal::SIGKILL,
            ])),
            3 => Fault::UpstreamStopped { full: random.one_in(2) },
            4..=6 => {
                let count = 1 + random.index(3);
                let signals = (0..count).map(|_| random.pick(&[Signal::SIGTERM, Signal::SIGINT])).collect();
                Fault::Signals(signals, random.millis(150))
            }
            7 => Fault::CtlStop { now: false },
            8 => Fault::CtlStop { now: true },
            9 => Fault::LateClients,
            10 => Fault::DaemonKilled,
            11 => Fault::ShutdownLast,
            12 => Fault::DaemonSuspendedStop,
            13 => Fault::DaemonSuspendedLoss,
            14 => Fault::DrainLoss(random.millis(200)),
            15 => Fault::DrainClientGone,
            16 => Fault::DrainFlood,
            17 => Fault::UpstreamKilledInFlood,
            18..=26 => Fault::UpstreamScript(random.pick(&SCRIPTS)),
            27 => Fault::UpstreamNeverReads,
            28 => random.pick(&[Fault::HandshakeRefused, Fault::HandshakeHangs]),
            _ => Fault::HandshakeExit(random.pick(&[0, 1, 42])),
        }
    }
}

/// What a turn can do to `fake-codex`.
const SCRIPTS: [&str; 11] = [
    "exit:0",
    "exit:3",
    "final]][[exit:1",
    "abort",
    "signal:11",
    "eof",
    "hold-pipe:3",
    "torn",
    "garbage",
    "bad-utf8",
    "freeze",
];
