//! The upstream's stderr: always read, so that a full pipe never blocks the upstream; its last lines are kept,
//! because they contain the reason of its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_proto::secrets::Secrets;
use codexd_proto::stderr::StderrTail;
use codexd_proto::time::Time;
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStderr;
use tokio::sync::Notify;

/// Bytes read at once.
const READ_BYTES: usize = 4 << 10;

/// The stderr of one upstream. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stderr {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tail: RefCell<StderrTail>,
    began: Instant,
    ended: Cell<bool>,
    end: Notify,
}

impl Stderr {
    /// Makes one of which nothing was read yet; `secrets` are masked in what is logged and kept.
    pub(super) fn new(secrets: Secrets) -> Stderr {
        let tail = RefCell::new(StderrTail::new(secrets));
        let (ended, end) = (Cell::new(false), Notify::new());
        Stderr { shared: Rc::new(Shared { tail, began: Instant::now(), ended, end }) }
    }

    /// Reads until the end, and logs every line.
    ///
    /// At `debug`: the upstream quotes what it was sent in its errors, and people's prompts and code
    /// do not belong in a log unless asked for.
    pub(super) async fn read(self, mut pipe: ChildStderr, pid: Option<u32>) {
        let mut chunk = [0; READ_BYTES];
        while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
            self.shared.tail.borrow_mut().push(self.now(), &chunk[..length], |line| {
                tracing::debug!(target: "codexd::upstream::stderr", { upstream.pid = pid, line }, "codex app-server");
            });
        }
        self.shared.ended.set(true);
        self.shared.end.notify_waiters();
    }

    /// Waits until everything was read, for `patience` at the most: something that the upstream has started may
    /// hold the pipe open.
    pub(super) async fn end(&self, patience: Duration) {
        let end = self.shared.end.notified();
        if !self.shared.ended.get() {
            let _ = tokio::time::timeout(patience, end).await;
        }
    }

    /// Clients are served from now on, so that the output can quote their messages.
    pub(crate) fn clients_are_served(&self) {
        self.shared.tail.borrow_mut().clients_are_served();
    }

    /// Returns the last lines, as people may see them.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shared.tail.borrow().lines(self.now())
    }

    fn now(&self) -> Time {
        Time::from_millis(u64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncWriteExt as _;
    use tokio::process::Command;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_waited_for_but_not_for_ever() {
        LocalSet::new()
            .run_until(async {
                let mut program = Command::new("sh");
                program.args(["-c", "read line; echo \"Error: $line\" >&2"]);
                let mut child = program.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let stderr = Stderr::new(Secrets::default());
                tokio::task::spawn_local(stderr.clone().read(child.stderr.take().unwrap(), child.id()));
                stderr.end(Duration::ZERO).await;
                assert_eq!(stderr.lines(), [""; 0]);
                child.stdin.take().unwrap().write_all(b"late\n").await.unwrap();
                stderr.end(Duration::from_secs(60)).await;
                assert_eq!(stderr.lines(), ["Error: late"]);
                // And again, when it has ended long ago.
                stderr.end(Duration::from_secs(60)).await;
                child.wait().await.unwrap();
            })
            .await;
    }
}
