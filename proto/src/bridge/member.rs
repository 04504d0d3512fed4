//! A member that the bridge adds to a message of its client.

use crate::json::Span;
use crate::json::edit::Edits;
use crate::json::scan::has_members;
use crate::message::Params;

/// Returns the line with the parameter `name` put in where it is absent or null; `None` where there is nothing to do.
/// `value` is JSON text, `order` has the names by position.
///
/// By position, only a null is replaced: nothing is appended to parameters that end before it.
pub(super) fn put_if_absent(
    line: &[u8],
    params: &Params,
    name: &str,
    order: &[&str],
    value: Vec<u8>,
) -> Option<Vec<u8>> {
    let object = params.span;
    let added = name.len() + value.len() + 4;
    let mut edits = Edits::new();
    match params.get(name, order) {
        Some(span) if span.of(line) == b"null" => edits.replace_owned(span, value),
        Some(_) => return None,
        None if line.get(object.start) != Some(&b'{') => return None,
        None => {
            let mut text = format!("\"{name}\":").into_bytes();
            text.extend_from_slice(&value);
            if has_members(line, object.start) {
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
