//! What the process exits with: one function of why it ends and how the upstream ended.

use core::fmt;

use super::Intent;
use crate::exit::ExitCode;

/// How the upstream process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildStatus {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for ChildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildStatus::Code(code) => write!(f, "exited with code {code}"),
            ChildStatus::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was killed by signal {signal} ({name})"),
                None => write!(f, "was killed by signal {signal}"),
            },
        }
    }
}

/// Names of the signals with the same number on Linux and macOS (`signal(7)`, `signal(3)`).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// Returns what the process exits with: the intent decides, the upstream's own status does not.
///
/// Two traps are avoided here. An upstream that exits 0 unasked must not make the daemon exit 0, because the
/// supervisor would treat that as a clean end. And its signal is not raised again, since systemd treats death by
/// SIGHUP, SIGINT, SIGTERM and SIGPIPE as a clean end too (`systemd.service(5)`).
pub fn exit_code(intent: Option<&Intent>, _child: Option<ChildStatus>) -> ExitCode {
    match intent {
        Some(Intent::Stop(_)) => ExitCode::Stopped,
        Some(Intent::Upgrade) => ExitCode::Upgrade,
        Some(Intent::UpstreamLost(_)) => ExitCode::UpstreamLost,
        Some(Intent::SpawnFailed(code)) => *code,
        Some(Intent::HandshakeRefused) => ExitCode::Protocol,
        // Unreachable by the table: every path to the end records an intent.
        None => ExitCode::Software,
    }
}
