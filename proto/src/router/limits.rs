//! Limits, as values with units.

/// Limits that protect the upstream from clients, and clients from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message of a client. The shell drops a longer one. A message of the upstream can be twice as
    /// long, since it can contain one of a client.
    pub max_message_bytes: usize,
    /// Clients that can be connected at the same time.
    pub max_clients: usize,
    /// Bytes that can be queued for a client for [`client_queue_soft_ms`](Self::client_queue_soft_ms).
    pub client_queue_soft_bytes: usize,
    /// Milliseconds for which a client can be above the soft limit before it is closed.
    pub client_queue_soft_ms: u64,
    /// Bytes that can be queued for a client that has read nothing for
    /// [`client_queue_stall_ms`](Self::client_queue_stall_ms). A client above that is closed.
    ///
    /// A message of any size is queued: what counts is the queue before it, less twice the longest message in it.
    pub client_queue_hard_bytes: usize,
    /// Milliseconds without reading after which a client is stalled.
    pub client_queue_stall_ms: u64,
    /// Bytes that can be queued for a client that reads, but too slowly. A client above that is closed at once.
    pub client_queue_max_bytes: usize,
    /// Requests of one client that can wait for a slot. Further ones are refused with -32001.
    pub queued_requests_per_client: usize,
    /// Bytes of these requests. Further ones are refused with -32001. The first request can be longer.
    pub queued_request_bytes_per_client: usize,
    /// Commands, processes, watches and event streams that one client can have open. A request that opens one more
    /// is refused with -32001.
    pub resources_per_client: usize,
    /// Bytes of their ids. A request that exceeds them is refused with -32001.
    pub resource_id_bytes_per_client: usize,
    /// Slots of the in-flight window: requests that are unanswered, without slow ones that the upstream has consumed.
    ///
    /// The upstream loses requests above 128 (measured), so this stays well below.
    pub window: usize,
    /// Milliseconds after which an unanswered request counts as slow.
    pub window_release_ms: u64,
    /// Milliseconds without an answer to a short request after which there is a warning.
    pub unanswered_warning_ms: u64,
    /// Milliseconds without a message about a running turn after which there is a warning; `None`: never.
    pub silent_turn_warning_ms: Option<u64>,
    /// Milliseconds without a message about a running turn after which it is interrupted; `None`: never.
    pub silent_turn_interrupt_ms: Option<u64>,
    /// Milliseconds for which messages of an unknown thread are deferred.
    pub deferral_ms: u64,
    /// Milliseconds between the departure of a turn's last subscriber and the interrupt, if the turn is to be
    /// interrupted.
    pub orphaned_turn_grace_ms: u64,
    /// Bytes of a client's lines that are kept until the upstream is ready.
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
            remembered_threads: 1024,
        }
    }
}
