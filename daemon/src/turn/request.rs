//! What to run, and the requests for it to codex.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// One turn, as a person or a job requests it. Stored with a job as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TurnRequest {
    /// The prompt; for a review with instructions, the instructions.
    pub(crate) prompt: String,
    /// Directory for the thread, absolute.
    pub(crate) cwd: Option<String>,
    /// Model, as codex names it.
    pub(crate) model: Option<String>,
    /// Reasoning effort, as the model names it.
    pub(crate) effort: Option<String>,
    /// What commands may change.
    pub(crate) sandbox: Option<Sandbox>,
    /// What happens to approvals.
    pub(crate) approval: ApprovalMode,
    /// The thread to continue; a new one if absent.
    pub(crate) thread: Option<String>,
    /// What to review instead of a plain turn.
    pub(crate) review: Option<Review>,
    /// JSON schema for the answer.
    pub(crate) output_schema: Option<Value>,
}

/// What commands may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sandbox {
    /// Nothing
    ReadOnly,
    /// The thread's directory
    WorkspaceWrite,
    /// Everything
    DangerFullAccess,
}

/// What happens to approvals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ApprovalMode {
    /// Nobody is asked; what needs an approval fails
    #[default]
    Never,
    /// You are asked on the terminal before each command that codex does not trust
    Ask,
}

/// What to review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub(crate) enum Review {
    /// Changes that are not committed.
    Uncommitted,
    /// Changes against a branch.
    Base {
        /// The branch.
        branch: String,
    },
    /// The changes of one commit.
    Commit {
        /// Its name.
        sha: String,
    },
    /// What the prompt describes.
    Custom,
}

impl std::str::FromStr for Review {
    type Err = String;

    fn from_str(text: &str) -> Result<Review, String> {
        let named = |rest: &str| (!rest.is_empty()).then(|| rest.to_owned());
        let review = match text.split_once(':') {
            None if text == "uncommitted" => Some(Review::Uncommitted),
            None if text == "custom" => Some(Review::Custom),
            Some(("base", rest)) => named(rest).map(|branch| Review::Base { branch }),
            Some(("commit", rest)) => named(rest).map(|sha| Review::Commit { sha }),
            _ => None,
        };
        review.ok_or_else(|| {
            format!(
                "`{text}` is nothing to review; write `uncommitted`, `base:BRANCH`, `commit:SHA` or `custom`"
            )
        })
    }
}

impl Sandbox {
    /// Returns its name in `thread/start`.
    fn mode(self) -> &'static str {
        match self {
            Sandbox::ReadOnly => "read-only",
            Sandbox::WorkspaceWrite => "workspace-write",
            Sandbox::DangerFullAccess => "danger-full-access",
        }
    }

    /// Returns its policy in `turn/start`.
    fn policy(self) -> Value {
        json!({ "type": match self {
            Sandbox::ReadOnly => "readOnly",
            Sandbox::WorkspaceWrite => "workspaceWrite",
            Sandbox::DangerFullAccess => "dangerFullAccess",
        } })
    }
}

impl ApprovalMode {
    /// Returns codex's name of the policy. `untrusted` requests an approval for each command that is not known to
    /// be harmless.
    fn policy(self) -> &'static str {
        match self {
            ApprovalMode::Never => "never",
            ApprovalMode::Ask => "untrusted",
        }
    }
}

impl TurnRequest {
    /// Checks everything that can be checked without codex.
    ///
    /// # Errors
    ///
    /// With exit code 64.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let needs_prompt = matches!(self.review, None | Some(Review::Custom));
        if needs_prompt && self.prompt.trim().is_empty() {
            return Err(
                Error::usage("the prompt is empty").hint("codexd run 'what to do', or codexd run - < FILE")
            );
        }
        if self.review.is_some() && self.output_schema.is_some() {
            return Err(Error::usage("a review takes no `--output-schema`"));
        }
        Ok(())
    }

    /// Returns method and parameters of the request that opens the thread.
    pub(super) fn open_thread(&self) -> (&'static str, Value) {
        if let Some(thread) = &self.thread {
            // For a loaded thread, codex would ignore other parameters (measured). The request for the turn has them.
            return ("thread/resume", json!({ "threadId": thread, "excludeTurns": true }));
        }
        let mut params = Map::new();
        set(&mut params, "cwd", self.cwd.clone());
        set(&mut params, "model", self.model.clone());
        set(&mut params, "sandbox", self.sandbox.map(Sandbox::mode));
        set(&mut params, "approvalPolicy", Some(self.approval.policy()));
        ("thread/start", params.into())
    }

    /// Returns method and parameters of the request that starts the turn.
    pub(super) fn start_turn(&self, thread: &str) -> (&'static str, Value) {
        let mut params = Map::new();
        set(&mut params, "threadId", Some(thread));
        if let Some(review) = &self.review {
            let target = match review {
                Review::Uncommitted => json!({ "type": "uncommittedChanges" }),
                Review::Base { branch } => json!({ "type": "baseBranch", "branch": branch }),
                Review::Commit { sha } => json!({ "type": "commit", "sha": sha, "title": null }),
                Review::Custom => json!({ "type": "custom", "instructions": self.prompt }),
            };
            set(&mut params, "target", Some(target));
            set(&mut params, "delivery", Some("inline"));
            return ("review/start", params.into());
        }
        set(&mut params, "input", Some(json!([{ "type": "text", "text": self.prompt }])));
        set(&mut params, "effort", self.effort.clone());
        set(&mut params, "outputSchema", self.output_schema.clone());
        if self.thread.is_some() {
            set(&mut params, "cwd", self.cwd.clone());
            set(&mut params, "model", self.model.clone());
            set(&mut params, "sandboxPolicy", self.sandbox.map(Sandbox::policy));
            set(&mut params, "approvalPolicy", Some(self.approval.policy()));
        }
        ("turn/start", params.into())
    }
}

fn set(params: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        params.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_thread_gets_the_settings_and_an_old_one_the_turn() {
        let mut request = TurnRequest {
            prompt: "p".to_owned(),
            cwd: Some("/d".to_owned()),
            model: Some("m".to_owned()),
            effort: Some("low".to_owned()),
            sandbox: Some(Sandbox::ReadOnly),
            ..TurnRequest::default()
        };
        let thread = json!({"cwd": "/d", "model": "m", "sandbox": "read-only", "approvalPolicy": "never"});
        assert_eq!(request.open_thread(), ("thread/start", thread));
        let input = json!([{"type": "text", "text": "p"}]);
        assert_eq!(
            request.start_turn("t"),
            ("turn/start", json!({"threadId": "t", "input": input, "effort": "low"}))
        );
        request.thread = Some("t".to_owned());
        request.approval = ApprovalMode::Ask;
        assert_eq!(request.open_thread().1, json!({"threadId": "t", "excludeTurns": true}));
        let turn = request.start_turn("t").1;
        assert_eq!((&turn["approvalPolicy"], &turn["cwd"]), (&json!("untrusted"), &json!("/d")));
        assert_eq!(turn["sandboxPolicy"], json!({"type": "readOnly"}));
    }

    #[test]
    fn what_to_review_is_read_from_a_word() {
        let request = |text: &str| TurnRequest {
            prompt: "p".to_owned(),
            review: Some(text.parse().unwrap()),
            ..TurnRequest::default()
        };
        for (text, target) in [
            ("uncommitted", json!({"type": "uncommittedChanges"})),
            ("base:main", json!({"type": "baseBranch", "branch": "main"})),
            ("commit:abc", json!({"type": "commit", "sha": "abc", "title": null})),
            ("custom", json!({"type": "custom", "instructions": "p"})),
        ] {
            assert_eq!(request(text).start_turn("t").1["target"], target, "{text}");
        }
        for text in ["", "base", "base:", "commit:", "all", "x:y"] {
            assert!(text.parse::<Review>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_turn_without_a_prompt_is_refused_where_it_needs_one() {
        assert!(TurnRequest::default().check().unwrap_err().is_usage());
        let review = |review| TurnRequest { review: Some(review), ..TurnRequest::default() };
        assert!(review(Review::Uncommitted).check().is_ok());
        assert!(review(Review::Custom).check().is_err());
    }

    #[test]
    fn it_is_kept_as_json() {
        let request = TurnRequest {
            review: Some(Review::Base { branch: "b".to_owned() }),
            sandbox: Some(Sandbox::WorkspaceWrite),
            ..TurnRequest::default()
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<TurnRequest>(&text).unwrap(), request);
    }
}
