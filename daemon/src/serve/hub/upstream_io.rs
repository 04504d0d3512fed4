//! The upstream's pipes: reads, framing, writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use codexd_proto::core::Event;
use codexd_proto::frame::{Frame, LineDecoder};
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::lifecycle::ChildStatus;
use codexd_proto::time::Time;
use nix::errno::Errno;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::unix::pipe;

use super::long_message::SLICE_BYTES;
use super::{Hub, SharedHub};
use crate::logging::roles::log_upstream;
use crate::serve::connection::LONG_BYTES;
use crate::serve::upstream::process::{Pipes, SignalSender};
use crate::serve::upstream::stderr::Stderr;

/// Reads of the upstream before clients have their turn.
const READS_IN_A_ROW: usize = 4;

/// The upstream's ends of the pipes that this process holds.
pub(super) struct UpstreamIo {
    /// `None` once it is closed.
    stdin: Option<pipe::Sender>,
    /// `None` once it has ended.
    stdout: Option<pipe::Receiver>,
    stderr: Stderr,
    decoder: LineDecoder,
    /// A long line that is being checked. Nothing more is read meanwhile.
    long: Option<LongLine>,
    signals: SignalSender,
    waker: Option<Waker>,
    /// The pipe accepted less than there was to write: the task waits until it is writable again.
    blocked: bool,
    /// Bytes at the front of its outbox that monitors were shown, while there are any.
    pub(super) shown: usize,
}

/// A long line, checked in slices between the turns of the clients.
struct LongLine {
    line: Vec<u8>,
    check: TextCheck,
    /// What came behind it.
    rest: Vec<u8>,
}

impl UpstreamIo {
    pub(super) fn new(pipes: Pipes, signals: SignalSender, max_message_bytes: usize) -> UpstreamIo {
        UpstreamIo {
            stdin: Some(pipes.stdin),
            stdout: Some(pipes.stdout),
            stderr: pipes.stderr,
            // The upstream may wrap what it got into something longer.
            decoder: LineDecoder::new(max_message_bytes.saturating_mul(2)).giving_away(LONG_BYTES),
            long: None,
            signals,
            waker: None,
            blocked: false,
            shown: 0,
        }
    }

    pub(super) fn signals(&self) -> &SignalSender {
        &self.signals
    }

    pub(super) fn stderr(&self) -> &Stderr {
        &self.stderr
    }
}

/// Bytes that a pipe can hold, at the most (`/proc/sys/fs/pipe-max-size`, `pipe(7)`). More is
/// not from the process that has ended.
const FINAL_READ_BYTES: usize = 1 << 20;

/// Serves the upstream's pipes until its output ends.
pub(super) async fn serve(hub: SharedHub) {
    std::future::poll_fn(|cx| hub.borrow_mut().poll_upstream(cx)).await;
}

impl Hub {
    /// Does what the pipes allow. Ready when the output has ended.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.upstream.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if self.upstream.blocked && self.stdin_ready(cx) {
            self.upstream.blocked = false;
            self.write_upstream(self.now());
            if self.upstream.blocked && self.stdin_ready(cx) {
                cx.waker().wake_by_ref();
            }
        }
        let mut flushed = false;
        for turn in 0.. {
            if turn == READS_IN_A_ROW {
                cx.waker().wake_by_ref();
                break;
            }
            if self.upstream.long.is_some() {
                self.check_slice(SLICE_BYTES);
                self.flush();
                if self.upstream.long.is_some() {
                    // The clients have their turn between the slices.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let mut buffer = ReadBuf::new(&mut scratch);
            let polled = match &mut self.upstream.stdout {
                Some(stdout) => Pin::new(stdout).poll_read(cx, &mut buffer),
                None => Poll::Ready(Ok(())),
            };
            let filled = buffer.filled().len();
            self.upstream_bytes(&scratch[..filled]);
            self.scratch = scratch;
            match polled {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if filled > 0 => {
                    self.flush();
                    flushed = true;
                }
                Poll::Ready(ended) => {
                    if let Err(error) = ended {
                        let pid = self.base_status.upstream.pid;
                        log_upstream!(error, pid, %error, "cannot read from codex app-server");
                    }
                    self.upstream_eof();
                    flushed = false;
                    break;
                }
            }
        }
        if !flushed {
            self.flush();
        }
        if self.upstream.stdout.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn stdin_ready(&self, cx: &mut Context<'_>) -> bool {
        self.upstream.stdin.as_ref().is_none_or(|stdin| stdin.poll_write_ready(cx).is_ready())
    }

    fn upstream_bytes(&mut self, mut chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        let now = self.read_now();
        self.core.handle(now, Event::UpstreamOutput);
        while let Some(frame) = self.upstream.decoder.decode(&mut chunk) {
            if let (Some(monitors), Frame::Line(line)) = (&mut self.monitors, &frame) {
                monitors.show_from_codex(line);
            }
            match frame {
                Frame::Line(line) => self.core.handle(now, Event::UpstreamLine(line)),
                Frame::Long(line) => {
                    let long = LongLine { line, check: TextCheck::default(), rest: chunk.to_vec() };
                    self.upstream.long = Some(long);
                    return;
                }
                Frame::TooLong => self.core.handle(now, Event::UpstreamLineTooLong),
            }
        }
    }

    /// Checks so many bytes more of a long line. When all is checked, handles it and what came behind it, in which
    /// another one can begin.
    fn check_slice(&mut self, bytes: usize) {
        let Some(mut long) = self.upstream.long.take() else { return };
        if !long.check.advance(&long.line, bytes) {
            self.upstream.long = Some(long);
            return;
        }
        if let Some(monitors) = &mut self.monitors {
            monitors.show_from_codex(&long.line);
        }
        self.core.upstream_line_read(self.now(), long.line, &long.check);
        self.upstream_bytes(&long.rest);
    }

    fn upstream_eof(&mut self) {
        if self.upstream.stdout.take().is_some() {
            if self.upstream.decoder.is_torn() {
                let pid = self.base_status.upstream.pid;
                log_upstream!(error, pid, "the output of codex app-server ended inside a line");
            }
            self.handle(Event::UpstreamEof);
        }
    }

    /// Reports that the process has ended, after reading what it had still written: the answer that somebody
    /// waits for may be in it. A grandchild that holds the pipe open is not waited for.
    pub(super) fn upstream_exited(&mut self, status: ChildStatus) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut left = FINAL_READ_BYTES;
        loop {
            while self.upstream.long.is_some() {
                self.check_slice(usize::MAX);
            }
            let Some(stdout) = self.upstream.stdout.as_ref().filter(|_| left > 0) else { break };
            // Asks the pipe itself: the runtime may not have looked at it since the last bytes came.
            match nix::unistd::read(stdout, &mut scratch) {
                Ok(0) => break,
                Ok(n) => {
                    self.upstream_bytes(&scratch[..n]);
                    left = left.saturating_sub(n);
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.scratch = scratch;
        let pid = self.base_status.upstream.pid;
        log_upstream!(info, pid, upstream.status = %status, "codex app-server has ended");
        self.report_stderr();
        self.handle(Event::UpstreamExited(status));
        self.flush();
        for line in self.core.upstream_lines() {
            log_upstream!(error, pid, %line, "codex app-server wrote before it ended");
        }
    }

    /// Reports the last lines of the upstream's stderr.
    pub(super) fn report_stderr(&mut self) {
        let lines = self.upstream.stderr.lines();
        self.handle(Event::UpstreamStderr(&lines));
    }

    /// Writes what is queued for the upstream.
    pub(super) fn write_upstream(&mut self, now: Time) {
        // One buffer of the outbox after the other.
        while self.write_upstream_buffer(now) {}
    }

    /// Writes the first buffer of the upstream's outbox. Returns whether the pipe accepted all of it.
    fn write_upstream_buffer(&mut self, now: Time) -> bool {
        let Some(stdin) = &self.upstream.stdin else { return false };
        if let Some(monitors) = &mut self.monitors {
            self.upstream.shown = monitors.show_to_codex(self.upstream.shown, &mut self.core);
        }
        let pending = self.core.upstream_pending();
        if self.upstream.blocked || pending.is_empty() {
            return false;
        }
        let mut bytes = 0;
        let mut broken = false;
        while bytes < pending.len() {
            match stdin.try_write(&pending[bytes..]) {
                Ok(n) => bytes += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.upstream.blocked = true;
                    break;
                }
                Err(error) => {
                    // The report of its exit follows, with the reason.
                    let pid = self.base_status.upstream.pid;
                    log_upstream!(warn, pid, %error, "cannot write to codex app-server");
                    broken = true;
                    break;
                }
            }
        }
        self.upstream.shown = self.upstream.shown.saturating_sub(bytes);
        self.core.handle(now, Event::UpstreamWritten { bytes, full: self.upstream.blocked });
        if broken {
            self.upstream.stdin = None;
            self.core.handle(now, Event::UpstreamInputBroken);
        }
        if self.upstream.blocked
            && let Some(waker) = &self.upstream.waker
        {
            waker.wake_by_ref();
        }
        !self.upstream.blocked && !broken
    }

    /// Closes the upstream's input: the gentlest way to end it.
    pub(super) fn close_upstream_input(&mut self) {
        self.upstream.stdin = None;
    }
}
