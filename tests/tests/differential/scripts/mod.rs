//! The scripts, by subject.

mod approvals;
mod turns;
