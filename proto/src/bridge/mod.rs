//! What `codexd connect` keeps of its client, and adds to what the client says.

mod cwd;
mod member;
mod orphaned_turns;
mod state;

pub use state::{ConnectionState, LineKind, Outgoing, Verdict};
