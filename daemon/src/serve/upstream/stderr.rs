//! The upstream's stderr: always read, so that it never stops the upstream, and logged.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStderr;

/// Bytes of one line that are logged.
const LINE_BYTES: usize = 2 << 10;

/// Logs every line until the end.
///
/// At `debug`: the upstream quotes what it was sent in its errors, and people's prompts and code
/// do not belong in a log unless asked for.
pub(super) async fn log_lines(stderr: ChildStderr) {
    let mut reader = BufReader::with_capacity(LINE_BYTES, stderr);
    loop {
        let chunk = match reader.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(chunk) => chunk,
        };
        let used = chunk.len();
        for line in chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            tracing::debug!(target: "codexd::upstream::stderr", line = %plain(line), "codex app-server");
        }
        reader.consume(used);
    }
}

/// Returns the text without the escape sequences of colours.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // ESC [ ... letter (ECMA-48, control sequences).
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_control_characters_do_not_reach_the_log() {
        assert_eq!(plain(b"\x1b[31mERROR\x1b[0m broken\x07 line\r"), "ERROR broken line");
    }
}
