//! Who and what an event of the log is about: a client, a turn, codex. The fields of each are in one place, so that
//! every event about a client names it in the same way, on a terminal, in the journal and as JSON.
//!
//! The roles are fields of the event and not spans around it. A span has to be entered whenever its work goes on, and
//! here that is once for every message: one thread serves all clients, and a message is routed in less time than a
//! span takes to be entered and left. A span of a turn would also be open across many messages of several
//! connections, in none of which it begins or ends. With fields, an event that is not logged costs one comparison, and
//! a message costs nothing.

use codexd_proto::id::ClientId;

/// A client, as [`log_client`] shows it: `client.id`, `client.name`, `client.pid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The number that `codexd ctl clients` shows.
    pub(crate) id: ClientId,
    /// The name in its `initialize`; `None` before that, and for one that is no longer connected.
    pub(crate) name: Option<String>,
    /// Its process, where the system reports it.
    pub(crate) pid: Option<u32>,
}

/// A turn, or a server request within it, as [`log_turn`] shows it: `thread.id`, `turn.id`, and the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn<'a> {
    /// `None` for a server request that names no thread.
    pub(crate) thread: Option<&'a str>,
    /// `None` as long as codex has not reported its id.
    pub(crate) turn: Option<&'a str>,
    /// The client that started it, or that answered the server request.
    pub(crate) client: Option<Client>,
}

/// Logs an event about a [`Client`]: `log_client!(info, client, reason = "...", "what happened")`.
macro_rules! log_client {
    ($level:ident, $client:expr, $($rest:tt)+) => {{
        let client: $crate::logging::roles::Client = $client;
        ::tracing::$level!(
            client.id = client.id.0,
            client.name = client.name,
            client.pid = client.pid,
            $($rest)+
        );
    }};
}

/// Logs an event about a [`Turn`]: `log_turn!(info, turn, duration_ms, "what happened")`.
macro_rules! log_turn {
    ($level:ident, $turn:expr, $($rest:tt)+) => {{
        let turn: $crate::logging::roles::Turn<'_> = $turn;
        let (client, name, pid) = turn.client.map_or((None, None, None), |client| {
            (Some(client.id.0), client.name, client.pid)
        });
        ::tracing::$level!(
            thread.id = turn.thread,
            turn.id = turn.turn,
            client.id = client,
            client.name = name,
            client.pid = pid,
            $($rest)+
        );
    }};
}

/// Logs an event about codex, with its process id: `log_upstream!(error, pid, %error, "what happened")`.
macro_rules! log_upstream {
    ($level:ident, $pid:expr, $($rest:tt)+) => {
        ::tracing::$level!(upstream.pid = $pid, $($rest)+)
    };
}

pub(crate) use {log_client, log_turn, log_upstream};
