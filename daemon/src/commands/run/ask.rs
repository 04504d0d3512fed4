//! Approvals, asked on the terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::mpsc as blocking;

use tokio::sync::mpsc;

use crate::turn::{Approval, Decision, Order, plain};

/// Returns whether there is a terminal for questions, whatever the standard streams are.
pub(super) fn is_possible() -> bool {
    terminal().is_ok()
}

fn terminal() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

/// Asks one question after another on a thread of its own.
pub(super) struct Asker {
    orders: mpsc::UnboundedSender<Order>,
    questions: Option<blocking::Sender<(i64, String)>>,
}

impl Asker {
    pub(super) fn new(orders: mpsc::UnboundedSender<Order>) -> Asker {
        Asker { orders, questions: None }
    }

    /// Asks a question. The answer becomes an order; then `done` is called.
    pub(super) fn ask(&mut self, approval: &Approval, done: impl Fn() + Send + 'static) {
        let mut question = format!("codexd: codex wants to {}", plain(&approval.what()));
        if let Some(reason) = approval.reason() {
            question.push_str(&format!("\n        because {}", plain(reason)));
        }
        let questions = self.questions.get_or_insert_with(|| {
            let (sender, receiver) = blocking::channel();
            let orders = self.orders.clone();
            std::thread::spawn(move || answer(&receiver, &orders, &done));
            sender
        });
        // If the thread has lost the terminal, it has declined everything.
        if questions.send((approval.id, question)).is_err() {
            let _ = self.orders.send(Order::Answer { id: approval.id, decision: Decision::Decline });
        }
    }
}

/// Asks until there are no more questions, or the terminal is gone.
fn answer(
    questions: &blocking::Receiver<(i64, String)>,
    orders: &mpsc::UnboundedSender<Order>,
    done: &impl Fn(),
) {
    while let Ok((id, question)) = questions.recv() {
        let decision = decide(&question).unwrap_or(Decision::Decline);
        done();
        if orders.send(Order::Answer { id, decision }).is_err() {
            return;
        }
    }
}

fn decide(question: &str) -> Option<Decision> {
    let mut terminal = terminal().ok()?;
    let mut lines = BufReader::new(terminal.try_clone().ok()?);
    loop {
        write!(terminal, "{question}\n        [y]es, [n]o, [a]lways in this session: ").ok()?;
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => return Some(Decision::Accept),
            "a" | "always" => return Some(Decision::AcceptForSession),
            "n" | "no" => return Some(Decision::Decline),
            _ => {}
        }
    }
}
