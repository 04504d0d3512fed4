//! Limits, as values with units.

/// Limits that protect the upstream from clients, and clients from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message of a client. The shell cuts what exceeds it; the upstream may write twice as
    /// much, since it may wrap what it got into something longer.
    pub max_message_bytes: usize,
    /// Clients that may be connected at the same time.
    pub max_clients: usize,
    /// Bytes that may wait for a client for [`client_queue_soft_ms`](Self::client_queue_soft_ms).
    pub client_queue_soft_bytes: usize,
    /// Milliseconds that a client may stay above the soft limit before it is closed.
    pub client_queue_soft_ms: u64,
    /// Bytes that may wait for a client that takes nothing for
    /// [`client_queue_stall_ms`](Self::client_queue_stall_ms); above, it is closed.
    ///
    /// A message of any size is always taken: only what waited before it counts, and of that not
    /// twice the longest message.
    pub client_queue_hard_bytes: usize,
    /// Milliseconds without taking anything after which a client is stalled and not only slow.
    pub client_queue_stall_ms: u64,
    /// Bytes that may wait for a client that reads, only not fast enough; above, it is closed at once.
    pub client_queue_max_bytes: usize,
    /// Requests of one client that may wait for their turn; above, they are refused with -32001.
    pub queued_requests_per_client: usize,
    /// Bytes of these requests; above, they are refused as well. The first one may be longer.
    pub queued_request_bytes_per_client: usize,
    /// Commands, processes, watches and event streams that one client may have open; above, it can open no more and
    /// gets -32001.
    pub resources_per_client: usize,
    /// Bytes of their ids; above, the same.
    pub resource_id_bytes_per_client: usize,
    /// Requests that the upstream may have unanswered, without those that take long and that it is
    /// known to have taken.
    ///
    /// The upstream loses requests past 128 (measured), so this stays well below.
    pub window: usize,
    /// Milliseconds after which an unanswered request counts as one that takes long.
    pub window_release_ms: u64,
    /// Milliseconds after which an unanswered request that does not take long is worth a warning.
    pub unanswered_warning_ms: u64,
    /// Milliseconds without a message about a running turn that are worth a warning; `None` never.
    pub silent_turn_warning_ms: Option<u64>,
    /// Milliseconds without a message about a running turn after which it is interrupted; `None` never.
    pub silent_turn_interrupt_ms: Option<u64>,
    /// Milliseconds that messages of an unknown thread wait for the response that explains them.
    pub deferral_ms: u64,
    /// Milliseconds that a turn without subscribers goes on before it is interrupted, where it is to be.
    pub orphaned_turn_grace_ms: u64,
    /// Bytes of a client's lines that are kept while the upstream is still starting.
    pub early_bytes: usize,
    /// Threads without subscribers that are remembered.
    pub remembered_threads: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_message_bytes: 128 << 20,
            max_clients: 1024,
            client_queue_soft_bytes: 4 << 20,
            client_queue_soft_ms: 30_000,
            client_queue_hard_bytes: 16 << 20,
            client_queue_stall_ms: 250,
            client_queue_max_bytes: 64 << 20,
            queued_requests_per_client: 1024,
            queued_request_bytes_per_client: 64 << 20,
            resources_per_client: 16_384,
            resource_id_bytes_per_client: 16 << 20,
            window: 64,
            window_release_ms: 2_000,
            unanswered_warning_ms: 60_000,
            silent_turn_warning_ms: Some(300_000),
            silent_turn_interrupt_ms: None,
            deferral_ms: 10_000,
            orphaned_turn_grace_ms: 5_000,
            early_bytes: 1 << 20,
            remembered_threads: 4096,
        }
    }
}
