//! What the upstream wrote that explains its end: the last lines of its stderr, its error response to the
//! handshake, and output that is not a message.

use super::Core;
use crate::lifecycle::{Intent, end_reason};
use crate::message::UpstreamMessage;
use crate::secrets::Secrets;
use crate::stderr::{explained, printable};

/// Bytes that are kept of an error, and of a line that is not a message.
const KEPT_BYTES: usize = 200;

/// What the upstream wrote that is not a message.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// Values that are masked in it.
    secrets: Secrets,
    /// The last lines of its stderr, masked by the shell.
    lines: Vec<String>,
    /// Its error response to the handshake.
    refusal: Option<String>,
    /// The first line of its output that is not a message, if it came before clients were served. It contains
    /// nothing of a client then.
    odd_line: Option<String>,
}

impl Diagnosis {
    pub(super) fn new(secrets: Secrets) -> Diagnosis {
        Diagnosis { secrets, ..Diagnosis::default() }
    }

    /// Returns a text of the upstream with secrets masked and without control characters, cut to [`KEPT_BYTES`].
    pub(super) fn mask(&self, text: &str) -> String {
        self.secrets.mask(&printable(text.as_bytes(), KEPT_BYTES)).into_owned()
    }

    /// Replaces the last lines of its stderr.
    pub(super) fn set_stderr(&mut self, lines: &[String]) {
        self.lines = lines.to_vec();
    }

    /// Records that it refused the handshake. Returns the masked message.
    pub(super) fn refused(&mut self, message: &str) -> String {
        let message = self.mask(message);
        self.refusal = Some(message.clone());
        message
    }

    /// Records a line of output that came before clients were served, if it is not a message.
    pub(super) fn record_early_line(&mut self, line: &[u8]) {
        let is_message = core::str::from_utf8(line).is_ok() && UpstreamMessage::read(line).is_some();
        if self.odd_line.is_none() && !is_message && !line.trim_ascii().is_empty() {
            self.odd_line = Some(self.mask(&String::from_utf8_lossy(line)));
        }
    }
}

impl Core {
    /// Returns the last lines that the upstream wrote, if it was lost and nobody had requested a stop.
    pub fn upstream_lines(&self) -> Vec<String> {
        match self.lifecycle.intent() {
            Some(Intent::UpstreamLost(_) | Intent::HandshakeRefused) => {}
            Some(Intent::Stop(_) | Intent::Upgrade | Intent::SpawnFailed(_)) | None => return Vec::new(),
        }
        let Diagnosis { lines, refusal, odd_line, .. } = &self.diagnosis;
        let odd_line = odd_line.iter().map(|line| format!("on stdout: {line}"));
        let refusal = refusal.iter().map(|text| format!("in answer to `initialize`: {text}"));
        lines.iter().cloned().chain(odd_line).chain(refusal).collect()
    }

    /// Appends the upstream's own output to a reason, in the same line.
    pub(super) fn explain(&self, reason: String) -> String {
        match (self.lifecycle.intent(), &self.diagnosis.refusal) {
            (Some(Intent::HandshakeRefused), Some(refusal)) => format!("{reason}: {refusal}"),
            _ => explained(&reason, &self.upstream_lines()),
        }
    }

    /// Returns why the daemon ends, in one line: codexd's reason, then the upstream's own output.
    pub fn reason(&self) -> String {
        self.explain(self.cause())
    }

    /// Returns why the daemon ends, without the upstream's own output.
    pub fn cause(&self) -> String {
        end_reason::reason(self.lifecycle.intent(), self.lifecycle.child())
    }
}
