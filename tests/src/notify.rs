//! The service manager's end of `sd_notify(3)`: a datagram socket that records what arrives.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A notify socket. It ends with its directory.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    messages: Mutex<Vec<Notification>>,
    arrived: Condvar,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// When it arrived.
    pub at: Instant,
    /// Its assignments, for instance `READY=1`.
    pub lines: Vec<String>,
}

impl NotifySocket {
    /// Opens the socket at `path`, which becomes `NOTIFY_SOCKET`.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub fn open(path: &Path) -> io::Result<NotifySocket> {
        let socket = UnixDatagram::bind(path)?;
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        let receive = move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text == CLOSE {
                    return;
                }
                let lines = text.lines().map(str::to_owned).collect();
                sink.messages.lock().push(Notification { at: Instant::now(), lines });
                sink.arrived.notify_all();
            }
        };
        std::thread::Builder::new().name("notify".to_owned()).spawn(receive)?;
        Ok(NotifySocket { path: path.to_owned(), shared })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what has arrived so far.
    pub fn messages(&self) -> Vec<Notification> {
        self.shared.messages.lock().clone()
    }

    /// Returns all assignments so far, in order.
    pub fn lines(&self) -> Vec<String> {
        self.messages().into_iter().flat_map(|message| message.lines).collect()
    }

    /// Blocks until an assignment for which `wanted` is true has arrived, or `patience` is over.
    pub fn wait_for(&self, patience: Duration, mut wanted: impl FnMut(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut messages = self.shared.messages.lock();
        loop {
            let found = messages.iter().flat_map(|message| &message.lines).find(|line| wanted(line));
            if let Some(line) = found {
                return Some(line.clone());
            }
            if self.shared.arrived.wait_until(&mut messages, deadline).timed_out() {
                return None;
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // Wakes the thread; the directory may be gone already, then so is the socket's last sender.
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.send_to(CLOSE.as_bytes(), &self.path);
        }
    }
}

/// What this module sends itself to end.
const CLOSE: &str = "X_CLOSE=1";
