//! The `[[kind:argument]]` markers with which a prompt steers the fakes.
//!
//! One notation for both: the scripted model ([`crate::model`]) and the stand-in for codex (`fake-codex`) look for it
//! in the text of the prompt, so that a test states in the prompt itself what shall happen.

/// One marker: `[[kind]]` or `[[kind:argument]]`.
///
/// The argument ends at the first `]]` and so cannot contain one; it may contain anything else,
/// line ends too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Small letters, digits and hyphens.
    pub kind: String,
    /// What stands after the first colon; empty when there is none.
    pub argument: String,
}

impl Marker {
    /// Returns the `index`th part of the argument, split at colons, when it is there and not empty.
    pub fn part(&self, index: usize) -> Option<&str> {
        self.argument.split(':').nth(index).filter(|part| !part.is_empty())
    }

    /// Returns the `index`th part of the argument as a number.
    ///
    /// # Errors
    ///
    /// When the part is there and is not a number: a test with a typing error must fail, not wait.
    pub fn number<T: std::str::FromStr>(&self, index: usize, default: T) -> Result<T, String> {
        match self.part(index) {
            None => Ok(default),
            Some(part) => part.parse().map_err(|_| {
                format!("`{part}` in the marker `[[{}:{}]]` is not a number", self.kind, self.argument)
            }),
        }
    }
}

/// Returns the markers of `text`, in its order.
pub fn markers(text: &str) -> Vec<Marker> {
    split(text).0
}

/// Returns `text` without its markers.
pub fn without_markers(text: &str) -> String {
    split(text).1
}

fn split(text: &str) -> (Vec<Marker>, String) {
    let mut found = Vec::new();
    let mut rest_text = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("[[") {
        match marker_at(&rest[start + 2..]) {
            Some((marker, length)) => {
                rest_text.push_str(&rest[..start]);
                found.push(marker);
                rest = &rest[start + 2 + length..];
            }
            None => {
                rest_text.push_str(&rest[..=start]);
                rest = &rest[start + 1..];
            }
        }
    }
    rest_text.push_str(rest);
    (found, rest_text)
}

/// Reads one marker after its `[[`; returns it and the length up to and with its `]]`.
fn marker_at(text: &str) -> Option<(Marker, usize)> {
    let kind_length = text
        .bytes()
        .take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        .count();
    let (kind, rest) = text.split_at(kind_length);
    if kind.is_empty() {
        return None;
    }
    if rest.starts_with("]]") {
        return Some((Marker { kind: kind.to_owned(), argument: String::new() }, kind_length + 2));
    }
    let argument = rest.strip_prefix(':')?;
    let end = argument.find("]]")?;
    let marker = Marker { kind: kind.to_owned(), argument: argument[..end].to_owned() };
    Some((marker, kind_length + 1 + end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(String, String)> {
        markers(text).into_iter().map(|marker| (marker.kind, marker.argument)).collect()
    }

    #[test]
    fn markers_are_found_in_the_order_of_the_text() {
        let text = "say [[deltas:3:10]] and [[hang]] [no] [[shell:echo [x]; true]]";
        let expected = [("deltas", "3:10"), ("hang", ""), ("shell", "echo [x]; true")]
            .map(|(a, b)| (a.into(), b.into()));
        assert_eq!(kinds(text), expected);
        assert_eq!(without_markers(text), "say  and  [no] ");
    }

    #[test]
    fn what_is_not_a_marker_stays_text() {
        for text in ["[[", "[[]]", "[[Upper]]", "[[open:", "[ [a]]", "[[a b]]"] {
            assert_eq!(kinds(text), [], "{text}");
            assert_eq!(without_markers(text), text);
        }
        assert_eq!(kinds("[[[x]]"), [("x".to_owned(), String::new())]);
        assert_eq!(without_markers("[[[x]]"), "[");
    }

    #[test]
    fn a_part_that_is_no_number_is_an_error_and_an_absent_one_the_default() {
        let marker = &markers("[[deltas:x]]")[0];
        assert!(marker.number::<u32>(0, 1).is_err());
        assert_eq!(marker.number::<u32>(1, 7), Ok(7));
    }
}
