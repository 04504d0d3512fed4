//! The members of a line, found with the scanner of `codexd-proto`.
use codexd_proto::json::scan::{Members, member, string_inner};

#[derive(Default, Clone, Copy, Debug)]
pub struct Top<'a> {
    pub id: Option<&'a [u8]>,
    pub id_span: (usize, usize),
    /// Without the quotes.
    pub method: Option<&'a [u8]>,
    pub params: Option<&'a [u8]>,
    pub result: Option<&'a [u8]>,
    pub error: Option<&'a [u8]>,
}

/// Returns the members of a message, or `None` if the line is not one whole object.
#[inline]
pub fn top(line: &[u8]) -> Option<Top<'_>> {
    let mut top = Top::default();
    let mut members = Members::new(line, 0);
    for m in members.by_ref() {
        let value = Some(m.value.of(line));
        match m.key.of(line) {
            b"id" => {
                top.id = value;
                top.id_span = (m.value.start, m.value.end);
            }
            b"method" => top.method = string_inner(line, m.value).map(|s| s.of(line)),
            b"params" => top.params = value,
            b"result" => top.result = value,
            b"error" => top.error = value,
            _ => {}
        }
    }
    members.end().map(|_| top)
}

/// Returns the value of a member of an object.
#[inline]
pub fn get<'a>(object: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    member(object, 0, key).map(|span| span.of(object))
}

/// Returns a string member without its quotes; escapes stay.
#[inline]
pub fn get_str<'a>(object: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let value = member(object, 0, key)?;
    string_inner(object, value).map(|span| span.of(object))
}

#[cfg(test)]
#[test]
fn members_are_found_in_whole_lines_only() {
    let t = top(br#" {"id" : "a\"b", "method":"x/y","params":{"a":[1,{"q":"}"}],"threadId":"T"}} "#).unwrap();
    assert_eq!(t.id.unwrap(), br#""a\"b""#);
    assert_eq!(t.method.unwrap(), b"x/y");
    assert_eq!(get_str(t.params.unwrap(), b"threadId").unwrap(), b"T");
    assert!(top(b"{\"id\":1").is_none());
    assert_eq!(top(br#"{"id":5.5,"result":{}}"#).unwrap().id.unwrap(), b"5.5");
}
