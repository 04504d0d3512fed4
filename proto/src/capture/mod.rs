//! When a turn has ended, and how: one rule for everything that waits for a turn.
//!
//! # The rule
//!
//! A turn is resolved by the first of these:
//!
//! 1. Its terminal event, `turn/completed` with its id.
//! 2. A quiet time after its final answer, while nothing is open that could belong to it. Then it is inferred to be
//!    complete. The final answer is an agent message of the turn's own thread with the phase `final_answer`; a plan, a
//!    commentary or a message without a phase never is. What can be open: a sub-agent's turn, a collaboration (a call
//!    to a sub-agent without a result), and a hook.
//! 3. The loss of the upstream. Then it is inferred to be complete under the same condition, without the quiet time;
//!    otherwise it has failed.
//! 4. The end of its thread, which the upstream reports to all clients.
//!
//! Later messages are ignored.
//!
//! [`Capture`] applies the rule to one turn, from what a client receives. The router, which gets the messages of all
//! threads, applies the same condition ([`Progress`], [`works_for`]) when the upstream is lost.

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
