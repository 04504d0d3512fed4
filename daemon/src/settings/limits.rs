//! Bounds, and what a client may do to the daemon: settings that the router knows, too.

use std::time::Duration;

use codexd_proto::router;
use serde::Deserialize;

use crate::error::Error;

/// What a client's `broker/shutdown` does to the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientShutdown {
    /// The daemon stops if no other client is connected and no turn runs.
    #[default]
    WhenUnused,
    /// The daemon stops.
    Always,
    /// Only the client is detached.
    Never,
}

impl ClientShutdown {
    /// Returns the router's word for it.
    pub(crate) fn for_router(self) -> router::ClientShutdown {
        match self {
            ClientShutdown::WhenUnused => router::ClientShutdown::WhenUnused,
            ClientShutdown::Always => router::ClientShutdown::Always,
            ClientShutdown::Never => router::ClientShutdown::Never,
        }
    }
}

/// Bounds, each with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of one message in either direction.
    pub(crate) max_message_bytes: usize,
    /// Bytes queued for a client that it may exceed only for [`Limits::client_queue_soft_time`].
    pub(crate) client_queue_soft_bytes: usize,
    /// How long a client's queue may stay above the soft limit.
    pub(crate) client_queue_soft_time: Duration,
    /// Bytes queued for a client that takes nothing, at which it is closed.
    pub(crate) client_queue_hard_bytes: usize,
    /// Bytes queued for a client that reads too slowly, at which it is closed.
    pub(crate) client_queue_max_bytes: usize,
    /// Clients connected at the same time.
    pub(crate) max_clients: usize,
    /// Requests of one client that wait for their turn to be forwarded.
    pub(crate) max_queued_requests_per_client: usize,
    /// Requests forwarded to the upstream and not answered yet.
    pub(crate) window: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_message_bytes: 128 << 20,
            client_queue_soft_bytes: 4 << 20,
            client_queue_soft_time: Duration::from_secs(30),
            client_queue_hard_bytes: 16 << 20,
            client_queue_max_bytes: 64 << 20,
            max_clients: 1024,
            max_queued_requests_per_client: 1024,
            window: 64,
        }
    }
}

impl Limits {
    /// Returns the bounds of the router.
    pub(crate) fn for_router(&self) -> router::Limits {
        router::Limits {
            client_queue_soft_bytes: self.client_queue_soft_bytes,
            client_queue_soft_ms: u64::try_from(self.client_queue_soft_time.as_millis()).unwrap_or(u64::MAX),
            client_queue_hard_bytes: self.client_queue_hard_bytes,
            client_queue_max_bytes: self.client_queue_max_bytes,
            queued_requests_per_client: self.max_queued_requests_per_client,
            window: self.window,
            ..router::Limits::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, value, least) in [
            ("max_message_bytes", self.max_message_bytes, 64 << 10),
            ("client_queue_soft_bytes", self.client_queue_soft_bytes, 1 << 10),
            ("max_clients", self.max_clients, 1),
            ("max_queued_requests_per_client", self.max_queued_requests_per_client, 1),
            ("window", self.window, 1),
        ] {
            if value < least {
                return Err(Error::config(format!("`limits.{name}` is {value} and must be {least} or more")));
            }
        }
        // The upstream's own queue holds 128; what goes beyond it is lost without an answer.
        if self.window > 100 {
            return Err(Error::config(format!("`limits.window` is {} and must be 100 or less", self.window)));
        }
        if self.client_queue_hard_bytes < self.client_queue_soft_bytes {
            return Err(Error::config(
                "`limits.client_queue_hard_bytes` is less than `limits.client_queue_soft_bytes`",
            ));
        }
        if self.client_queue_max_bytes < self.client_queue_hard_bytes {
            return Err(Error::config(
                "`limits.client_queue_max_bytes` is less than `limits.client_queue_hard_bytes`",
            ));
        }
        Ok(())
    }
}
