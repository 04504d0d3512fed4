//! How many files the daemon may have open: one for each client.
//!
//! The limit that counts is the soft one, and it is often 1024 or, on macOS, 256: programs that use `select`
//! break above that, so it is raised by those who do not. Codex and what it runs get the old one back.

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

    #[test]
    fn raising_never_lowers() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let files = OpenFiles::raise();
        assert!(files.limit >= soft && files.limit <= hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (files.limit, hard));
    }
}
