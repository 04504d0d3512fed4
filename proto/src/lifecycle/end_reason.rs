//! The reason of the end, for clients and for the record.

use super::{ChildStatus, Intent, LossKind};
use crate::router::Loss;

/// Milliseconds after which a client may try again, when a supervisor or the next client starts the
/// daemon anew.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// Returns the reason for every request and turn that codexd resolves.
pub fn loss(intent: Option<&Intent>, child: Option<ChildStatus>) -> Loss {
    match intent {
        Some(Intent::Stop(by)) => Loss {
            reason: "stopped",
            message: format!("codexd was stopped ({}) before this was finished", by.word()),
        },
        Some(Intent::Upgrade) => Loss {
            reason: "upgraded",
            message: "codexd was replaced by the next daemon (ctl upgrade) before this was finished"
                .to_owned(),
        },
        Some(Intent::UpstreamLost(kind)) => {
            let reason = match kind {
                LossKind::Exited | LossKind::OutputEnded => "upstreamLost",
                LossKind::Malformed => "upstreamGarbled",
                LossKind::Unresponsive | LossKind::HandshakeTimeout => "upstreamUnresponsive",
            };
            Loss { reason, message: describe(Some(*kind), child) }
        }
        Some(Intent::SpawnFailed(_)) => {
            Loss { reason: "upstreamNotStarted", message: "codex app-server could not be started".to_owned() }
        }
        Some(Intent::HandshakeRefused) => Loss {
            reason: "handshakeRefused",
            message: "codex app-server refused the handshake with codexd".to_owned(),
        },
        None => Loss { reason: "upstreamLost", message: describe(None, child) },
    }
}

/// Returns the reason in the shutdown notice: that of [`loss`], in one sentence.
pub fn reason(intent: Option<&Intent>, child: Option<ChildStatus>) -> String {
    match intent {
        Some(Intent::Stop(by)) => format!("codexd is stopping ({})", by.word()),
        Some(Intent::Upgrade) => "codexd ends, and the next daemon takes its place (ctl upgrade)".to_owned(),
        other => loss(other, child).message,
    }
}

fn describe(kind: Option<LossKind>, child: Option<ChildStatus>) -> String {
    match (kind, child) {
        (Some(LossKind::Malformed), _) => {
            "codex app-server wrote something that is no message; its stream cannot be trusted".to_owned()
        }
        (Some(LossKind::Unresponsive), _) => "codex app-server does not answer any more".to_owned(),
        (Some(LossKind::HandshakeTimeout), _) => {
            "codex app-server did not answer the handshake in time".to_owned()
        }
        (_, Some(status)) => format!("codex app-server {status}"),
        (_, None) => "codex app-server closed its output".to_owned(),
    }
}
