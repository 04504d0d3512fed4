//! What a turn is doing, as far as its items show.

/// The kind of the item that began last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No item but the prompt has begun: the model is working on its first one.
    #[default]
    Starting,
    Reasoning,
    Command,
    FileChange,
    Tool,
    Message,
    SubAgent,
    /// An item of another kind.
    Other,
}

impl Phase {
    /// Parses the type of an item (`ThreadItem` in the schema of codex 0.169).
    pub(crate) fn of_item(kind: &[u8]) -> Phase {
        match kind {
            b"userMessage" | b"hookPrompt" => Phase::Starting,
            b"reasoning" | b"plan" => Phase::Reasoning,
            b"commandExecution" => Phase::Command,
            b"fileChange" => Phase::FileChange,
            b"mcpToolCall" | b"dynamicToolCall" | b"webSearch" | b"imageView" => Phase::Tool,
            b"agentMessage" => Phase::Message,
            b"collabAgentToolCall" | b"subAgentActivity" => Phase::SubAgent,
            _ => Phase::Other,
        }
    }

    /// Returns the word used in JSON and on the terminal.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Reasoning => "reasoning",
            Phase::Command => "command",
            Phase::FileChange => "fileChange",
            Phase::Tool => "tool",
            Phase::Message => "message",
            Phase::SubAgent => "subAgent",
            Phase::Other => "other",
        }
    }
}
