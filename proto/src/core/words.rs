//! Why the upstream was lost, by its own output: the last lines of its stderr, its error for the handshake, output
//! that is no message.

use super::Core;
use crate::lifecycle::{Intent, end_reason};
use crate::message::UpstreamMessage;
use crate::secrets::Secrets;
use crate::stderr::{explained, printable};

/// Bytes that are kept of a line that is no message, and of an error.
const KEPT_BYTES: usize = 200;

/// What the upstream wrote beside messages.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// What is masked in them.
    secrets: Secrets,
    /// The last lines of its stderr, masked by the shell.
    lines: Vec<String>,
    /// Its error when it refused the handshake.
    refusal: Option<String>,
    /// The first line of its output that is no message, if it came before clients were served: none of theirs
    /// can be in it.
    odd_line: Option<String>,
}

impl Words {
    pub(super) fn new(secrets: Secrets) -> Words {
        Words { secrets, ..Words::default() }
    }

    /// Returns text of the upstream's as people may see it.
    pub(super) fn mask(&self, text: &str) -> String {
        self.secrets.mask(&printable(text.as_bytes(), KEPT_BYTES)).into_owned()
    }

    /// The last lines of its stderr are these.
    pub(super) fn wrote(&mut self, lines: &[String]) {
        self.lines = lines.to_vec();
    }

    /// It refused the handshake; returns why, as people may see it.
    pub(super) fn refused(&mut self, message: &str) -> String {
        let message = self.mask(message);
        self.refusal = Some(message.clone());
        message
    }

    /// Looks at a line of output that came before clients were served.
    pub(super) fn early_line(&mut self, line: &[u8]) {
        let is_message = core::str::from_utf8(line).is_ok() && UpstreamMessage::read(line).is_some();
        if self.odd_line.is_none() && !is_message && !line.trim_ascii().is_empty() {
            self.odd_line = Some(self.mask(&String::from_utf8_lossy(line)));
        }
    }
}

impl Core {
    /// Returns the last lines that the upstream wrote, if it was lost without a request to stop.
    pub fn upstream_lines(&self) -> Vec<String> {
        match self.lifecycle.intent() {
            Some(Intent::UpstreamLost(_) | Intent::HandshakeRefused) => {}
            Some(Intent::Stop(_) | Intent::SpawnFailed(_)) | None => return Vec::new(),
        }
        let Words { lines, refusal, odd_line, .. } = &self.words;
        let odd_line = odd_line.iter().map(|line| format!("on stdout: {line}"));
        let refusal = refusal.iter().map(|text| format!("in answer to `initialize`: {text}"));
        lines.iter().cloned().chain(odd_line).chain(refusal).collect()
    }

    /// Adds the upstream's own output to a reason, in the same line.
    pub(super) fn explain(&self, reason: String) -> String {
        match (self.lifecycle.intent(), &self.words.refusal) {
            (Some(Intent::HandshakeRefused), Some(refusal)) => format!("{reason}: {refusal}"),
            _ => explained(&reason, &self.upstream_lines()),
        }
    }

    /// Returns why the daemon ends: codexd's reason, then the upstream's own output, in one line.
    pub fn reason(&self) -> String {
        self.explain(self.cause())
    }

    /// Returns why the daemon ends: codexd's reason alone.
    pub fn cause(&self) -> String {
        end_reason::reason(self.lifecycle.intent(), self.lifecycle.child())
    }
}
