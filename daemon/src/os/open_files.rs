//! How many files the daemon may have open: one for each client.
//!
//! The limit that counts is the soft one, and it is often 1024 or, on macOS, 256: programs that use `select`
//! break above that, so it is raised by those who do not. Codex and what it runs get the old one back.

#[cfg(target_os = "linux")]
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Connections above the number of clients that get a response at the same time.
pub(crate) const EXCESS_CONNECTIONS: usize = 16;

/// Descriptors beside those of clients: sockets, pipes, locks and the log (24), connections above the number of clients
/// (16), and control connections without (32) and with (96) a subscription, so that `codexd ctl` can connect when no
/// client can.
pub(crate) const BESIDE_CLIENTS: u64 = 192;

/// The highest limit that macOS takes where the hard one is infinite (`setrlimit(2)` there, `OPEN_MAX`).
const OPEN_MAX: rlim_t = 10_240;

/// The limits on open files (`RLIMIT_NOFILE`, `getrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// What this process was started with: soft and hard, for those it starts.
    pub(crate) given: Option<(rlim_t, rlim_t)>,
    /// The soft limit in force.
    pub(crate) limit: u64,
}

impl OpenFiles {
    /// Raises the soft limit of this process to the hard one, as far as the system allows it.
    pub(crate) fn raise() -> OpenFiles {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            // No supported system does that; a limit that cannot be read is not reported as a problem.
            return OpenFiles { given: None, limit: u64::MAX };
        };
        let raised = [hard, hard.min(OPEN_MAX)]
            .into_iter()
            .find(|limit| *limit > soft && setrlimit(Resource::RLIMIT_NOFILE, *limit, hard).is_ok());
        OpenFiles { given: Some((soft, hard)), limit: raised.unwrap_or(soft) }
    }

    /// Makes the system's table of this process's descriptors as long as so many clients need, where that can be done. To be
    /// called before there is a second thread: Linux makes it twice as long whenever it is full, and in a process with several
    /// threads, it waits for all processors each time (10 ms, measured; `expand_fdtable` in its `fs/file.c`). Takes 8 bytes
    /// for each descriptor.
    pub(crate) fn make_room(self, clients: usize) {
        #[cfg(target_os = "linux")]
        {
            let needed = (clients as u64).saturating_add(BESIDE_CLIENTS).min(self.limit);
            if let Some(last) = needed.checked_sub(1).and_then(|last| i32::try_from(last).ok())
                && let Ok(duplicate) = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(last))
            {
                let _ = nix::unistd::close(duplicate);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = clients;
    }

    /// Returns how many clients there are files for; under a very low limit, half of it is theirs.
    pub(crate) fn clients(self) -> usize {
        let clients = self.limit.saturating_sub(BESIDE_CLIENTS).max(self.limit / 2);
        usize::try_from(clients).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left() {
        let clients = |limit| OpenFiles { given: None, limit }.clients();
        assert_eq!(clients(8192), 8000);
        assert_eq!(clients(1024), 832);
        assert_eq!(clients(128), 64);
        assert_eq!(clients(48), 24);
        assert_eq!(clients(u64::MAX), usize::MAX - 192);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_room_for_the_descriptors_of_clients() {
        let room = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse().unwrap()
        };
        let files = OpenFiles::raise();
        let clients = usize::try_from(room()).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        files.make_room(clients);
        assert!(room() >= files.limit.min(clients as u64 + BESIDE_CLIENTS), "{} for {clients}", room());
        // Other tests open and close files meanwhile; the last one is none of theirs.
        assert!(open() < clients);
    }

    #[test]
    fn raising_never_lowers() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let files = OpenFiles::raise();
        assert!(files.limit >= soft && files.limit <= hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (files.limit, hard));
    }
}
