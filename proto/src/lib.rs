//! The decisions of `codexd` as values: no runtime, lock, clock, thread or environment.
//!
//! * [`mod@core`]: all of it together, the only interface of the daemon's shell and of the simulation.
//! * [`router`]: whose message goes where. Lines in, bytes per peer out.
//! * [`lifecycle`]: in which state the daemon is and what it exits with. Events in, effects out.
//! * [`routes`]: what is known of every method of the upstream, as data.
//! * [`message`], [`frame`], [`json`]: lines, messages and spans, without building a tree.
//! * [`capture`]: when a turn is over, and how.
//! * [`status`], [`control`], [`exit`]: what is reported to people and supervisors.
//! * [`feed`], [`flood`]: what is shown while it happens, and how much of it.
//! * [`stderr`], [`secrets`]: the upstream's own output, without secrets.
//! * [`thread_book`]: the permissions of threads, across lives of codex.
//! * [`bridge`]: what `codexd connect` keeps of its client.
//! * [`codex_args`]: what arguments of `codex app-server` mean for a daemon that several clients share.
//! * [`start_back_off`]: whether a daemon that keeps failing is started again.
//! * [`web_page`]: whether a request comes from a browser.
//!
//! Time is an argument ([`time::Time`]); the shell, the package `codexd`, does the I/O. `docs/architecture.md` shows
//! how the two fit together.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod capture;
pub mod codex_args;
pub mod control;
pub mod core;
pub mod exit;
pub mod feed;
pub mod flood;
pub mod frame;
pub mod hash;
pub mod health;
pub mod id;
pub mod json;
pub mod lifecycle;
pub mod listing;
pub mod message;
pub mod rate_limit;
pub mod router;
pub mod routes;
pub mod secrets;
pub mod start_back_off;
pub mod statistics;
pub mod status;
pub mod stderr;
pub mod thread_book;
pub mod time;
pub mod web_page;
