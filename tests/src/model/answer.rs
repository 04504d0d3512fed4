//! The events of one answer, in the order in which the real API sends them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use super::body::{Events, Gone};
use super::script::Script;

/// Carries a script out, up to its end or until the connection is closed.
pub(super) async fn answer(script: Script, events: Events, shared: Arc<Shared>) {
    let _ = Answer { script, events, shared }.run().await;
}

struct Answer {
    script: Script,
    events: Events,
    shared: Arc<Shared>,
}

impl Answer {
    async fn run(&self) -> Result<(), Gone> {
        let script = &self.script;
        let id = self.shared.unique("resp");
        self.send(json!({"type": "response.created", "response": {"id": id}})).await?;
        if script.hang {
            return Err(self.events.gone().await);
        }
        if !script.calls.is_empty() {
            for (index, call) in script.calls.iter().enumerate() {
                self.send(json!({"type": "response.output_item.done", "output_index": index, "item": call}))
                    .await?;
            }
            return self.completed(&id).await;
        }
        self.pause(script.stall).await?;
        if let Some((name, size)) = &script.meet {
            self.meet(name, *size).await?;
        }
        if let Some(code) = &script.fail {
            let error = json!({"code": code, "message": format!("mock failure: {code}")});
            let response = json!({"id": id, "status": "failed", "error": error});
            return self.send(json!({"type": "response.failed", "response": response})).await;
        }
        if let Some((count, pause)) = script.reasoning {
            self.reasoning(count, pause).await?;
        }
        if let Some(text) = &script.commentary {
            let deltas = ["tok0 ".to_owned(), text.clone()];
            self.message("commentary", &deltas, Duration::ZERO, None).await?;
        }
        self.message("final_answer", &script.deltas, script.pause, script.drop_after).await?;
        if let Some(reason) = &script.incomplete {
            let response =
                json!({"id": id, "status": "incomplete", "incomplete_details": {"reason": reason}});
            return self.send(json!({"type": "response.incomplete", "response": response})).await;
        }
        self.completed(&id).await
    }

    async fn message(
        &self,
        phase: &str,
        deltas: &[String],
        pause: Duration,
        drop_after: Option<usize>,
    ) -> Result<(), Gone> {
        let id = self.shared.unique("msg");
        let item = |status: &str, content: Value| {
            json!({"type": "message", "id": id, "role": "assistant", "phase": phase,
                   "status": status, "content": content})
        };
        self.send(json!({"type": "response.output_item.added", "output_index": 0,
                         "item": item("in_progress", json!([]))}))
            .await?;
        for (index, delta) in deltas.iter().enumerate() {
            if drop_after.is_some_and(|count| index >= count) {
                return Err(self.events.cut().await);
            }
            self.send(json!({"type": "response.output_text.delta", "item_id": id, "output_index": 0,
                             "content_index": 0, "delta": delta}))
                .await?;
            if index + 1 < deltas.len() {
                self.pause(pause).await?;
            }
        }
        if phase == "final_answer" {
            self.pass_gate().await?;
        }
        let content = json!([{"type": "output_text", "text": deltas.concat()}]);
        self.send(json!({"type": "response.output_item.done", "output_index": 0,
                         "item": item("completed", content)}))
            .await
    }

    async fn reasoning(&self, count: usize, pause: Duration) -> Result<(), Gone> {
        let id = self.shared.unique("rs");
        let item = |summary: Value| json!({"type": "reasoning", "id": id, "summary": summary});
        self.send(json!({"type": "response.output_item.added", "output_index": 0, "item": item(json!([]))}))
            .await?;
        self.send(json!({"type": "response.reasoning_summary_part.added", "item_id": id,
                         "output_index": 0, "summary_index": 0}))
            .await?;
        let mut text = String::new();
        for index in 0..count {
            let delta = format!("think{index} ");
            text.push_str(&delta);
            self.send(json!({"type": "response.reasoning_summary_text.delta", "item_id": id,
                             "output_index": 0, "summary_index": 0, "delta": delta}))
                .await?;
            self.pause(pause).await?;
        }
        let summary = json!([{"type": "summary_text", "text": text}]);
        self.send(json!({"type": "response.output_item.done", "output_index": 0, "item": item(summary)}))
            .await
    }

    async fn completed(&self, id: &str) -> Result<(), Gone> {
        let total = self.script.usage;
        let usage = json!({
            "input_tokens": total.saturating_sub(5), "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": total});
        self.send(json!({"type": "response.completed", "response": {"id": id, "usage": usage}})).await
    }

    async fn send(&self, event: Value) -> Result<(), Gone> {
        self.events.send(&event).await
    }

    /// Waits until all have come, and notices at once when the connection is closed.
    async fn meet(&self, name: &str, size: usize) -> Result<(), Gone> {
        let mut meetings = self.shared.meetings.subscribe();
        tokio::select! {
            _ = meetings.wait_for(|it| it.get(name).is_some_and(|come| *come >= size)) => Ok(()),
            gone = self.events.gone() => Err(gone),
        }
    }

    /// Waits until the gate is open, and notices at once when the connection is closed.
    async fn pass_gate(&self) -> Result<(), Gone> {
        let Some(gate) = &self.script.gate else { return Ok(()) };
        let mut gates = self.shared.gates.subscribe();
        tokio::select! {
            _ = gates.wait_for(|open| open.contains(gate)) => Ok(()),
            gone = self.events.gone() => Err(gone),
        }
    }

    /// Lets time pass, and notices at once when the connection is closed.
    async fn pause(&self, time: Duration) -> Result<(), Gone> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            gone = self.events.gone() => Err(gone),
        }
    }
}
