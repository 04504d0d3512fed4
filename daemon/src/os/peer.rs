//! Who is at the other end of a Unix socket.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::geteuid;

/// The process at the other end, as it was when it connected or listened.
///
/// The process id is for people: with an inherited socket it is that of the service manager
/// (`unix(7)`, SO_PEERCRED), and it may have ended since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Process, where the system reports it and it is in our PID namespace.
    pub(crate) pid: Option<u32>,
}

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It is another user, and not root.
    #[error("user {uid} (process {}) is not allowed to connect", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    OtherUser {
        /// The user.
        uid: u32,
        /// The process.
        pid: Option<u32>,
    },
    /// The system does not report the peer.
    #[error("cannot identify the peer: {0}")]
    Unknown(Errno),
}

/// Returns the peer of a connected socket if it is this user or root.
///
/// # Errors
///
/// When it is another user, or the system does not report the peer.
pub(crate) fn check_peer(socket: impl AsFd) -> Result<Peer, PeerError> {
    let peer = credentials(&socket).map_err(PeerError::Unknown)?;
    if peer.uid == geteuid().as_raw() || peer.uid == 0 {
        Ok(peer)
    } else {
        Err(PeerError::OtherUser { uid: peer.uid, pid: peer.pid })
    }
}

#[cfg(target_os = "linux")]
fn credentials(socket: &impl AsFd) -> Result<Peer, Errno> {
    let credentials = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Peer {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0),
    })
}

#[cfg(not(target_os = "linux"))]
fn credentials(socket: &impl AsFd) -> Result<Peer, Errno> {
    let (uid, gid) = nix::unistd::getpeereid(socket)?;
    Ok(Peer { uid: uid.as_raw(), gid: gid.as_raw(), pid: peer_pid(socket) })
}

#[cfg(target_vendor = "apple")]
fn peer_pid(socket: &impl AsFd) -> Option<u32> {
    let pid = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::LocalPeerPid).ok()?;
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn peer_pid(_socket: &impl AsFd) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_let_in() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = check_peer(&a).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        assert_eq!(peer.pid, Some(std::process::id()));
    }
}
