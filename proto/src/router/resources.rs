//! Connection-scoped resources: commands, processes, watches and event streams that end with their client.
//!
//! Their ids are scoped to a connection, and the upstream has only one. In messages to the upstream, the id `"p"`
//! of client 7 becomes `"7:p"`. In messages to the client, it becomes `"p"` again, also where the text of an error
//! quotes it. The id names its owner, so no table is needed to find that.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::Limits;
use super::params::Params;
use crate::id::{ClientId, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, read_string, write_string, write_text};
use crate::json::scan::{has_members, member, skip_space, string_inner};
use crate::json::text::decoded;
use crate::routes::Resource;

/// A resource that ends with its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenResource {
    pub(super) resource: Resource,
    /// The text of the client's id.
    pub(super) id: Box<[u8]>,
}

/// The resources that clients have opened.
#[derive(Debug, Default)]
pub(super) struct Resources {
    clients: FxHashMap<ClientId, Vec<OpenResource>>,
    /// Number of the next command that gets an id from codexd.
    next_command: u64,
}

impl Resources {
    pub(super) fn opened(&mut self, client: ClientId, resource: Resource, id: &[u8]) {
        self.clients.entry(client).or_default().push(OpenResource { resource, id: id.into() });
    }

    pub(super) fn closed(&mut self, client: ClientId, resource: Resource, id: &[u8]) {
        if let Some(open) = self.clients.get_mut(&client) {
            open.retain(|r| r.resource != resource || *r.id != *id);
        }
    }

    /// Removes everything that a client has opened.
    pub(super) fn take(&mut self, client: ClientId) -> Vec<OpenResource> {
        self.clients.remove(&client).unwrap_or_default()
    }

    /// Returns whether a client has so many resources open that it cannot open one with this id.
    pub(super) fn are_too_many(&self, client: ClientId, id: &[u8], limits: &Limits) -> bool {
        let open = self.clients.get(&client).map_or(&[][..], Vec::as_slice);
        let bytes = open.iter().map(|open| open.id.len()).sum::<usize>();
        open.len() >= limits.resources_per_client || bytes + id.len() > limits.resource_id_bytes_per_client
    }

    /// Returns an id for a command that has none.
    pub(super) fn next_command(&mut self) -> Box<[u8]> {
        let mut id = b"~".to_vec();
        write_u64(&mut id, self.next_command);
        self.next_command += 1;
        id.into()
    }

    /// Returns how many resources are open.
    pub(super) fn len(&self) -> usize {
        self.clients.values().map(Vec::len).sum()
    }
}

/// Returns the prefix of `client`'s ids.
pub(super) fn prefix(client: ClientId) -> Vec<u8> {
    let mut text = Vec::with_capacity(12);
    write_u64(&mut text, u64::from(client.0));
    text.push(b':');
    text
}

/// Parses an id in a message of the upstream. Returns its owner and the length of the prefix.
pub(super) fn owner(id: &[u8]) -> Option<(ClientId, usize)> {
    let digits = id.iter().take_while(|b| b.is_ascii_digit()).count();
    if id.get(digits) != Some(&b':') {
        return None;
    }
    let number = core::str::from_utf8(&id[..digits]).ok()?.parse().ok()?;
    Some((ClientId(number), digits + 1))
}

/// Returns whether a `command/exec` streams. Then it must have an id of the client.
pub(super) fn streams(params: Params<'_>) -> bool {
    ["tty", "streamStdin", "streamStdoutStderr"].iter().any(|flag| params.is_true(flag))
}

/// A connection-scoped id in a message of the upstream.
pub(super) struct Owned<'a> {
    /// The client that owns it.
    pub(super) client: ClientId,
    /// The text of the client's own id.
    pub(super) id: Cow<'a, [u8]>,
    /// The span to replace in the line.
    pub(super) span: Span,
    /// The client's own id, as JSON.
    pub(super) own: Vec<u8>,
}

/// Reads the connection-scoped id at `value` in a message of the upstream.
pub(super) fn owned(line: &[u8], value: Span) -> Option<Owned<'_>> {
    let inner = string_inner(line, value)?;
    let spelled = inner.of(line);
    if let Some((client, prefix)) = owner(spelled) {
        let span = Span { start: inner.start, end: inner.start + prefix };
        return Some(Owned { client, id: decoded(&spelled[prefix..]), span, own: Vec::new() });
    }
    // The upstream does not escape digits and colons, but it could.
    let text = decoded(spelled);
    let (client, prefix) = owner(&text)?;
    let id = text[prefix..].to_vec();
    let mut own = Vec::new();
    write_text(&mut own, &id);
    Some(Owned { client, id: id.into(), span: value, own })
}

/// Returns a JSON string in which every mention of the upstream's id is replaced by the client's own; `None` if
/// there is none. `id` is the text of the client's own id.
///
/// The upstream quotes ids verbatim, as JSON or in Rust's `Debug` notation, depending on the request (measured). All
/// three are recognised.
pub(super) fn restore_mentions(text: &[u8], prefix: &[u8], id: &[u8]) -> Option<Vec<u8>> {
    let prefix = core::str::from_utf8(prefix).ok()?;
    let text = read_string(text)?;
    let id = core::str::from_utf8(id).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find(prefix).map(|at| from + at) {
        let behind = at + prefix.len();
        from = behind;
        // `7:p` is not mentioned in `17:p`.
        let inside = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        if !inside && let Some(length) = length_of_mention(&text[behind..], id) {
            out.push_str(&text[copied..at]);
            copied = behind;
            // Mentions within the rest of the id are part of the client's own id.
            from = behind + length;
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    let mut json = Vec::with_capacity(out.len() + 2);
    write_string(&mut json, &out);
    Some(json)
}

/// Returns the length of the id at the beginning of a text, verbatim or escaped; `None` if the text begins with
/// something else.
fn length_of_mention(text: &str, id: &str) -> Option<usize> {
    let escaped = || {
        let mut rest = text;
        for wanted in id.chars() {
            rest = unescaped(rest).filter(|(c, _)| *c == wanted)?.1;
        }
        Some(text.len() - rest.len())
    };
    if text.starts_with(id) { Some(id.len()) } else { escaped() }
}

/// Splits off the first character of a text in which a backslash begins an escape of JSON or Rust.
fn unescaped(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, chars.as_str()));
    }
    let plain = match chars.next()? {
        'u' => return unescaped_unicode(chars.as_str()),
        'x' => {
            let (digits, rest) = chars.as_str().split_at_checked(2)?;
            return Some((char::from(u8::from_str_radix(digits, 16).ok()?), rest));
        }
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'b' => '\u{8}',
        'f' => '\u{c}',
        '0' => '\0',
        other => other,
    };
    Some((plain, chars.as_str()))
}

/// Splits off what follows `\u`: `{1f600}`, four digits, or four digits twice for a surrogate pair.
fn unescaped_unicode(text: &str) -> Option<(char, &str)> {
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    if let Some(braced) = text.strip_prefix('{') {
        let (digits, rest) = braced.split_once('}')?;
        return Some((char::from_u32(number(digits)?)?, rest));
    }
    let (digits, rest) = text.split_at_checked(4)?;
    let high = number(digits)?;
    if let Some(c) = char::from_u32(high) {
        return Some((c, rest));
    }
    let (digits, rest) = rest.strip_prefix("\\u")?.split_at_checked(4)?;
    let pair = [u16::try_from(high).ok()?, u16::try_from(number(digits)?).ok()?];
    Some((char::decode_utf16(pair).next()?.ok()?, rest))
}

/// Puts an id into parameters without one, or with null.
pub(super) fn inject(
    edits: &mut Edits<'_>,
    line: &[u8],
    params: Span,
    name: &str,
    null: Option<Span>,
    id: &[u8],
) {
    let mut text = Vec::new();
    if null.is_none() {
        write_string(&mut text, name);
        text.push(b':');
    }
    text.push(b'"');
    text.extend_from_slice(id);
    text.push(b'"');
    match null {
        Some(span) => edits.replace_owned(span, text),
        None => {
            let at = skip_space(line, params.start + 1);
            if has_members(line, params.start) {
                text.push(b',');
            }
            edits.replace_owned(Span { start: at, end: at }, text);
        }
    }
}

/// Replaces the upstream's id by the client's own in a response.
pub(super) fn restore_ids(
    edits: &mut Edits<'_>,
    line: &[u8],
    body: Span,
    client: ClientId,
    resource: Resource,
    id: &[u8],
    failed: bool,
) {
    if failed {
        if let Some(message) = member(line, body.start, b"message")
            && let Some(text) = restore_mentions(message.of(line), &prefix(client), id)
        {
            edits.replace_owned(message, text);
        }
    } else if let Some(value) = member(line, body.start, resource.id_param().as_bytes())
        && let Some(owned) = owned(line, value).filter(|owned| owned.client == client)
    {
        edits.replace_owned(owned.span, owned.own);
    }
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
    fn an_id_is_read_however_it_is_spelled() {
        for (line, id, rest) in [
            (r#""42:p""#, "p", r#""p""#),
            (r#""42:\u0070\/""#, "p/", r#""\u0070\/""#),
            (r#""\u00342:\u0070\"""#, "p\"", r#""p\"""#),
            (r#""42\u003a""#, "", r#""""#),
        ] {
            let owned = owned(line.as_bytes(), Span { start: 0, end: line.len() }).unwrap();
            assert_eq!((owned.client, owned.id.as_ref()), (ClientId(42), id.as_bytes()), "{line}");
            let mut edits = Edits::new();
            edits.replace_owned(owned.span, owned.own);
            let mut out = Vec::new();
            edits.write(line.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), rest, "{line}");
        }
        for line in [r#""p""#, r#""42\u0070:""#, "42", "null"] {
            assert!(owned(line.as_bytes(), Span { start: 0, end: line.len() }).is_none(), "{line}");
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
            restored(r#""no active command/exec for process id \"7:a \\\"b\\\" é\"""#, r#"a "b" é"#)
                .as_deref(),
            Some(r#""no active command/exec for process id \"a \\\"b\\\" é\"""#)
        );
        assert_eq!(restored(r#""no such thing: \"77:p\"""#, "p"), None);
        assert_eq!(
            restored(r#""no active process for process handle \"7:\"""#, "").as_deref(),
            Some(r#""no active process for process handle \"\"""#)
        );
    }

    #[test]
    fn mentions_are_put_back_in_whichever_notation_the_upstream_quotes_them() {
        let id = "\0\u{1b}[0m\n\r\t\"\\'\u{7f}\u{85}\u{2028}\u{feff}e\u{301}\u{1F600}7:7:";
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let ascii: String = id.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let notations = [
            id.to_owned(),
            json(id)[1..].trim_end_matches('"').to_owned(),
            format!("{id:?}")[1..].trim_end_matches('"').to_owned(),
            id.escape_default().to_string(),
            id.escape_unicode().to_string(),
            ascii,
        ];
        for quoted in notations {
            let text = json(&format!("no such process: \"7:{quoted}\", only 17:{quoted} and 7: others"));
            let restored = restore_mentions(text.as_bytes(), b"7:", id.as_bytes()).unwrap();
            let expected = json(&format!("no such process: \"{quoted}\", only 17:{quoted} and 7: others"));
            assert_eq!(String::from_utf8(restored).unwrap(), expected);
        }
        assert_eq!(length_of_mention("\\ud83d", "\u{1F600}"), None);
        assert_eq!(length_of_mention("\\u{", "x"), None);
        assert_eq!(length_of_mention("\\x4", "@"), None);
        assert_eq!(length_of_mention("\\", "\\"), Some(1));
    }
}
