//! Server requests to the client that runs a turn: approvals, and requests that it cannot answer.

use serde_json::{Value, json};

/// A server request about the turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Approval {
    /// Its id, for the answer.
    pub(crate) id: i64,
    /// Its method.
    pub(crate) method: String,
    /// Its parameters.
    pub(crate) params: Value,
}

/// A person's answer to an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Allow it.
    Accept,
    /// Allow it, and everything similar in this session.
    AcceptForSession,
    /// Decline, and continue the turn.
    Decline,
}

impl Approval {
    /// Returns whether a person can decide it with yes or no.
    pub(crate) fn is_decidable(&self) -> bool {
        matches!(&*self.method, "item/commandExecution/requestApproval" | "item/fileChange/requestApproval")
    }

    /// Returns what is requested, in one line.
    pub(crate) fn what(&self) -> String {
        let text = |name: &str| self.params[name].as_str().unwrap_or_default();
        match &*self.method {
            "item/commandExecution/requestApproval" if !text("command").is_empty() => {
                format!("run `{}`", text("command"))
            }
            "item/commandExecution/requestApproval" => "run a command".to_owned(),
            "item/fileChange/requestApproval" => "change files".to_owned(),
            "item/permissions/requestApproval" => "have more permissions".to_owned(),
            "item/tool/requestUserInput" => "have an answer to a question".to_owned(),
            "mcpServer/elicitation/request" => "have an answer for an MCP server".to_owned(),
            other => format!("have an answer to `{other}`"),
        }
    }

    /// Returns the reason that codex gives.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.params["reason"].as_str()
    }

    /// Returns the answer.
    pub(super) fn answer(&self, decision: Decision) -> Value {
        match decision {
            Decision::Decline => self.refusal(),
            Decision::Accept => json!({ "id": self.id, "result": { "decision": "accept" } }),
            Decision::AcceptForSession => {
                json!({ "id": self.id, "result": { "decision": "acceptForSession" } })
            }
        }
    }

    /// Returns the answer that declines the request and lets the turn continue.
    fn refusal(&self) -> Value {
        let result = match &*self.method {
            "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => {
                json!({ "decision": "decline" })
            }
            "item/permissions/requestApproval" => json!({ "permissions": {} }),
            "item/tool/requestUserInput" => json!({ "answers": {} }),
            "mcpServer/elicitation/request" => json!({ "action": "decline" }),
            other => {
                let error =
                    json!({ "code": -32601, "message": format!("codexd run has no answer to {other}") });
                return json!({ "id": self.id, "error": error });
            }
        };
        json!({ "id": self.id, "result": result })
    }
}
