//! What happens to the server: lines, the end of input, signals, ends of commands.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};

use crate::exec::{Exited, Output};

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum InputEvent {
    /// A line of input, without its end.
    Line(Vec<u8>),
    /// No more input will come: its end, or a line that is not UTF-8.
    InputEnded,
    /// SIGTERM.
    Terminate,
    /// A command has written something.
    Output(Output),
    /// A command has ended.
    Exited(Exited),
}

/// Reads standard input in a thread of its own.
///
/// With `only_first`, reading stops for good after the first line, that is after `initialize`.
pub(crate) fn read_lines(events: Sender<InputEvent>, only_first: bool) {
    std::thread::spawn(move || {
        let mut input = BufReader::new(std::io::stdin());
        loop {
            let mut line = Vec::new();
            // A last line without its end is no message; the real server does not answer it either.
            let complete = matches!(input.read_until(b'\n', &mut line), Ok(1..)) && line.pop() == Some(b'\n');
            if !complete || std::str::from_utf8(&line).is_err() {
                let _ = events.send(InputEvent::InputEnded);
                return;
            }
            if events.send(InputEvent::Line(line)).is_err() {
                return;
            }
            if only_first {
                loop {
                    std::thread::park();
                }
            }
        }
    });
}

/// Turns SIGTERM into an event. Call it before any other thread is started: they inherit the mask.
pub(crate) fn watch_signals(events: Sender<InputEvent>) {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    if let Err(error) = term.thread_block() {
        eprintln!("fake-codex: cannot block SIGTERM: {error}");
        return;
    }
    std::thread::spawn(move || {
        while term.wait().is_ok() {
            if events.send(InputEvent::Terminate).is_err() {
                return;
            }
        }
    });
}
