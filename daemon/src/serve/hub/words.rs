//! Why the upstream was lost, in its own words: the last lines of its stderr, what it answered to the handshake,
//! what it wrote in place of messages.

use codexd_proto::lifecycle::{Intent, State};
use codexd_proto::message::UpstreamMessage;
use codexd_proto::stderr::{explained, printable};

use super::Hub;

/// Bytes that are kept of a line that is no message.
const ODD_LINE_BYTES: usize = 200;

/// What the upstream said beside messages.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Its error when it refused the handshake.
    pub(super) refusal: Option<String>,
    /// The first line of its output that is no message, if it came before clients were served: none of theirs
    /// can be in it.
    odd_line: Option<String>,
}

impl Words {
    /// Looks at a line of output that came before clients were served.
    pub(super) fn early_line(&mut self, line: &[u8]) {
        let is_message = std::str::from_utf8(line).is_ok() && UpstreamMessage::read(line).is_some();
        if self.odd_line.is_none() && !is_message && !line.trim_ascii().is_empty() {
            self.odd_line = Some(printable(line, ODD_LINE_BYTES));
        }
    }
}

impl Hub {
    /// Whether the upstream has still to answer the handshake.
    pub(super) fn is_before_serving(&self) -> bool {
        matches!(self.lifecycle.state(), State::Starting | State::Handshaking)
    }

    /// Returns the last lines that the upstream wrote, if it is lost and nobody had asked for that.
    pub(super) fn last_lines(&self) -> Vec<String> {
        match self.lifecycle.intent() {
            Some(Intent::UpstreamLost(_) | Intent::HandshakeRefused) => {}
            Some(Intent::Stop(_) | Intent::SpawnFailed(_)) | None => return Vec::new(),
        }
        let mut lines = self.upstream.stderr().lines();
        let said = |what: &str, text: &String| {
            format!("{what}: {}", self.upstream.stderr().mask(&printable(text.as_bytes(), ODD_LINE_BYTES)))
        };
        lines.extend(self.words.odd_line.as_ref().map(|line| said("on stdout", line)));
        lines.extend(self.words.refusal.as_ref().map(|text| said("in answer to `initialize`", text)));
        lines
    }

    /// Adds to a reason what the upstream said itself, in the same line.
    pub(super) fn explain(&self, reason: String) -> String {
        match (self.lifecycle.intent(), &self.words.refusal) {
            (Some(Intent::HandshakeRefused), Some(refusal)) => {
                let refusal = printable(refusal.as_bytes(), ODD_LINE_BYTES);
                format!("{reason}: {}", self.upstream.stderr().mask(&refusal))
            }
            _ => explained(&reason, &self.last_lines()),
        }
    }

    /// Logs the last lines of an upstream that has ended.
    pub(super) fn log_last_lines(&self) {
        for line in self.last_lines() {
            tracing::error!(
                upstream.pid = self.identity.upstream.pid,
                %line,
                "codex app-server wrote before it ended"
            );
        }
    }
}
