//! A member that the bridge adds to what its client says.

use codexd_proto::json::Span;
use codexd_proto::json::edit::Edits;
use codexd_proto::json::scan::{Members, member};

/// Returns the line with the member `name` put into the object at `object` where it is absent or null; `None` where
/// there is nothing to do, or no object. `value` is JSON text.
pub(super) fn put_if_absent(line: &[u8], object: Span, name: &str, value: Vec<u8>) -> Option<Vec<u8>> {
    if line.get(object.start) != Some(&b'{') {
        return None;
    }
    let added = name.len() + value.len() + 4;
    let mut edits = Edits::new();
    match member(line, object.start, name.as_bytes()) {
        Some(span) if span.of(line) == b"null" => edits.replace_owned(span, value),
        Some(_) => return None,
        None => {
            let mut text = format!("\"{name}\":").into_bytes();
            text.extend_from_slice(&value);
            if Members::new(line, object.start).next().is_some() {
                text.push(b',');
            }
            let open = object.start + 1;
            edits.replace_owned(Span { start: open, end: open }, text);
        }
    }
    let mut out = Vec::with_capacity(line.len() + added);
    edits.write(line, &mut out);
    Some(out)
}
