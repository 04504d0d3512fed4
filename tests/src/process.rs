//! The processes of a test, recognized by their environment.
//!
//! Everything a test starts has the unique path of its [`Home`](crate::home::Home) in its
//! environment, and so has whatever those start: a process that still carries it after the end is
//! left over, however it detached itself. Of each other process nothing is assumed and nothing done.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// A process found in the system's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its command line, for people.
    pub command: String,
}

/// Returns the processes with `mark` in their environment, without this one.
///
/// A process that has ended and waits to be collected is not among them: it has no environment any
/// more.
pub fn marked(mark: &Path) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mark = mark.as_os_str().as_encoded_bytes();
    table()
        .into_iter()
        .filter(|(process, environment)| process.pid != own && contains(environment, mark))
        .map(|(process, _)| process)
        .collect()
}

/// Waits until a killed process has let go of everything: its sockets, pipes and locks.
///
/// A dying process loses its memory, and with it the environment by which [`marked`] knows it, before it closes its
/// files: until then what is written to its sockets is accepted, and its locks are held.
///
/// # Panics
///
/// When that takes longer than [`wait::until`] waits.
#[track_caller]
pub fn wait_dead(pid: i32) {
    wait::until("the process is dead", || is_dead(pid));
}

/// Files are closed before a process becomes a zombie, but each thread ends by itself and the last one
/// closes them: fields 3 and 20 of proc_pid_stat(5).
#[cfg(target_os = "linux")]
fn is_dead(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name before the last parenthesis may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let state = fields.next();
    let threads = fields.nth(16).and_then(|number| number.parse::<u32>().ok());
    matches!(state, Some("Z" | "X")) && threads.is_some_and(|number| number <= 1)
}

#[cfg(not(target_os = "linux"))]
fn is_dead(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_err()
}

/// Waits until no process with `mark` is left and returns those that stay, after killing them.
pub fn sweep(mark: &Path, patience: Duration) -> Vec<Process> {
    let gone = wait::poll(patience, || marked(mark).is_empty().then_some(()));
    if gone.is_some() {
        return Vec::new();
    }
    let left = marked(mark);
    for process in &left {
        // Looked at once more, so that the time in which the number could pass to another is tiny.
        if marked(mark).contains(process) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
    left
}

/// Checks that no process with `mark` is left; what ends within a second is not.
///
/// # Panics
///
/// With the command lines of those that are left; they are killed before.
#[track_caller]
pub fn assert_no_process_left(mark: &Path) {
    let left = sweep(mark, ENDING);
    assert!(left.is_empty(), "left behind, and killed now: {left:#?}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Returns the processes whose environment can be read: one's own.
#[cfg(target_os = "linux")]
fn table() -> Vec<(Process, Vec<u8>)> {
    let Ok(directory) = std::fs::read_dir("/proc") else { return Vec::new() };
    directory
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // `environ` is the environment at the time of exec, see proc_pid_environ(5).
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
            Some((Process { pid, command }, environment))
        })
        .collect()
}

/// Returns the processes whose environment can be read: one's own, see `-E` of ps(1).
#[cfg(not(target_os = "linux"))]
fn table() -> Vec<(Process, Vec<u8>)> {
    let Ok(output) = std::process::Command::new("ps").args(["-E", "-ww", "-Ao", "pid=,command="]).output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (pid, rest) = line.trim_start().split_once(' ')?;
            let command = rest.chars().take(200).collect();
            Some((Process { pid: pid.parse().ok()?, command }, rest.as_bytes().to_vec()))
        })
        .collect()
}

/// Time a process gets for the last steps of its end.
const ENDING: Duration = Duration::from_secs(1);

/// Whether every thread of a process is stopped by a signal, or the process is gone. True where there is no `/proc`.
pub fn is_stopped(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        // The state follows the name, which can hold anything (`proc(5)`).
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_environment_and_a_left_one_is_killed() {
        let home = crate::home::Home::new().unwrap();
        let mut child = home.command(Path::new("sleep")).arg("600").spawn().unwrap();
        let other = Command::new("true").spawn().unwrap().wait().unwrap();
        assert!(other.success());
        let pid = i32::try_from(child.id()).unwrap();
        // Between fork and exec the child still has the environment of this process.
        wait::until("the child is found", || marked(home.root()).iter().any(|process| process.pid == pid));
        let left = sweep(home.root(), Duration::ZERO);
        assert_eq!(left, [Process { pid, command: "sleep 600".to_owned() }]);
        assert!(!child.wait().unwrap().success());
        assert_no_process_left(home.root());
    }
}
