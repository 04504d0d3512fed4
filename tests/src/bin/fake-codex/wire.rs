//! Standard output and the log.
//!
//! A thread of its own writes, so that a broker that does not read stops the messages but not the server: it still
//! ends when it is stopped.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The outgoing side of the server.
#[derive(Debug)]
pub(crate) struct Wire {
    out: Sender<Out>,
    log: Option<PathBuf>,
    /// No message leaves any more, see `[[freeze]]`.
    pub(crate) frozen: bool,
    /// Number of things that were not expected.
    pub(crate) complaints: usize,
}

enum Out {
    Bytes(Vec<u8>),
    Close,
    Flush(Sender<()>),
}

impl Wire {
    pub(crate) fn new() -> Wire {
        let (out, receiver) = channel();
        std::thread::spawn(move || write_all(&receiver));
        let log = std::env::var_os("FAKE_CODEX_LOG").map(PathBuf::from);
        Wire { out, log, frozen: false, complaints: 0 }
    }

    pub(crate) fn result(&mut self, id: &Value, result: Value) {
        self.message(&json!({"id": id, "result": result}));
    }

    pub(crate) fn error(&mut self, id: &Value, code: i64, message: &str) {
        self.message(&json!({"error": {"code": code, "message": message}, "id": id}));
    }

    pub(crate) fn notify(&mut self, method: &str, params: Value) {
        self.message(&json!({"method": method, "params": params, "emittedAtMs": now_ms()}));
    }

    pub(crate) fn message(&mut self, message: &Value) {
        self.messages(std::slice::from_ref(message));
    }

    /// Writes several messages at once.
    pub(crate) fn messages(&mut self, messages: &[Value]) {
        if !self.frozen {
            self.bytes(messages.iter().flat_map(|message| format!("{message}\n").into_bytes()).collect());
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: Vec<u8>) {
        let _ = self.out.send(Out::Bytes(bytes));
    }

    /// Closes standard output after what was written.
    pub(crate) fn close(&mut self) {
        let _ = self.out.send(Out::Close);
    }

    /// Waits until everything is written, for a bounded time: the other end may not be reading.
    pub(crate) fn flush(&mut self) {
        let (sender, done) = channel();
        if self.out.send(Out::Flush(sender)).is_ok() {
            let _ = done.recv_timeout(FLUSH_TIME);
        }
    }

    /// Keeps a received line.
    pub(crate) fn log(&mut self, line: &[u8]) {
        let Some(path) = &self.log else { return };
        let written = File::options()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(&[line, b"\n"].concat()));
        if let Err(error) = written {
            eprintln!("fake-codex: cannot write `{}`: {error}", path.display());
        }
    }

    /// Reports what was not expected.
    pub(crate) fn complain(&mut self, what: &str) {
        self.complaints += 1;
        eprintln!("fake-codex: !! {what}");
        self.log(format!("!! {what}").as_bytes());
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn write_all(receiver: &Receiver<Out>) {
    let mut open = true;
    let mut stdout = std::io::stdout().lock();
    while let Ok(out) = receiver.recv() {
        match out {
            // A broken pipe is not ours to report: the end of input follows.
            Out::Bytes(bytes) => {
                open = open && stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_ok()
            }
            Out::Close => {
                open = false;
                if let Ok(null) = File::options().write(true).open("/dev/null") {
                    let _ = nix::unistd::dup2_stdout(null);
                }
            }
            Out::Flush(done) => drop(done.send(())),
        }
    }
}

/// Longer than a healthy reader takes for the largest scripted output.
const FLUSH_TIME: Duration = Duration::from_secs(10);
