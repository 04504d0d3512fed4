//! A codexd that was started as codex, by codexd itself: it would be its own client, for ever.
//!
//! [`locate`](super::locate) passes over what is codexd, but not a script that runs it, nor a script that runs a
//! script. So codexd puts its own identity into the environment of everything that it runs as codex ([`life`]), and a
//! codexd that finds that in its environment asks that daemon: it is the stand-in for codex if the daemon still waits
//! for the handshake, or, where codex was run without a daemon, if its process is the very one that was run or a
//! child of that. Commands of a real codex may use codexd as anybody else.
//!
//! Where neither shows it, for instance because a script hides it in another instance, counting ends the chain.

use std::time::Duration;

use codexd_proto::exit::ExitCode;
use codexd_proto::status::DaemonState;

use super::locate::name_another;
use crate::control::client::ask_status;
use crate::error::Error;
use crate::instance::life::{self, Parent, Purpose};
use crate::settings::environment::Environment;

/// Runs of codex by codexd inside of each other from which on one counts as the next link of a chain that does not
/// end. A person who works in a terminal inside of codex inside of a terminal inside of codex is far from it.
const MAX_DEPTH: u32 = 16;

/// How long the daemon that may have started this process has to confirm it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Refuses to be codex.
///
/// # Errors
///
/// With exit code 69 when codexd has started this process as codex; the hint names the setting for the real one.
pub(crate) fn refuse(environment: &Environment) -> Result<(), Error> {
    refuse_chain(environment)?;
    match Parent::of(environment) {
        Some(parent) if is_stand_in(&parent) => Err(name_another(format!(
            "codexd was started as codex by codexd itself (process {}), and would be its own client",
            parent.pid
        ))),
        _ => Ok(()),
    }
}

/// Returns whether this process runs in place of the codex that `parent` has started.
fn is_stand_in(parent: &Parent) -> bool {
    match &parent.purpose {
        // Adopted by the daemon, a command of codex can be its child: only the handshake shows which.
        Purpose::Daemon(control_socket) => ask_status(control_socket, ANSWER_WITHIN).is_ok_and(|daemon| {
            daemon.pid == parent.pid
                && matches!(daemon.state, DaemonState::Starting | DaemonState::Handshaking)
        }),
        // A process that is run in the place of another keeps its number, and a script may wait for what it runs.
        Purpose::Client => [std::process::id(), std::os::unix::process::parent_id()].contains(&parent.pid),
        // That one asks codex for its handshake and for nothing that would need a command.
        Purpose::Trial => true,
    }
}

/// Refuses to be one more link of a chain of programs that run each other.
///
/// # Errors
///
/// With exit code 69.
pub(crate) fn refuse_chain(environment: &Environment) -> Result<(), Error> {
    let depth = life::depth(environment);
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(name_another(format!(
        "codexd and codex have run each other {depth} times; the program called codex seems to lead back to codexd"
    )))
}

/// The exit code with which a codexd refuses to be codex, as the daemon sees its codex end.
pub(crate) fn refusal() -> i32 {
    i32::from(ExitCode::Unavailable.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_was_run_as_codex_refuses_and_its_commands_do_not() {
        let parent = |pid: u32, purpose: &str| {
            refuse(&Environment::of([(life::PARENT, &format!("{pid} {purpose}")), (life::DEPTH, "1")]))
        };
        let error = parent(std::process::id(), "client").unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Unavailable);
        for way_out in ["codex = ", "CODEXD_CODEX"] {
            assert!(error.next_step().unwrap().contains(way_out));
        }
        parent(std::os::unix::process::parent_id(), "client").unwrap_err();
        parent(1, "client").unwrap();
        parent(1, "trial").unwrap_err();
        // The daemon that ran it is gone.
        parent(std::process::id(), "/nowhere/c").unwrap();
        refuse(&Environment::default()).unwrap();
    }

    #[test]
    fn a_chain_ends() {
        let at = |depth: u32| Environment::of([(life::DEPTH, &depth.to_string())]);
        refuse(&at(MAX_DEPTH - 1)).unwrap();
        assert_eq!(refuse(&at(MAX_DEPTH)).unwrap_err().exit_code(), ExitCode::Unavailable);
    }
}
