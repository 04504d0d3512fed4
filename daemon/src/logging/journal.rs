//! The log in the journal: each line with its priority, and each of its fields as a field of the journal, so that
//! `journalctl CODEXD_THREAD=...` finds what concerns one thread.
//!
//! The lines come from the log's own thread, as JSON; this is their last step. `tracing-journald` does the same in the
//! thread that logs, on a socket that blocks while the journal is stopped, and that thread is here the one that serves
//! all clients. It also sends the constant sentence alone as the text, and `journalctl` shows nothing but the text.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::format::LogFormat;
use crate::os::journal;

/// Where the journal takes entries (`systemd-journald.service(8)`); those of users' services, too.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// What journalctl names as the program.
const IDENTIFIER: &str = "codexd";

/// Priorities of `syslog(3)`.
const WARNING: char = '4';
const DEBUG: char = '7';

/// Sends each line that is written to the journal; or to stderr, with its priority in front (`sd-daemon(3)`), where the
/// journal does not take it.
#[derive(Debug)]
pub(super) struct Journal<W> {
    socket: Option<UnixDatagram>,
    path: PathBuf,
    format: LogFormat,
    stderr: W,
    /// Fields that every entry has.
    common: Vec<u8>,
}

/// A line of the log, as the JSON format has it.
#[derive(Deserialize)]
struct Line {
    level: String,
    target: String,
    fields: Fields,
}

/// The fields of a line, in their order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, String)>,
}

impl<W: Write> Journal<W> {
    /// Sends to the socket at `path`. The text of an entry has this format.
    pub(super) fn new(path: &Path, format: LogFormat, stderr: W) -> Journal<W> {
        let mut common = Vec::new();
        put(&mut common, "SYSLOG_IDENTIFIER", IDENTIFIER);
        Journal { socket: UnixDatagram::unbound().ok(), path: path.to_owned(), format, stderr, common }
    }

    /// Has every entry name this life of the unit (`INVOCATION_ID`, `systemd.exec(5)`), in the manager's own field for it.
    /// The journal looks it up too, but not always in time for the first lines of a process (seen with systemd 252).
    pub(super) fn of_life(mut self, life: Option<String>) -> Journal<W> {
        if let Some(life) = life {
            put(&mut self.common, "INVOCATION_ID", &life);
        }
        self
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let (priority, text, mut entry) = entry(line, self.format);
        entry.extend_from_slice(&self.common);
        // The path is looked up each time: the journal may be started again. An entry that is too long for the socket
        // goes to stderr, where the journal takes it in parts.
        let sent = match &self.socket {
            Some(socket) => socket.send_to(&entry, &self.path).is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { self.stderr.write_all(format!("<{priority}>{text}\n").as_bytes()) }
    }
}

impl<W: Write> Write for Journal<W> {
    /// Each call brings one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line)?;
        Ok(line.len())
    }

    /// Waits until the journal has read everything.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            journal::wait_until_read(socket);
        }
        self.stderr.flush()
    }
}

/// Returns the priority of a line, its text for people, and the entry as the journal takes it.
///
/// A line that is no JSON is one of the log about itself, and a warning.
fn entry(line: &[u8], format: LogFormat) -> (char, String, Vec<u8>) {
    let whole = || String::from_utf8_lossy(line).trim_end().to_owned();
    let Ok(Line { level, target, fields }) = serde_json::from_slice::<Line>(line) else {
        let text = whole();
        let mut entry = Vec::new();
        put(&mut entry, "MESSAGE", &text);
        put(&mut entry, "PRIORITY", &WARNING.to_string());
        return (WARNING, text, entry);
    };
    let priority = priority(&level);
    let text = match format {
        LogFormat::Text => fields.to_string(),
        LogFormat::Json => whole(),
    };
    let mut entry = Vec::with_capacity(2 * line.len());
    put(&mut entry, "MESSAGE", &text);
    put(&mut entry, "PRIORITY", &priority.to_string());
    put(&mut entry, "CODEXD_TARGET", &target);
    for (name, value) in &fields.others {
        put(&mut entry, &journal_name(name), value);
    }
    (priority, text, entry)
}

fn priority(level: &str) -> char {
    match level {
        "ERROR" => '3',
        "WARN" => WARNING,
        "INFO" => '6',
        _ => DEBUG,
    }
}

/// Returns the name that a field has in the journal: `CODEXD_THREAD` for `thread.id`, `CODEXD_CLIENT_NAME` for
/// `client.name`, `CODEXD_DURATION_MS` for `duration_ms`.
fn journal_name(field: &str) -> String {
    let field = field.strip_suffix(".id").unwrap_or(field);
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("CODEXD_{}", field.chars().map(word).collect::<String>())
}

/// Adds a field to an entry: with its length if it has line breaks (Native Journal Protocol).
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The message and, behind it, the fields: `client left client.id=3 client.name="my editor" duration_ms=12`.
impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (name, value) in &self.others {
            let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
            if !value.is_empty() && value.chars().all(plain) {
                write!(f, " {name}={value}")?;
            } else {
                write!(f, " {name}={value:?}")?;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of a line of the log")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let value = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            if name == "message" {
                fields.message = value;
            } else {
                fields.others.push((name, value));
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use codexd_proto::id::ClientId;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::logging::roles::{Client, Turn, log_client, log_turn, log_upstream};
    use crate::logging::writer;
    use crate::os::test_dir::test_dir;

    /// Reads an entry as the journal does (Native Journal Protocol).
    fn read(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            if let Some(at) = line.iter().position(|byte| *byte == b'=') {
                fields.insert(text(&line[..at]), text(&line[at + 1..]));
                entry = rest;
            } else {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                fields.insert(text(line), text(&rest[8..8 + length]));
                assert_eq!(rest[8 + length], b'\n');
                entry = &rest[8 + length + 1..];
            }
        }
        fields
    }

    /// A socket in place of the journal's, and what is logged to it, from the events on.
    struct Stand {
        journal: UnixDatagram,
        _dir: tempfile::TempDir,
    }

    impl Stand {
        fn next(&self) -> BTreeMap<String, String> {
            let mut entry = vec![0; 1 << 20];
            let length = self.journal.recv(&mut entry).unwrap();
            read(&entry[..length])
        }
    }

    /// Logs as [`start`](crate::logging::start) does where the journal is at the other end of stderr.
    fn logged(format: LogFormat, log: impl FnOnce()) -> Stand {
        let dir = test_dir();
        let path = dir.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let target = Journal::new(&path, format, io::sink()).of_life(Some("this-life".to_owned()));
        let (writer, flush) = writer::start(target, std::time::Duration::from_millis(1)).unwrap();
        let lines = tracing_subscriber::fmt::layer().json().with_writer(writer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        // The other end has not read anything, and is not waited for without end.
        drop(flush);
        Stand { journal, _dir: dir }
    }

    fn editor() -> Client {
        Client { id: ClientId(3), name: Some("my \"editor\"".to_owned()), pid: Some(17) }
    }

    #[test]
    fn each_field_of_an_event_is_a_field_of_the_journal() {
        let turn = || Turn { thread: Some("a-thread"), turn: Some("a-turn"), client: Some(editor()) };
        let journal = logged(LogFormat::Text, || {
            log_client!(info, editor(), client.version = "1.2", "client connected");
            log_turn!(warn, turn(), duration_ms = 5_u64, "codex sends nothing about a turn");
            log_upstream!(error, 99, error = %"one\ntwo", "cannot read");
            log_turn!(debug, Turn { turn: None, client: None, ..turn() }, request.id = 0, "codex asks");
        });
        let entry = journal.next();
        for (name, value) in [
            (
                "MESSAGE",
                r#"client connected client.id=3 client.name="my \"editor\"" client.pid=17 client.version=1.2"#,
            ),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "codexd"),
            ("INVOCATION_ID", "this-life"),
            ("CODEXD_TARGET", "codexd::logging::journal::tests"),
            ("CODEXD_CLIENT", "3"),
            ("CODEXD_CLIENT_NAME", r#"my "editor""#),
            ("CODEXD_CLIENT_PID", "17"),
            ("CODEXD_CLIENT_VERSION", "1.2"),
        ] {
            assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name} of {entry:#?}");
        }
        let entry = journal.next();
        let field = |name: &str| entry[name].as_str();
        assert_eq!((field("CODEXD_THREAD"), field("CODEXD_TURN")), ("a-thread", "a-turn"));
        assert_eq!((field("CODEXD_CLIENT"), field("CODEXD_DURATION_MS"), field("PRIORITY")), ("3", "5", "4"));
        let entry = journal.next();
        let field = |name: &str| entry[name].as_str();
        assert_eq!((field("CODEXD_UPSTREAM_PID"), field("CODEXD_ERROR")), ("99", "one\ntwo"));
        assert_eq!(
            (field("MESSAGE"), field("PRIORITY")),
            (r#"cannot read upstream.pid=99 error="one\ntwo""#, "3")
        );
        let entry = journal.next();
        assert_eq!((entry["CODEXD_THREAD"].as_str(), entry["CODEXD_REQUEST"].as_str()), ("a-thread", "0"));
        assert_eq!(entry["PRIORITY"], "7");
        assert!(!entry.contains_key("CODEXD_TURN") && !entry.contains_key("CODEXD_CLIENT"), "{entry:#?}");
    }

    #[test]
    fn with_the_json_format_the_text_of_an_entry_is_the_line_and_its_fields_are_the_same() {
        let journal = logged(LogFormat::Json, || log_client!(info, editor(), "client connected"));
        let entry = journal.next();
        let line: Value = serde_json::from_str(&entry["MESSAGE"]).unwrap();
        assert_eq!(
            (&line["fields"]["message"], &line["fields"]["client.id"]),
            (&"client connected".into(), &3.into())
        );
        assert_eq!((entry["CODEXD_CLIENT"].as_str(), entry["PRIORITY"].as_str()), ("3", "6"));
    }

    #[test]
    fn what_the_journal_does_not_take_goes_to_stderr_with_its_priority() {
        let mut stderr = Vec::new();
        let dir = test_dir();
        let path = dir.path().join("journal");
        let line = br#"{"level":"WARN","target":"t","fields":{"message":"m","n":1}}"#;
        // Nobody has made the socket.
        Journal::new(&path, LogFormat::Text, &mut stderr).write_all(line).unwrap();
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut target = Journal::new(&path, LogFormat::Text, &mut stderr);
        let long =
            format!(r#"{{"level":"INFO","target":"t","fields":{{"message":"{}"}}}}"#, "x".repeat(4 << 20));
        target.write_all(long.as_bytes()).unwrap();
        target.write_all(b"(7 lines of the log were lost here)\n").unwrap();
        let mut entry = [0; 1000];
        let length = journal.recv(&mut entry).unwrap();
        let entry = read(&entry[..length]);
        assert_eq!(
            (entry["MESSAGE"].as_str(), entry["PRIORITY"].as_str()),
            ("(7 lines of the log were lost here)", "4")
        );
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(stderr.starts_with("<4>m n=1\n<6>xxx"), "{}", &stderr[..30]);
        assert_eq!(stderr.lines().count(), 2);
    }

    #[test]
    fn a_name_in_the_journal_is_one_that_it_takes() {
        for (field, name) in [
            ("client.id", "CODEXD_CLIENT"),
            ("thread.id", "CODEXD_THREAD"),
            ("turn.id", "CODEXD_TURN"),
            ("client.name", "CODEXD_CLIENT_NAME"),
            ("log.target-x", "CODEXD_LOG_TARGET_X"),
        ] {
            assert_eq!(journal_name(field), name);
        }
    }
}
