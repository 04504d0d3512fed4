//! The output while a turn runs.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::ask::Asker;
use crate::terminal::note;
use crate::turn::{Event, Stop, Watcher, plain, words_of};

/// Time between two frames of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// See the [module's documentation](self).
pub(super) struct Show {
    how: How,
    asker: Option<Asker>,
    thread: Thread,
}

/// The thread, once it is known.
#[derive(Clone, Default)]
pub(super) struct Thread(Rc<RefCell<Option<String>>>);

impl Thread {
    pub(super) fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

enum How {
    /// A JSON object for each event, on stdout.
    Json,
    /// Lines on stderr.
    Lines,
    /// Lines on stderr, and below them what the turn is doing and for how long.
    Spinner(ProgressBar),
}

impl Show {
    pub(super) fn new(json: bool) -> Show {
        let how = if json {
            How::Json
        } else if std::io::stderr().is_terminal() {
            // The template is constant. If it were invalid, the default would be used.
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style).with_message("connecting");
            bar.enable_steady_tick(TICK);
            How::Spinner(bar)
        } else {
            How::Lines
        };
        Show { how, asker: None, thread: Thread::default() }
    }

    /// Sets what asks for approvals.
    pub(super) fn ask_with(&mut self, asker: Asker) {
        self.asker = Some(asker);
    }

    /// Returns where the thread's id will be stored.
    pub(super) fn thread(&self) -> Thread {
        self.thread.clone()
    }

    /// Removes the spinner.
    pub(super) fn finish(&self) {
        if let How::Spinner(bar) = &self.how {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        let text = format!("codexd: {text}");
        match &self.how {
            How::Json => {}
            How::Lines => note(&text),
            How::Spinner(bar) => bar.suspend(|| note(&text)),
        }
    }

    fn phase(&self, text: String) {
        if let How::Spinner(bar) = &self.how {
            bar.set_message(text);
        }
    }

    fn json(&self, value: &Value) {
        if matches!(self.how, How::Json) {
            // The reader may be gone. The turn continues, and the exit code reports how it ended.
            let _ = std::io::stdout().lock().write_all(format!("{value}\n").as_bytes());
        }
    }
}

impl Watcher for Show {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Thread { id, new, model } => {
                *self.thread.0.borrow_mut() = Some(id.to_owned());
                self.json(&json!({ "type": "thread", "threadId": id, "new": new, "model": model }));
                let model = model.map(|model| format!(", {}", plain(model))).unwrap_or_default();
                self.line(&format!("thread {id}{model}"));
            }
            Event::Turn { id } => {
                self.json(&json!({ "type": "turn", "turnId": id }));
                self.phase("thinking".to_owned());
            }
            Event::Notification { method, params, sub_agent } => {
                let event =
                    json!({ "type": "event", "method": method, "subAgent": sub_agent, "params": params });
                self.json(&event);
                let words = words_of(method, params);
                let of_whom = if sub_agent { "sub-agent: " } else { "" };
                words.lines.iter().for_each(|line| self.line(&format!("{of_whom}{line}")));
                if let Some(phase) = words.phase.filter(|_| !sub_agent) {
                    self.phase(phase);
                }
            }
            // It is printed at the end of the turn.
            Event::Answer(_) => {}
            Event::Approval(approval) => {
                self.json(
                    &json!({ "type": "approval", "method": approval.method, "params": approval.params }),
                );
                let bar = match &self.how {
                    How::Spinner(bar) => Some(bar.clone()),
                    _ => None,
                };
                if let Some(bar) = &bar {
                    bar.disable_steady_tick();
                    bar.set_message("waiting for your answer");
                }
                if let Some(asker) = &mut self.asker {
                    asker.ask(approval, move || {
                        if let Some(bar) = &bar {
                            bar.enable_steady_tick(TICK);
                        }
                    });
                }
            }
            Event::Declined(approval) => {
                self.json(
                    &json!({ "type": "declined", "method": approval.method, "params": approval.params }),
                );
                self.line(&format!("declined: codex wants to {}", plain(&approval.what())));
            }
            Event::Interrupting(stop) => {
                let why = match stop {
                    Stop::Asked => "asked",
                    Stop::TimedOut => "timedOut",
                };
                self.json(&json!({ "type": "interrupting", "why": why }));
                self.line(match stop {
                    Stop::Asked => "interrupting the turn; once more to leave at once",
                    Stop::TimedOut => "the time is over, interrupting the turn",
                });
                self.phase("interrupting".to_owned());
            }
        }
    }
}
