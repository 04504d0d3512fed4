//! One turn, run as a client of the data plane: for `codexd run`, and for the jobs of the daemon.
//!
//! # Theory of operation
//!
//! The caller provides a connection to a daemon and a [`TurnRequest`]. [`run()`] initializes the client, starts or
//! resumes the thread, starts the turn and waits for its end by the rule of `codexd_proto::capture`. The events of
//! the turn go to a [`Watcher`]. [`Order`]s (an interrupt, the answer to an approval) come from the caller.

mod approval;
mod event;
mod link;
mod request;
mod run;
mod words;

pub(crate) use approval::{Approval, Decision};
pub(crate) use event::{Event, Stop, Watcher};
pub(crate) use request::{ApprovalMode, Review, Sandbox, TurnRequest};
pub(crate) use run::{Bounds, Failure, Finished, Introduction, Order, run};
pub(crate) use words::{of as words_of, plain};
