//! Named situations against the real router, with an upstream and clients made of lines.
#![allow(clippy::unwrap_used)]

mod activity;
mod approvals;
mod broker;
mod catalog;
mod draining;
mod handshake;
mod listing;
mod loss;
mod net;
mod open_items;
mod operator;
mod orphans;
mod pacing;
mod restoration;
mod retry;
mod scoped;
mod silent_turns;
mod slow;
mod subscriptions;
mod unanswered;
mod upgrade;
mod warnings;
mod wire;
