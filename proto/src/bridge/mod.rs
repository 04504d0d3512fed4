//! What `codexd connect` keeps of its client, adds to what the client says, and does when the daemon is lost.
//!
//! # Theory of operation
//!
//! [`ConnectionState`] stands between one client and a row of daemons. Lines go in on both sides, bytes come out on both
//! sides; the shell moves them and says when a daemon is connected or lost. Nothing here waits.
//!
//! While a daemon serves, everything is passed on, and what would be lost with the daemon is noted: requests without an
//! answer ([`requests`]), subscriptions and open turns ([`threads`]), server requests ([`server_requests`]), processes and
//! watches ([`resources`]).
//!
//! When the daemon is lost, the client gets what the daemon could not say any more (a daemon that outlives its codex has
//! said it already; then nothing is open here): the answer to each request that may have been carried out, the resolution
//! of each server request, the end of each process and turn. What is known not to have been carried out, and what only
//! reads, is sent to the next daemon instead. The handshake is repeated there, and its answer is not for the client.
//!
//! A thread that was subscribed to is lost then. It is resumed when its client sends a request about it, which waits for
//! that, or when its status changes because another client has resumed it. Where something is to go on by itself, it is
//! resumed at once: an active goal, or what waited in the queue for the turn that was cut off. Since that turn may be what
//! codex died of, this is done again only when a turn has ended since, or when the client has asked for the thread. The
//! resume gives the [`config`] again with which the client had opened the thread.
//!
//! After a turn that was cut off, codex runs its queue by itself if it was killed, and not if its input ended (measured with
//! 0.169). So the bridge starts the queue: codex refuses that if it is empty or if something runs, and it takes a prompt out
//! of the queue when it starts, so none runs twice.
//!
//! A `turn/start` that may have been carried out is decided by looking: if the thread's history has a turn with its
//! `clientUserMessageId`, that turn is the answer, else it is sent once more.
//!
//! Server requests of later daemons get other ids for the client: each codex counts its own from 0, and an answer must not
//! reach another request than the one it was meant for.

mod config;
mod cwd;
mod handshake;
mod head;
mod member;
mod orphaned_turns;
mod own;
mod queue;
mod requests;
mod resources;
mod server_requests;
mod state;
mod threads;

pub use state::{ConnectionState, Delivery, LineKind};
