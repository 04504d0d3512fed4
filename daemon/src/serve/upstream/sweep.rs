//! What the upstream leaves behind: commands that run in sessions of their own.
//!
//! Neither the upstream's process group nor its parent-death signal reaches them. On Linux this
//! process adopts them (`PR_SET_CHILD_SUBREAPER`, `prctl(2)`), so that they can be found among its
//! children once their parent is gone, and ended. Elsewhere nothing is found here.

use nix::unistd::Pid;

/// Makes this process the one that adopts what its children leave behind.
pub(crate) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "cannot adopt orphans: commands of a killed codex may go on running");
    }
}

/// Kills every child of this process but `except`, and takes in those that have ended.
///
/// Returns how many are still there. What a killed one had started itself is adopted then and found
/// by the next call. A process id is safe to use here: a child keeps it until it was waited for,
/// and only this function waits for adopted ones.
pub(crate) fn sweep(except: Option<u32>) -> usize {
    let mut left = 0;
    for child in children() {
        if Some(child.as_raw().unsigned_abs()) == except {
            continue;
        }
        if !reap(child) {
            tracing::info!(process.pid = child.as_raw(), "killing what codex app-server left behind");
            let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
            left += 1;
        }
    }
    left
}

/// Takes in adopted children that have ended by themselves.
pub(crate) fn reap_ended(except: Option<u32>) {
    for child in children() {
        if Some(child.as_raw().unsigned_abs()) != except {
            reap(child);
        }
    }
}

/// Tells whether the child has ended, and takes it in.
fn reap(child: Pid) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    !matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

/// Lists the children of this process (`proc_pid_stat(5)`, field 4).
#[cfg(target_os = "linux")]
fn children() -> Vec<Pid> {
    let own = nix::unistd::getpid().as_raw().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name of the program may contain anything; what counts comes after its last parenthesis.
            let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
            (parent == own).then(|| Pid::from_raw(pid))
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn children() -> Vec<Pid> {
    Vec::new()
}
