//! Connection-scoped ids: each client has its own, the upstream has one connection.
//!
//! On the way up `"p"` of client 7 becomes `"7:p"`, on the way down it becomes `"p"` again,
//! also where the upstream quotes it in the text of an error. No table is needed to find the owner
//! of an id that comes down: it says so itself.

use crate::id::{ClientId, write_u64};
use crate::json::Span;
use crate::json::edit::{member_name, read_string, write_string};
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
    let is_it = |key: &[u8]| *member_name(key) == *name.as_bytes();
    Members::new(line, params.start).filter(|m| is_it(m.key.of(line))).map(|m| m.value).last()
}

/// Tells whether `command/exec` streams, so that it needs an id of the client's own.
pub(super) fn streams(line: &[u8], params: Span) -> bool {
    ["tty", "streamStdin", "streamStdoutStderr"]
        .iter()
        .any(|flag| member(line, params.start, flag.as_bytes()).is_some_and(|v| v.of(line) == b"true"))
}

/// Returns a JSON string with every mention of the id as the upstream knows it put back; `None` when
/// there is none. `id` is what stands between the quotes of the client's own.
///
/// The upstream quotes ids as they are, or as `Debug` writes them.
pub(super) fn restore_mentions(text: &[u8], prefix: &[u8], id: &[u8]) -> Option<Vec<u8>> {
    let prefix = core::str::from_utf8(prefix).ok()?;
    let text = read_string(text)?;
    let id = read_string(&[b"\"", id, b"\""].concat())?;
    let quoted = format!("{id:?}");
    // Without the quotes of the whole: the prefix stands behind the first one.
    let forms = [id.as_str(), &quoted[1..quoted.len() - 1]];
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(prefix) {
        let behind = &rest[at + prefix.len()..];
        // `17:p` is not a mention of `7:p`.
        let inside = rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let found = !inside && forms.iter().any(|form| behind.starts_with(form));
        out.push_str(&rest[..at]);
        if !found {
            out.push_str(prefix);
        }
        rest = behind;
    }
    if out.len() + rest.len() == text.len() {
        return None;
    }
    out.push_str(rest);
    let mut json = Vec::with_capacity(out.len() + 2);
    write_string(&mut json, &out);
    Some(json)
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
        let restored = |text: &str, id: &str| {
            let restored = restore_mentions(text.as_bytes(), b"7:", id.as_bytes())?;
            Some(String::from_utf8(restored).unwrap())
        };
        assert_eq!(
            restored(r#""duplicate active command/exec process id: \"7:p2\", not \"17:p2\"""#, "p2")
                .as_deref(),
            Some(r#""duplicate active command/exec process id: \"p2\", not \"17:p2\"""#)
        );
        assert_eq!(
            restored(r#""watchId already exists: 7:w""#, "w").as_deref(),
            Some(r#""watchId already exists: w""#)
        );
        // Quoted once by the upstream, and once more by JSON.
        assert_eq!(
            restored(r#""no active command/exec for process id \"7:a \\\"b\\\" é\"""#, r#"a \"b\" \u00e9"#)
                .as_deref(),
            Some(r#""no active command/exec for process id \"a \\\"b\\\" é\"""#)
        );
        assert_eq!(restored(r#""no such thing: \"77:p\"""#, "p"), None);
        assert_eq!(
            restored(r#""no active process for process handle \"7:\"""#, "").as_deref(),
            Some(r#""no active process for process handle \"\"""#)
        );
    }
}
