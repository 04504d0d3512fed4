//! Processes that carry the token of a life, in whatever session or group: found in `/proc`, opened as a descriptor,
//! and signalled only through that.
//!
//! A process id alone may be another process's by the time a signal is sent. So a process is examined, opened
//! (`pidfd_open(2)`), and examined again: the second result is that of the opened process, or that process has ended
//! and a signal reaches none. Only processes of this user are examined. A process that has cleared or overwritten its
//! environment is not found.
//!
//! Only Linux shows environments in this way; elsewhere nothing is found here.

use std::time::Duration;

use crate::instance::life::Token;

#[cfg(target_os = "linux")]
pub(super) use linux::{Leftover, belonging, find, parent, processes};

/// How long what a killed daemon has left may take to end by itself once it was asked to. Codex ends its commands
/// then, and writes what it has to.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to die.
const DIES_WITHIN: Duration = Duration::from_secs(2);

/// Ends everything that carries one of these tokens: asks it to, and kills what does not go. Waits for that, for
/// four seconds at the most.
///
/// Returns how many are still there.
pub(crate) fn end(lives: &[Token]) -> usize {
    let first = find(lives);
    if first.is_empty() {
        return 0;
    }
    let pids: Vec<i32> = first.iter().map(Leftover::pid).collect();
    tracing::warn!(processes.pids = ?pids, "ending leftover processes of an earlier daemon");
    for process in &first {
        process.terminate();
    }
    wait_for(&first, ENDS_WITHIN);
    let killing = std::time::Instant::now();
    loop {
        // Not only those found first: one may have started another one meanwhile.
        let left = find(lives);
        if left.is_empty() || killing.elapsed() >= DIES_WITHIN {
            for process in &left {
                tracing::error!(
                    process.pid = process.pid(),
                    "a leftover process of an earlier daemon does not end"
                );
            }
            return left.len();
        }
        for process in &left {
            process.kill();
        }
        wait_for(&left, DIES_WITHIN.saturating_sub(killing.elapsed()));
    }
}

/// Returns the ids of the processes that carry one of these tokens, for people.
pub(crate) fn pids(lives: &[Token]) -> Vec<i32> {
    find(lives).iter().map(Leftover::pid).collect()
}

/// Waits until they have ended.
fn wait_for(processes: &[Leftover], patience: Duration) {
    let until = std::time::Instant::now() + patience;
    for process in processes {
        process.wait(until.saturating_duration_since(std::time::Instant::now()));
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::unistd::{Pid, geteuid, getpid};
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use crate::instance::life::{Belonging, Token};

    /// A process that carries a token, with a descriptor that keeps its id from being reused.
    #[derive(Debug)]
    pub(crate) struct Leftover {
        pid: Pid,
        handle: OwnedFd,
    }

    impl Leftover {
        /// Looks at a process, holds it, and looks again.
        fn of(pid: Pid, lives: &[Token]) -> Option<Leftover> {
            let carries = || matches!(belonging(pid), Some(Belonging::To(token)) if lives.contains(&token));
            if !carries() {
                return None;
            }
            let raw = rustix::process::Pid::from_raw(pid.as_raw())?;
            let handle = match pidfd_open(raw, PidfdFlags::empty()) {
                Ok(handle) => handle,
                // Gone by now.
                Err(rustix::io::Errno::SRCH) => return None,
                // Before Linux 5.3, or forbidden by a sandbox: nothing can be proved then.
                Err(error) => {
                    tracing::warn!(process.pid = pid.as_raw(), %error, "cannot open a process: it is not ended");
                    return None;
                }
            };
            carries().then_some(Leftover { pid, handle })
        }

        /// Returns its id, for people.
        pub(crate) fn pid(&self) -> i32 {
            self.pid.as_raw()
        }

        /// Returns whether it is a child of this process, which is waited for elsewhere.
        pub(crate) fn is_child(&self) -> bool {
            parent(self.pid) == Some(getpid())
        }

        /// Asks it to end; one that is stopped goes on for that.
        pub(super) fn terminate(&self) {
            self.signal(Signal::TERM);
            self.signal(Signal::CONT);
        }

        /// Kills it.
        pub(crate) fn kill(&self) {
            self.signal(Signal::KILL);
        }

        fn signal(&self, signal: Signal) {
            // One that has ended meanwhile needs none.
            let _ = pidfd_send_signal(&self.handle, signal);
        }

        /// Waits for its end.
        pub(super) fn wait(&self, patience: Duration) {
            let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    /// Finds and holds the processes of this user that carry one of these tokens, but this one and those from
    /// which it descends: who starts a daemon from within a command of an earlier one is at work there.
    pub(crate) fn find(lives: &[Token]) -> Vec<Leftover> {
        if lives.is_empty() {
            return Vec::new();
        }
        let above = ancestors();
        processes().filter(|pid| !above.contains(pid)).filter_map(|pid| Leftover::of(pid, lives)).collect()
    }

    /// This process, its parent, and so on.
    fn ancestors() -> Vec<Pid> {
        let mut above = vec![getpid()];
        // A chain that changes while it is followed must not be followed for ever.
        while let Some(next) = above.last().and_then(|pid| parent(*pid))
            && next.as_raw() > 0
            && !above.contains(&next)
        {
            above.push(next);
        }
        above
    }

    /// Returns the life that a process of this user belongs to, by its environment; `None` where it has no token, or
    /// cannot be asked.
    pub(crate) fn belonging(pid: Pid) -> Option<Belonging> {
        let path = format!("/proc/{pid}");
        if std::fs::metadata(&path).ok()?.uid() != geteuid().as_raw() {
            return None;
        }
        Token::in_environment(&std::fs::read(format!("{path}/environ")).ok()?)
    }

    /// Returns the parent of a process (`proc_pid_stat(5)`, field 4).
    pub(crate) fn parent(pid: Pid) -> Option<Pid> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program may contain anything; what counts comes after its last parenthesis.
        let after = stat.iter().rposition(|byte| *byte == b')')?;
        let field = std::str::from_utf8(&stat[after + 1..]).ok()?.split_ascii_whitespace().nth(1)?;
        field.parse().ok().map(Pid::from_raw)
    }

    /// Lists all processes.
    pub(crate) fn processes() -> impl Iterator<Item = Pid> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{Leftover, belonging, find};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::convert::Infallible;
    use std::time::Duration;

    use nix::unistd::Pid;

    use crate::instance::life::{Belonging, Token};

    /// A process that carries a token: none is found here.
    #[derive(Debug)]
    pub(crate) struct Leftover(Infallible);

    impl Leftover {
        pub(crate) fn pid(&self) -> i32 {
            match self.0 {}
        }

        pub(crate) fn is_child(&self) -> bool {
            match self.0 {}
        }

        pub(super) fn terminate(&self) {
            match self.0 {}
        }

        pub(crate) fn kill(&self) {
            match self.0 {}
        }

        pub(super) fn wait(&self, _patience: Duration) {
            match self.0 {}
        }
    }

    pub(crate) fn find(_lives: &[Token]) -> Vec<Leftover> {
        Vec::new()
    }

    pub(crate) fn belonging(_pid: Pid) -> Option<Belonging> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;
    use crate::instance::life::LIFE;

    fn sleeper(life: Option<Token>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("600").env_remove(LIFE);
        if let Some(life) = life {
            command.env(LIFE, life.to_string());
        }
        command.spawn().unwrap()
    }

    fn ended(mut child: Child) -> bool {
        let ended = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        child.wait().unwrap();
        ended
    }

    #[test]
    fn only_what_carries_the_token_is_ended_and_a_stopped_process_too() {
        let [ours, another] = [(); 2].map(|()| Token::random().unwrap());
        let [running, stopped] = [(); 2].map(|()| sleeper(Some(ours)));
        let [stranger, other] = [sleeper(None), sleeper(Some(another))];
        kill(Pid::from_raw(i32::try_from(stopped.id()).unwrap()), Signal::SIGSTOP).unwrap();
        assert_eq!(pids(&[ours]).len(), 2);
        // A zombie has no environment.
        assert_eq!(end(&[ours]), 0);
        assert_eq!((pids(&[ours]).len(), pids(&[another]).len()), (0, 1));
        assert_eq!([running, stopped, stranger, other].map(ended), [true, true, false, false]);
    }

    #[test]
    fn what_does_not_go_when_asked_is_killed() {
        let life = Token::random().unwrap();
        let mut command = Command::new("sh");
        // The token is visible as soon as the shell runs; the trap is set when the shell prints its line.
        command
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
            .env(LIFE, life.to_string());
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert_eq!(end(&[life]), 0);
        assert!(ended(child));
    }

    #[test]
    fn ancestors_of_this_process_are_left_alone() {
        // As if this process had been started by a command of that life: it and all above it carry the token.
        let life = Token::random().unwrap();
        let own = std::env::current_exe().unwrap();
        if std::env::var_os("CODEXD_TEST_BELOW").is_some() {
            let life = Token::try_from(std::env::var(LIFE).unwrap()).unwrap();
            assert_eq!(pids(&[life]), [0_i32; 0]);
            return;
        }
        let name = "serve::upstream::leftovers::tests::ancestors_of_this_process_are_left_alone";
        let script = format!("'{}' --exact {name} && echo unharmed", own.display());
        let output = Command::new("sh")
            .args(["-c", &script])
            .env(LIFE, life.to_string())
            .env("CODEXD_TEST_BELOW", "1")
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("unharmed\n"), "{output:?}");
    }
}
