//! The steps of a turn, read from the markers of its prompt.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use codexd_tests::marker::{markers, without_markers};
use serde_json::{Value, json};

use crate::wire::now_ms;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Delta(String),
    Pause(Duration),
    Approve,
    SubAgent(String),
    Final,
    Complete,
    /// Nothing more by itself: the turn waits to be interrupted, or for more input.
    Hang,
    Freeze,
    /// Nothing that comes is worked on before the end of the turn.
    Busy,
    FsChange,
    Exit(u8),
    Abort,
    Signal(i32),
    Garbage,
    BadUtf8,
    Torn,
    CloseStdout,
    HoldPipe(u8),
    Stderr(String),
    Orphan,
}

/// A running turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) root: String,
    pub(crate) steps: VecDeque<Step>,
    /// When the next step is due; `None` while the turn waits for something.
    pub(crate) due: Option<Instant>,
    /// The agent message that was started, and its text so far.
    pub(crate) message: Option<(String, String)>,
    /// The final answer, once it is complete.
    pub(crate) answer: Option<Value>,
    /// The server request the turn waits for, and its item.
    pub(crate) approval: Option<(i64, Value)>,
    pub(crate) started_ms: u64,
}

/// Reads the steps of a prompt.
///
/// # Errors
///
/// A sentence about the marker that cannot be read.
pub(crate) fn steps(prompt: &str) -> Result<VecDeque<Step>, String> {
    let mut steps = VecDeque::new();
    let (mut has_text, mut has_final, mut hangs) = (false, false, false);
    let rest = without_markers(prompt);
    let finish = |steps: &mut VecDeque<Step>, has_text: bool| {
        if !has_text {
            steps.extend((0..3).map(|index| Step::Delta(format!("tok{index} "))));
        }
        steps.push_back(Step::Delta(format!("| echo: {rest}")));
        steps.push_back(Step::Final);
    };
    for marker in markers(prompt) {
        match marker.kind.as_str() {
            "deltas" => {
                let (count, pause) = (marker.number(0, 3)?, Duration::from_millis(marker.number(1, 0)?));
                let word = marker.part(2).unwrap_or("tok");
                for index in 0..count {
                    steps.push_back(Step::Delta(format!("{word}{index} ")));
                    if !pause.is_zero() {
                        steps.push_back(Step::Pause(pause));
                    }
                }
                has_text = true;
            }
            "flood" => {
                let (count, size): (usize, usize) = (marker.number(0, 1000)?, marker.number(1, 100)?);
                steps.extend((0..count).map(|_| Step::Delta("x".repeat(size))));
                has_text = true;
            }
            "big" => {
                steps.push_back(Step::Delta("x".repeat(marker.number(0, 1_000_000)?)));
                has_text = true;
            }
            "wait" => steps.push_back(Step::Pause(Duration::from_millis(marker.number(0, 10)?))),
            "approve" => steps.push_back(Step::Approve),
            "sub-agent" => {
                steps.push_back(Step::SubAgent(marker.argument.replace("{{", "[[").replace("}}", "]]")));
            }
            "final" | "final-then-hang" => {
                finish(&mut steps, has_text);
                has_final = true;
                hangs = marker.kind == "final-then-hang";
            }
            "hang" => hangs = true,
            "freeze" => steps.push_back(Step::Freeze),
            "busy" => steps.push_back(Step::Busy),
            "fs-change" => steps.push_back(Step::FsChange),
            "exit" => steps.push_back(Step::Exit(marker.number(0, 0)?)),
            "abort" => steps.push_back(Step::Abort),
            "signal" => steps.push_back(Step::Signal(marker.number(0, 9)?)),
            "garbage" => steps.push_back(Step::Garbage),
            "bad-utf8" => steps.push_back(Step::BadUtf8),
            "torn" => steps.push_back(Step::Torn),
            "eof" => steps.push_back(Step::CloseStdout),
            "hold-pipe" => steps.push_back(Step::HoldPipe(marker.number(0, 0)?)),
            "orphan" => steps.push_back(Step::Orphan),
            "stderr" => steps.push_back(Step::Stderr(marker.argument)),
            other => return Err(format!("unknown marker `{other}`")),
        }
        if hangs {
            // What is written after it never happens.
            steps.push_back(Step::Hang);
            return Ok(steps);
        }
    }
    if !has_final {
        finish(&mut steps, has_text);
    }
    steps.push_back(Step::Complete);
    Ok(steps)
}

impl Turn {
    pub(crate) fn new(id: String, root: Option<String>, steps: VecDeque<Step>) -> Turn {
        Turn {
            root: root.unwrap_or_else(|| id.clone()),
            id,
            steps,
            due: Some(Instant::now()),
            message: None,
            answer: None,
            approval: None,
            started_ms: now_ms(),
        }
    }

    /// The turn as a member of a message.
    pub(crate) fn json(&self, status: &str) -> Value {
        let ended = status != "inProgress";
        let items: Vec<&Value> = self.answer.iter().filter(|_| status == "completed").collect();
        json!({
            "id": self.id, "rootTurnId": self.root,
            "itemsView": if items.is_empty() { "notLoaded" } else { "summary" },
            "items": items, "status": status, "error": null,
            "startedAt": self.started_ms / 1000,
            "completedAt": ended.then(|| now_ms() / 1000),
            "durationMs": ended.then(|| now_ms().saturating_sub(self.started_ms)),
        })
    }

    /// An agent message as a member of a message.
    pub(crate) fn agent_message(&self, text: &str, completed: bool) -> Value {
        let id = self.message.as_ref().map(|(id, _)| id.as_str()).unwrap_or_default();
        json!({
            "type": "agentMessage", "moderation": null, "id": id, "text": text, "phase": "final_answer",
            "memoryCitation": null, "delivery": null, "questions": null,
            "startedAtMs": self.started_ms, "completedAtMs": completed.then(now_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_become_steps_in_their_order_and_the_answer_ends_them() {
        let steps: Vec<Step> = steps("[[approve]][[deltas:1:5]][[exit:3]] hi").unwrap().into();
        let expected = [
            Step::Approve,
            Step::Delta("tok0 ".to_owned()),
            Step::Pause(Duration::from_millis(5)),
            Step::Exit(3),
            Step::Delta("| echo:  hi".to_owned()),
            Step::Final,
            Step::Complete,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn behind_a_final_answer_only_the_turn_is_completed() {
        let steps: Vec<Step> = steps("[[deltas:0]][[final]][[exit:1]]x").unwrap().into();
        let echo = Step::Delta("| echo: x".to_owned());
        assert_eq!(steps, [echo, Step::Final, Step::Exit(1), Step::Complete]);
    }

    #[test]
    fn an_unknown_marker_is_an_error() {
        assert!(steps("[[no-such]]").is_err());
        assert!(steps("[[exit:x]]").is_err());
    }
}
