//! Connection-scoped ids: each client has its own, the upstream has one connection.
//!
//! On the way up `"p"` of client 7 becomes `"7:p"`, on the way down it becomes `"p"` again,
//! also where the upstream quotes it in the text of an error. No table is needed to find the owner
//! of an id that comes down: it says so itself.

use crate::id::{ClientId, write_u64};
use crate::json::Span;
use crate::json::scan::{Members, member};

/// Returns what is put before an id of `client`.
pub(super) fn prefix(client: ClientId) -> Vec<u8> {
    let mut text = Vec::with_capacity(12);
    write_u64(&mut text, u64::from(client.0));
    text.push(b':');
    text
}

/// Takes apart an id that came down: its owner, and how long the prefix is.
pub(super) fn owner(id: &[u8]) -> Option<(ClientId, usize)> {
    let digits = id.iter().take_while(|b| b.is_ascii_digit()).count();
    if id.get(digits) != Some(&b':') {
        return None;
    }
    let number = core::str::from_utf8(&id[..digits]).ok()?.parse().ok()?;
    Some((ClientId(number), digits + 1))
}

/// Returns the last member of that name, as the upstream's parser takes the last one.
pub(super) fn last_member(line: &[u8], params: Span, name: &str) -> Option<Span> {
    Members::new(line, params.start).filter(|m| m.key.of(line) == name.as_bytes()).map(|m| m.value).last()
}

/// Tells whether `command/exec` streams, so that it needs an id of the client's own.
pub(super) fn streams(line: &[u8], params: Span) -> bool {
    ["tty", "streamStdin", "streamStdoutStderr"]
        .iter()
        .any(|flag| member(line, params.start, flag.as_bytes()).is_some_and(|v| v.of(line) == b"true"))
}

/// Returns `text` with every mention of the id as the upstream knows it put back.
pub(super) fn restore_mentions(text: &[u8], prefix: &[u8], id: &[u8]) -> Vec<u8> {
    let mut full = prefix.to_vec();
    full.extend_from_slice(id);
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(text, &full) {
        // `17:p` is not a mention of `7:p`.
        if at > 0 && text[at - 1].is_ascii_alphanumeric() {
            continue;
        }
        out.extend_from_slice(&text[from..at]);
        from = at + prefix.len();
    }
    out.extend_from_slice(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_whose_it_is() {
        assert_eq!(prefix(ClientId(42)), b"42:");
        assert_eq!(owner(b"42:p1"), Some((ClientId(42), 3)));
        assert_eq!(owner(b"42:1:x"), Some((ClientId(42), 3)));
        for foreign in [&b"p1"[..], b":p", b"", b"42", b"99999999999:p"] {
            assert_eq!(owner(foreign), None);
        }
    }

    #[test]
    fn mentions_in_errors_are_put_back() {
        let text = br#"duplicate active command/exec process id: \"7:p2\", not \"17:p2\""#;
        assert_eq!(
            restore_mentions(text, b"7:", b"p2"),
            br#"duplicate active command/exec process id: \"p2\", not \"17:p2\""#
        );
    }
}
