//! Leftover processes of the upstream: commands that run in sessions of their own.
//!
//! Neither the upstream's process group nor its parent-death signal reaches them. On Linux this
//! process adopts them (`PR_SET_CHILD_SUBREAPER`, `prctl(2)`), so that they can be found among its
//! children once their parent is gone, and ended. Elsewhere nothing is found here.
//!
//! Not every child is codex's: a shell may have started others before it became codexd by `exec`, and these may
//! leave children of their own. Those of codex have the [token](crate::instance::life) of this life in their
//! environment. A child without any token belongs to codex if this process had no other children when it began.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use parking_lot::Mutex;

use super::leftovers;
use crate::control::candidate;
use crate::instance::life::{Belonging, Token};

/// How long the last of what is left may take to die, and how often it is looked for.
const REST_WITHIN: Duration = Duration::from_secs(2);
const REST_EVERY: Duration = Duration::from_millis(5);

/// What is known of the children of this process, of which there is one set as there is one process.
static OURS: OnceLock<Ours> = OnceLock::new();

/// Children that are waited for where they were started, so [`reap_ended`] leaves them.
static HELPERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A child that does something for this daemon, and is no codex. It can be waited for although orphans are reaped.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
}

impl Helper {
    /// Starts a child.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(crate) fn start(command: &mut Command) -> io::Result<Helper> {
        // Locked until it is listed: it can end before that.
        let mut helpers = HELPERS.lock();
        let child = command.spawn()?;
        helpers.push(pid(&child));
        Ok(Helper { child })
    }
}

impl candidate::Helper for Helper {
    fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// What still runs is killed.
impl Drop for Helper {
    fn drop(&mut self) {
        // One that was waited for before is not signalled.
        let _ = self.child.kill();
        let _ = self.child.wait();
        HELPERS.lock().retain(|helper| *helper != pid(&self.child));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Distinguishes children of codex from others.
#[derive(Clone, Copy, Debug)]
struct Ours {
    life: Token,
    /// There were children before codex was started.
    strangers: bool,
}

/// Makes this process adopt the orphans of its children; `life` is the token that codex will carry.
///
/// To be called once, before codex is started.
pub(crate) fn adopt_orphans(life: Token) {
    // Those that have ended are reaped.
    reap_ended(None);
    let strangers = !children().is_empty();
    let _ = OURS.set(Ours { life, strangers });
    if strangers {
        tracing::info!("this process has children that are not codex's: they will be left alone");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "cannot adopt orphans: commands of a killed codex may go on running");
    }
}

/// Kills the children of this process that descend from codex, but `except`, and takes in those that have ended.
///
/// Returns how many are still there. What a killed one had started itself is adopted then and found
/// by the next call. A process id is safe to use here: a child keeps it until it was waited for,
/// and only this function waits for adopted ones.
pub(crate) fn sweep(except: Option<u32>) -> usize {
    let Some(ours) = OURS.get() else { return 0 };
    let mut left = 0;
    let helpers = HELPERS.lock().clone();
    for child in children() {
        let ended = || !helpers.contains(&child) && reap(child);
        if Some(child.as_raw().unsigned_abs()) == except || ended() || !ours.includes(child) {
            continue;
        }
        tracing::info!(process.pid = child.as_raw(), "killing a leftover process of codex app-server");
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        left += 1;
    }
    left
}

/// Kills the processes that carry the token of this life and were adopted by another process. Returns how many there
/// are.
fn sweep_elsewhere() -> usize {
    let Some(ours) = OURS.get() else { return 0 };
    let mut leftovers = leftovers::find(&[ours.life]);
    leftovers.retain(|process| !process.is_child());
    for process in &leftovers {
        tracing::info!(
            process.pid = process.pid(),
            "killing a leftover process of codex app-server that another process adopted"
        );
        process.kill();
    }
    leftovers.len()
}

/// Kills what is left when nothing is started any more, however the life has ended, and waits for it. Returns whether
/// nothing is left.
pub(crate) fn rest() -> bool {
    let began = Instant::now();
    while sweep(None) + sweep_elsewhere() > 0 {
        if began.elapsed() >= REST_WITHIN {
            return false;
        }
        std::thread::park_timeout(REST_EVERY);
    }
    true
}

/// Takes in adopted children that have ended by themselves, and no [`Helper`].
pub(crate) fn reap_ended(except: Option<u32>) {
    let helpers = HELPERS.lock();
    for child in children() {
        if Some(child.as_raw().unsigned_abs()) != except && !helpers.contains(&child) {
            reap(child);
        }
    }
}

impl Ours {
    /// Returns whether a child of this process descends from codex.
    fn includes(self, child: Pid) -> bool {
        match leftovers::belonging(child) {
            Some(belonging) => belonging == Belonging::To(self.life),
            None => !self.strangers,
        }
    }
}

/// Takes the child in if it has ended; returns whether it has.
fn reap(child: Pid) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    !matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

/// Lists the children of this process (`proc_pid_stat(5)`, field 4).
#[cfg(target_os = "linux")]
fn children() -> Vec<Pid> {
    let own = nix::unistd::getpid();
    leftovers::processes().filter(|pid| leftovers::parent(*pid) == Some(own)).collect()
}

#[cfg(not(target_os = "linux"))]
fn children() -> Vec<Pid> {
    Vec::new()
}
