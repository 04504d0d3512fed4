//! A campaign of faults against real processes: what is promised, seen from outside.
//!
//! A run is a [`plan::Plan`] made from a seed: clients that work, and faults with their moments. It starts a real
//! daemon, injects faults, and then checks the accounting of each client ([`accounting::ClientAccounting`]), the exit
//! code, leftover processes and files, and whether the next daemon works.
//!
//! - Every request has one answer and every turn one end, or the connection ended after a shutdown notice.
//! - Deltas are numbered and carry a word of their turn: nothing is lost, doubled, out of order or strange.
//! - Clients that are not concerned go on.
//! - No process and no socket is left; the next daemon runs a turn.
//! - The exit code is the stated one.
//!
//! What it cannot see: what is promised only for the inside (locks, memory), and faults of the machine.

pub mod accounting;
mod after;
mod campaign;
mod director;
pub mod fault;
mod guest;
pub mod plan;
pub mod random;
mod run;
mod run_report;
mod shared;
mod table;
mod talk;
mod violation;
mod worker;

pub use self::campaign::Campaign;
pub use self::run::run;
pub use self::run_report::RunReport;
pub use self::table::Table;
pub use self::violation::{Violation, ViolationKind};
