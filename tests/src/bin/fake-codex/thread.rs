//! Threads of conversation, as much as a broker sees of them.

use serde_json::{Value, json};

use crate::turn::Turn;
use crate::wire::now_ms;

/// Returns the policy of a `sandbox` parameter; without one, that of the configuration.
pub(crate) fn policy(mode: &Value) -> Value {
    match mode.as_str() {
        Some("danger-full-access") => json!({"type": "dangerFullAccess"}),
        Some("workspace-write") => {
            json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": false,
                                          "excludeTmpdirEnvVar": false, "excludeSlashTmp": false})
        }
        _ => json!({"type": "readOnly", "networkAccess": false}),
    }
}

/// A loaded thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) id: String,
    pub(crate) cwd: String,
    pub(crate) forked_from: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) created_ms: u64,
    /// The one connection is subscribed.
    pub(crate) subscribed: bool,
    pub(crate) turn: Option<Turn>,
    /// The last turn that has ended; with none, the real server cannot resume the thread.
    pub(crate) last_turn: Option<String>,
    /// Tokens so far.
    pub(crate) tokens: u64,
    /// Its sandbox policy.
    pub(crate) sandbox: Value,
}

impl Thread {
    pub(crate) fn new(id: String, cwd: &str) -> Thread {
        Thread {
            id,
            cwd: cwd.to_owned(),
            forked_from: None,
            parent: None,
            created_ms: now_ms(),
            subscribed: true,
            turn: None,
            last_turn: None,
            tokens: 0,
            sandbox: policy(&Value::Null),
        }
    }

    pub(crate) fn status(&self) -> Value {
        match &self.turn {
            None => json!({"type": "idle"}),
            Some(turn) if turn.approval.is_some() => {
                json!({"type": "active", "activeFlags": ["waitingOnApproval"]})
            }
            Some(_) => json!({"type": "active", "activeFlags": []}),
        }
    }

    /// The thread as a member of a message.
    pub(crate) fn json(&self) -> Value {
        let seconds = self.created_ms / 1000;
        let turns: Vec<Value> = self.turn.iter().map(|turn| turn.json("inProgress")).collect();
        json!({
            "id": self.id, "sessionId": self.id, "forkedFromId": self.forked_from,
            "parentThreadId": self.parent, "preview": "", "ephemeral": false, "historyMode": "paginated",
            "modelProvider": "fake", "model": "fake-model", "reasoningEffort": null,
            "createdAt": seconds, "updatedAt": seconds, "recencyAt": seconds,
            "status": self.status(), "path": null, "cwd": self.cwd, "cliVersion": "0.0.0-fake",
            "originator": "fake", "source": "vscode", "gitInfo": null, "name": null, "turns": turns,
        })
    }

    /// The result of `thread/start` and its like.
    pub(crate) fn loaded(&self) -> Value {
        json!({
            "thread": self.json(), "model": "fake-model", "modelProvider": "fake", "serviceTier": null,
            "cwd": self.cwd, "runtimeWorkspaceRoots": [self.cwd], "instructionSources": [],
            "approvalPolicy": "on-request", "approvalsReviewer": "user",
            "sandbox": self.sandbox, "activePermissionProfile": null, "reasoningEffort": null,
        })
    }

    /// The parameters of `thread/settings/updated`.
    pub(crate) fn settings(&self) -> Value {
        let settings = json!({"sandboxPolicy": self.sandbox, "approvalPolicy": "on-request",
                              "activePermissionProfile": null});
        json!({"threadId": self.id, "threadSettings": settings})
    }

    pub(crate) fn token_usage(&self, turn: &str) -> Value {
        let usage = |total: u64| {
            json!({"totalTokens": total, "inputTokens": total - total / 3, "cachedInputTokens": 0,
                   "cacheWriteInputTokens": 0, "outputTokens": total / 3, "reasoningOutputTokens": 0})
        };
        json!({"threadId": self.id, "turnId": turn, "tokenUsage":
               {"total": usage(self.tokens), "last": usage(15), "modelContextWindow": 258_400}})
    }
}
