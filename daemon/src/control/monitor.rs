//! A monitor's queue of frames, bounded in bytes. The core adds frames and never waits; the control thread removes
//! them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use codexd_proto::feed::{Frame, FrameFilter};
use codexd_proto::secrets::{MASK, is_secret_variable};
use serde_json::Value;
use tokio::sync::mpsc;

/// Bytes that can be queued for a monitor.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Bytes of the longest message that is shown with its body.
const MAX_BODY_BYTES: u64 = 4 << 20;
/// Bytes of frames in one message. A single frame can exceed it.
const AT_ONCE_BYTES: usize = 256 << 10;
/// Bytes that a frame counts in addition to its texts.
const FRAME_BYTES: usize = 160;

/// The core's end.
#[derive(Debug)]
pub(crate) struct Monitor {
    filter: FrameFilter,
    frames: mpsc::UnboundedSender<Vec<Frame>>,
    waiting: Arc<AtomicUsize>,
    batch: Vec<Frame>,
}

/// The control thread's end.
#[derive(Debug)]
pub(super) struct Received {
    frames: mpsc::UnboundedReceiver<Vec<Frame>>,
    waiting: Arc<AtomicUsize>,
    /// Removed from the queue, and still counted.
    rest: VecDeque<Frame>,
}

/// Creates both ends.
pub(super) fn queue(filter: FrameFilter) -> (Monitor, Received) {
    let (frames, received) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let monitor = Monitor { filter, frames, waiting: Arc::clone(&waiting), batch: Vec::new() };
    (monitor, Received { frames: received, waiting, rest: VecDeque::new() })
}

impl Monitor {
    /// Queues a frame if it passes the filter. `body` is called only if bodies are wanted. Secrets in it are masked
    /// at the other end, since that takes longer than handling the message.
    pub(crate) fn push(&mut self, frame: &Frame, body: impl FnOnce() -> String) {
        if self.filter.passes(frame) {
            let wanted = self.filter.bodies && frame.bytes <= MAX_BODY_BYTES;
            let body = wanted.then(body);
            self.batch.push(Frame { body, ..frame.clone() });
        }
    }

    /// Passes what was queued to the control thread. Returns whether the monitor continues: not if it is gone, or
    /// if too much is queued for it.
    pub(crate) fn send(&mut self) -> bool {
        if self.batch.is_empty() {
            return !self.frames.is_closed();
        }
        let batch = std::mem::take(&mut self.batch);
        let bytes = batch.iter().map(bytes).sum();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) > MAX_WAITING_BYTES {
            tracing::warn!("a monitor is dropped: it does not read as fast as frames come");
            return false;
        }
        self.frames.send(batch).is_ok()
    }
}

impl Received {
    /// Removes some of the queued frames; `None` if the core has dropped the monitor and the queue is empty.
    pub(super) async fn next(&mut self) -> Option<Vec<Frame>> {
        if self.rest.is_empty() {
            self.rest.extend(self.frames.recv().await?);
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        loop {
            while let Some(frame) = self.rest.front()
                && (taken.is_empty() || size + bytes(frame) <= AT_ONCE_BYTES)
            {
                size += bytes(frame);
                taken.extend(self.rest.pop_front());
            }
            match self.frames.try_recv() {
                Ok(more) if self.rest.is_empty() => self.rest.extend(more),
                // It is sent next time.
                Ok(more) => {
                    self.rest.extend(more);
                    break;
                }
                Err(_) => break,
            }
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        Some(taken)
    }
}

/// Returns how many bytes a frame counts.
fn bytes(frame: &Frame) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    FRAME_BYTES + text(&frame.method) + text(&frame.id) + text(&frame.body)
}

/// Returns a message with secrets masked: those that `mask` knows, and strings under a name that announces a secret.
pub(super) fn masked(line: &[u8], mask: &impl Fn(&str) -> String) -> String {
    fn walk(value: &mut Value, mask: &impl Fn(&str) -> String) {
        match value {
            Value::String(text) => *text = mask(text),
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, mask)),
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) if announces(name) => *text = MASK.to_owned(),
                        value => walk(value, mask),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(mut value) => {
            walk(&mut value, mask);
            value.to_string()
        }
        Err(_) => mask(&String::from_utf8_lossy(line)),
    }
}

/// Returns whether the name of a member announces a secret. Its words are separated as in a variable's name, or
/// begin with capitals.
fn announces(name: &str) -> bool {
    let words: String =
        name.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c] } else { vec![c] }).collect();
    is_secret_variable(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_no_secret() {
        let mask = |text: &str| text.replace("planted", "***");
        let line = br#"{"params":{"apiKey":"abc","text":"a planted word","tokenUsage":{"totalTokens":5}}}"#;
        assert_eq!(
            masked(line, &mask),
            r#"{"params":{"apiKey":"***","text":"a *** word","tokenUsage":{"totalTokens":5}}}"#
        );
        assert_eq!(masked(b"not JSON, planted", &mask), "not JSON, ***");
    }

    fn long() -> String {
        "x".repeat(1 << 20)
    }

    #[tokio::test]
    async fn a_monitor_that_does_not_read_is_dropped_and_gets_what_was_sent_before() {
        let (mut monitor, mut received) = queue(FrameFilter { bodies: true, ..FrameFilter::default() });
        let mut sent = 0;
        loop {
            monitor.push(&Frame::default(), long);
            if !monitor.send() {
                break;
            }
            sent += 1;
            assert!(sent < 100);
        }
        assert!(sent >= MAX_WAITING_BYTES >> 20, "{sent}");
        drop(monitor);
        let mut got = 0;
        while let Some(batch) = received.next().await {
            got += batch.len();
        }
        assert_eq!(got, sent);
    }

    #[tokio::test]
    async fn what_is_sent_at_once_is_bounded() {
        let (mut monitor, mut received) = queue(FrameFilter { bodies: true, ..FrameFilter::default() });
        for _ in 0..10 {
            for _ in 0..10 {
                monitor.push(&Frame::default(), || "x".repeat(100_000));
            }
            assert!(monitor.send());
        }
        drop(monitor);
        let mut got = 0;
        while let Some(batch) = received.next().await {
            assert!((1..=2).contains(&batch.len()), "{}", batch.len());
            got += batch.len();
        }
        assert_eq!((got, received.waiting.load(Ordering::Relaxed)), (100, 0));
        let (mut monitor, mut received) = queue(FrameFilter { bodies: true, ..FrameFilter::default() });
        monitor.push(&Frame { bytes: MAX_BODY_BYTES + 1, ..Frame::default() }, || unreachable!());
        assert!(monitor.send());
        assert_eq!(received.next().await.unwrap()[0].body, None);
    }

    #[tokio::test]
    async fn a_monitor_that_reads_is_not_dropped() {
        let (mut monitor, mut received) = queue(FrameFilter { bodies: true, ..FrameFilter::default() });
        for _ in 0..200 {
            monitor.push(&Frame::default(), long);
            assert!(monitor.send());
            assert_eq!(received.next().await.unwrap().len(), 1);
        }
        drop(received);
        assert!(!monitor.send(), "nobody is there");
    }
}
