//! When a turn is over, and how: one rule for whoever waits for a turn.
//!
//! # The rule
//!
//! A turn is resolved by the first of these:
//!
//! 1. its own terminal event, `turn/completed` with its id;
//! 2. a quiet time after its final answer, while nothing is open that could still belong to it: then it is
//!    inferred to be complete. The final answer is an agent message of the turn's own thread with the phase
//!    `final_answer`; a plan, a commentary or a message without a phase never is. Open are a sub-agent's turn, a
//!    collaboration (a call to a sub-agent without a result), and a hook;
//! 3. the loss of the upstream: then it is inferred to be complete under the same condition, without the quiet
//!    time, else it has failed;
//! 4. the end of its thread, which the upstream sends to everyone.
//!
//! What comes after that is ignored.
//!
//! [`Capture`] is the rule for one turn, fed with what a client receives. The router, which sees the messages of
//! all threads, applies the same condition ([`Progress`], [`works_for`]) when the upstream is lost.

mod family;
mod outcome;
mod progress;
mod text;
mod tokens;
mod turn;

pub use family::{OpenTurn, root_turn, works_for};
pub use outcome::{KnownBy, Outcome};
pub use progress::Progress;
pub use tokens::{Meter, Tokens};
pub use turn::{Capture, Resolution, Watch};
