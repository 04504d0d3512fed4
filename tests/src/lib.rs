//! Harness for the end-to-end tests of codexd.
//!
//! A test states what it needs in a few lines and gets real processes on real sockets:
//!
//! - [`daemon::TestDaemon`]: a `codexd` in a temporary world, on the stand-in for codex or on the real
//!   one with a scripted model; at its end nothing may be left of it.
//! - [`client::TestClient`]: a client, on a socket or on the pipes of a program.
//! - [`output::Output`]: a run of a program to its end.
//! - [`model::MockModel`]: the scripted model; [`marker`] is how prompts steer it.
//! - [`codex::Codex`]: the pinned real codex; [`native::NativeListener`]: its own listener.
//! - [`clients`]: pinned clients that others wrote.
//! - [`chaos`]: a campaign of faults against all of it.
//! - [`lab::Lab`]: a real systemd with a user manager.
//!
//! Functions of the harness panic with what was expected and what was there instead: a test has no use
//! for an error it could only unwrap.
#![forbid(unsafe_code)]

pub mod binary;
pub mod chaos;
pub mod client;
pub mod clients;
pub mod codex;
pub mod daemon;
pub mod environment;
pub mod fetch;
pub mod home;
pub mod lab;
pub mod marker;
pub mod model;
pub mod native;
pub mod notify;
pub mod output;
pub mod place;
pub mod process;
pub mod pty;
pub mod skip;
pub mod terminal;
pub mod wait;
pub mod websocket;
