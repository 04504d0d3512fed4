//! Log lines on their way to stderr, over a thread of their own.
//!
//! The process that started the daemon may not read its stderr: a full pipe would stop the core in the middle of a
//! message, and with it every client. So the core puts its lines into a queue and never waits; lines for which the
//! queue has no room are dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at the most.
const WAITING_LINES: usize = 1024;

/// How long the thread waits after it has written everything. To wake it costs the core more than to make a line, and with
/// many lines one after the other (each client that connects has two) it would be woken for each.
const REST: Duration = Duration::from_millis(1);

/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 64 << 10;

/// Where the log writes its lines.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    queue: Queue,
    lost: Arc<AtomicU64>,
}

/// The sending side of the queue. Not a bounded channel: that one makes all its slots at once.
#[derive(Clone, Debug)]
struct Queue {
    sender: Sender<Entry>,
    waiting: Arc<AtomicUsize>,
}

/// Writes the last lines when it is dropped.
#[derive(Debug)]
pub(crate) struct Flush {
    queue: Queue,
    /// How long that may take.
    within: Duration,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Gets a message when everything before it is written.
    Flush(Sender<()>),
}

/// Starts the thread that writes to `target`: one call for each line. At the end, the last lines may take `within`.
///
/// # Errors
///
/// When the system refuses the thread.
pub(crate) fn start(
    target: impl io::Write + Send + 'static,
    within: Duration,
) -> io::Result<(LogWriter, Flush)> {
    let (sender, entries) = channel();
    let queue = Queue { sender, waiting: Arc::default() };
    let lost = Arc::new(AtomicU64::new(0));
    let (waiting, counter) = (Arc::clone(&queue.waiting), Arc::clone(&lost));
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || write_all(&entries, &waiting, &counter, target))?;
    Ok((LogWriter { queue: queue.clone(), lost }, Flush { queue, within }))
}

impl Queue {
    /// Adds an entry. Returns whether there was room and somebody takes it. Several threads may exceed the limit by one
    /// each.
    fn push(&self, entry: Entry) -> bool {
        if self.waiting.load(Ordering::Relaxed) >= WAITING_LINES {
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(entry).is_ok()
    }
}

fn write_all(entries: &Receiver<Entry>, waiting: &AtomicUsize, lost: &AtomicU64, mut target: impl io::Write) {
    while let Some(entry) = next(entries) {
        waiting.fetch_sub(1, Ordering::Relaxed);
        // There is no other place to report that the log cannot be written.
        match entry {
            Entry::Line(line) => drop(target.write_all(&line)),
            Entry::Flush(done) => {
                let _ = target.flush();
                let _ = done.send(());
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = format!("({lost} lines of the log were lost here: they were not read in time)\n");
            let _ = target.write_all(line.as_bytes());
        }
    }
}

/// Waits for the next entry; `None` when there will be none.
fn next(entries: &Receiver<Entry>) -> Option<Entry> {
    entries.try_recv().ok().or_else(|| {
        // Who adds an entry meanwhile need not wake this thread.
        #[allow(clippy::disallowed_methods, reason = "nothing is waited for but time")]
        std::thread::sleep(REST);
        entries.recv().ok()
    })
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.queue.push(Entry::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&self) -> LogWriter {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = channel();
        if self.queue.push(Entry::Flush(done)) {
            // Nobody may be reading: the end must not depend on it.
            let _ = written.recv_timeout(self.within);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn lines_come_in_order_and_the_last_ones_are_written_before_the_end() {
        let (mut reader, target) = io::pipe().unwrap();
        let (mut writer, flush) = start(target, Duration::from_millis(200)).unwrap();
        for n in 0..100 {
            writeln!(writer, "{n}").unwrap();
        }
        drop(flush);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, (0..100).map(|n| format!("{n}\n")).collect::<String>());
    }

    #[test]
    fn writing_never_blocks_and_the_lost_lines_are_counted() {
        let (mut reader, target) = io::pipe().unwrap();
        let (writer, flush) = start(target, Duration::from_millis(200)).unwrap();
        let line = vec![b'x'; 10_000];
        for _ in 0..2 * WAITING_LINES {
            // As the log does: one call for a line.
            assert_eq!(writer.make_writer().write(&line).unwrap(), line.len());
        }
        assert!(writer.lost.load(Ordering::Relaxed) > 0);
        drop(writer);
        let mut text = String::new();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(flush));
            reader.read_to_string(&mut text).unwrap();
        });
        assert!(text.contains(" lines of the log were lost here"));
    }
}
