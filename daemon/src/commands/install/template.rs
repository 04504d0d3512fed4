//! Filling in the placeholders between @ signs, with the quoting that each place needs.

use crate::error::Error;

/// Replaces each `@NAME@` by its value, which is quoted already.
pub(super) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

/// Checks that a value can stand in a unit or an agent.
///
/// # Errors
///
/// When it has a line break or another control character: no quoting makes that readable again.
pub(super) fn check(name: &str, value: &str) -> Result<(), Error> {
    if value.chars().any(char::is_control) {
        return Err(Error::config(format!("`{name}` has a control character and cannot go into a service")));
    }
    Ok(())
}

/// Quotes a word of a systemd unit (`systemd.service(5)`, "Command lines"; `systemd.syntax(7)`).
///
/// For the program of `ExecStart=` and for `Environment=`, where `$` has no meaning; a percent sign would
/// begin a specifier (`systemd.unit(5)`).
pub(super) fn systemd_word(value: &str) -> String {
    let mut word = String::with_capacity(value.len() + 2);
    word.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            '%' => word.push_str("%%"),
            _ => word.push(c),
        }
    }
    word.push('"');
    word
}

/// Writes a value that takes the rest of a line of a systemd unit.
pub(super) fn systemd_line(value: &str) -> String {
    value.replace('%', "%%")
}

/// Writes text into an XML element.
pub(super) fn xml(value: &str) -> String {
    value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_their_place() {
        assert_eq!(systemd_word("/a b/100%/\"c\"\\d$e"), "\"/a b/100%%/\\\"c\\\"\\\\d$e\"");
        assert_eq!(xml("<a&b>"), "&lt;a&amp;b&gt;");
        assert_eq!(fill("x=@A@ @B@ @A@", &[("A", "1".to_owned()), ("B", "2".to_owned())]), "x=1 2 1");
        assert!(check("PATH", "/bin:/usr/bin").is_ok());
        assert_eq!(check("PATH", "/bin\nExecStart=/evil").unwrap_err().exit_code().number(), 78);
    }
}
