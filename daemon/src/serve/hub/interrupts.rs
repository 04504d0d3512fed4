//! Turns that an operator wants interrupted, until they have ended.

use codexd_proto::control::{InterruptReceipt, KillReceipt};
use codexd_proto::id::{ClientId, ThreadId};
use codexd_proto::router::{Activity, CannotInterrupt};
use tokio::sync::oneshot;

use super::Hub;
use crate::logging::roles::{self, log_turn};

/// Who waits for the end of a turn.
pub(super) struct Interrupted {
    thread: ThreadId,
    begun: InterruptReceipt,
    reply: oneshot::Sender<InterruptReceipt>,
}

impl Hub {
    /// Has a turn interrupted. Says at once which one it is, and on `ended` how it has ended.
    pub(super) fn interrupt(
        &mut self,
        target: &str,
        ended: oneshot::Sender<InterruptReceipt>,
    ) -> Result<InterruptReceipt, String> {
        let interrupting = self.core.interrupt(self.now(), target).map_err(|why| explain(target, &why))?;
        let begun = InterruptReceipt {
            thread_id: Some(interrupting.thread.to_string()),
            turn_id: Some(interrupting.turn),
            ..InterruptReceipt::default()
        };
        let turn = begun.turn_id.as_deref();
        let role = roles::Turn { thread: begun.thread_id.as_deref(), turn, client: None };
        log_turn!(info, role, "an operator interrupts a turn");
        self.interrupted.retain(|waiting| !waiting.reply.is_closed());
        let (thread, receipt) = (interrupting.thread, begun.clone());
        self.interrupted.push(Interrupted { thread, begun: receipt, reply: ended });
        self.flush();
        Ok(begun)
    }

    /// Tells who waits for it how a turn has ended.
    pub(super) fn report_interrupted(&mut self, activity: &Activity) {
        if self.interrupted.is_empty() {
            return;
        }
        let (thread, outcome, error) = match activity {
            Activity::TurnEnded { thread, outcome, .. } => (thread, Some(outcome.word().to_owned()), None),
            Activity::InterruptRefused { thread, message } => {
                (thread, None, Some(format!("codex refuses to interrupt it: {message}")))
            }
            _ => return,
        };
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.interrupted).into_iter().partition(|waiting| waiting.thread == *thread);
        self.interrupted = waiting;
        for Interrupted { begun, reply, .. } in done {
            let receipt = InterruptReceipt {
                ended: outcome.is_some(),
                outcome: outcome.clone(),
                error: error.clone(),
                ..begun
            };
            // Who has given up waiting needs no answer.
            let _ = reply.send(receipt);
        }
    }

    /// Closes a client's connection because an operator wants it.
    pub(super) fn kill_client(&mut self, client: u64) -> KillReceipt {
        let now = self.now();
        let id = u32::try_from(client).map(ClientId).ok();
        let name = self.core.client_statuses(now).into_iter().find(|c| c.id == client).and_then(|c| c.name);
        let killed = id.is_some_and(|id| self.core.kill_client(now, id));
        self.flush();
        KillReceipt { id: client, name, killed }
    }
}

fn explain(target: &str, why: &CannotInterrupt) -> String {
    match why {
        CannotInterrupt::Unknown => format!("no turn or thread `{target}` is known"),
        CannotInterrupt::Ambiguous => format!("more than one turn or thread is called `{target}`"),
        CannotInterrupt::NothingRuns(thread) => format!("no turn runs on thread {thread}"),
        CannotInterrupt::NoTurnId(thread) => format!(
            "codex has not said which turn runs on thread {thread}: resume the thread with a client, then try again"
        ),
        CannotInterrupt::Lost => "codex has ended, and its turns with it".to_owned(),
    }
}
