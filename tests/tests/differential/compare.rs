//! Comparison of two transcripts, and the report about what differs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::exceptions::{DifferenceKind, Exception};
use crate::lanes::{self, Lane};
use crate::normal::Names;

/// What one client sent and received.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Requests, in the order in which they were sent.
    pub(crate) requests: Vec<Value>,
    /// All messages, in the order in which they came.
    pub(crate) received: Vec<Value>,
}

/// What all clients of a script sent and received.
#[derive(Debug)]
pub(crate) struct Transcript {
    pub(crate) records: Vec<Record>,
    /// Threads, in the order in which the script made them.
    pub(crate) threads: Vec<String>,
    /// The temporary world.
    pub(crate) home: String,
    /// Address of the model.
    pub(crate) model: String,
}

impl Record {
    pub(crate) fn new(name: &str) -> Record {
        Record { name: name.to_owned(), requests: Vec::new(), received: Vec::new() }
    }
}

/// The normalised view of one client.
#[derive(Debug)]
struct View {
    name: String,
    sequences: BTreeMap<String, Vec<Value>>,
}

/// One thing that is not the same.
#[derive(Debug)]
struct Difference {
    client: String,
    left: Option<Value>,
    right: Option<Value>,
}

/// Compares what the clients of a script saw of the oracle and of the other side.
///
/// # Errors
///
/// A report with both sides beside each other.
pub(crate) fn compare(
    script: &str,
    expected: &Transcript,
    seen: &Transcript,
    exceptions: &[Exception],
) -> Result<(), String> {
    let exceptions: Vec<&Exception> = exceptions.iter().filter(|it| it.script == script).collect();
    let mut used = vec![false; exceptions.len()];
    let mut report = String::new();
    let (expected, seen) = (views(expected), views(seen));
    assert_eq!(expected.len(), seen.len(), "the script took another path");
    for (left, right) in expected.iter().zip(&seen) {
        let keys: std::collections::BTreeSet<&String> =
            left.sequences.keys().chain(right.sequences.keys()).collect();
        for key in keys {
            let empty = Vec::new();
            let of = |view: &View| -> Vec<Value> { view.sequences.get(key).unwrap_or(&empty).clone() };
            let rows = align(of(left), of(right));
            let mut open = false;
            for (l, r) in &rows {
                if l == r {
                    continue;
                }
                let difference = Difference { client: left.name.clone(), left: l.clone(), right: r.clone() };
                match exceptions.iter().position(|it| it.covers(&difference)) {
                    Some(index) => used[index] = true,
                    None => open = true,
                }
            }
            if open {
                let _ = writeln!(report, "\nclient {}, {key}:", left.name);
                show(&mut report, &rows);
            }
        }
    }
    for (exception, used) in exceptions.iter().zip(used) {
        if !used && !exception.sometimes {
            let _ = writeln!(report, "\nan exception that is not needed any more: {exception:?}");
        }
    }
    if report.is_empty() { Ok(()) } else { Err(report) }
}

impl Exception {
    fn covers(&self, difference: &Difference) -> bool {
        let (left, right) = (&difference.left, &difference.right);
        let Some(message) = left.as_ref().or(right.as_ref()) else { return false };
        self.client == difference.client
            && self.method == name_of(message)
            && match self.kind {
                DifferenceKind::Missing => right.is_none(),
                DifferenceKind::Extra => left.is_none(),
                DifferenceKind::Value(path) => match (left, right) {
                    (Some(left), Some(right)) => {
                        let paths = different_paths(left, right);
                        !paths.is_empty() && paths.iter().all(|(found, _, _)| found == path)
                    }
                    _ => false,
                },
            }
    }
}

/// Returns what the clients received, as it is compared.
pub(crate) fn shown(transcript: &Transcript) -> String {
    let mut text = String::new();
    for view in views(transcript) {
        for (key, messages) in &view.sequences {
            let _ = writeln!(text, "client {}, {key}:", view.name);
            for message in messages {
                let _ = writeln!(text, "  {}", short(message));
            }
        }
    }
    text
}

fn views(transcript: &Transcript) -> Vec<View> {
    let mut names = Names::new(&transcript.home, &transcript.model, &transcript.threads);
    // Threads that no step of the script has made: sub-agents'.
    for message in transcript.records.iter().flat_map(|record| &record.received) {
        if let Some(thread) = message["params"]["threadId"].as_str() {
            names.thread(thread);
        }
    }
    transcript.records.iter().map(|record| view(record, &mut names)).collect()
}

fn view(record: &Record, names: &mut Names) -> View {
    let mut answers: Vec<Option<Value>> = vec![None; record.requests.len()];
    let mut unasked = Vec::new();
    let mut sequences: BTreeMap<Lane, Vec<Value>> = BTreeMap::new();
    let messages = lanes::without_repeated_unload(lanes::without_usage_of_interrupted(&record.received));
    for message in messages {
        if message["params"]["codexd"]["reason"] == "resumed" {
            // What codexd repeats of open items (`docs/protocol.md`): codex repeats nothing of them.
            continue;
        }
        if !message["method"].is_null() {
            sequences.entry(lanes::lane(message)).or_default().push(message.clone());
            continue;
        }
        let open = (0..answers.len())
            .find(|index| answers[*index].is_none() && record.requests[*index]["id"] == message["id"]);
        let Some(index) = open else {
            unasked.push(message.clone());
            continue;
        };
        let request = &record.requests[index];
        if let Some((lane, mark)) = lanes::mark(request, message) {
            sequences.entry(lane).or_default().push(mark);
        }
        let mut answer = message.clone();
        answer["to"] = request["method"].clone();
        if request["method"] == "initialize"
            && let Some(result) = answer["result"].as_object_mut()
        {
            // Said in `docs/protocol.md`, and nowhere else is such a member allowed.
            result.remove("codexd");
        }
        answers[index] = Some(answer);
    }
    let mut named = BTreeMap::new();
    let missing = |request: &Value| serde_json::json!({"to": request["method"], "answer": "none"});
    let answers: Vec<Value> = answers
        .into_iter()
        .zip(&record.requests)
        .map(|(answer, request)| {
            let mut answer = names.value(&answer.unwrap_or_else(|| missing(request)));
            if request["method"] == "thread/loaded/list"
                && let Some(data) = answer["result"]["data"].as_array_mut()
            {
                // A set: its order changes from call to call, and that of the ids where threads start at once.
                data.sort_by_key(Value::to_string);
            }
            answer
        })
        .collect();
    named.insert("answers".to_owned(), answers);
    named.insert("answers to nothing".to_owned(), unasked.iter().map(|it| names.value(it)).collect());
    // In the order of the threads' names: their ids are in the order of time, too, but not safely.
    let mut lanes: Vec<(String, Vec<Value>)> = sequences
        .into_iter()
        .map(|(lane, messages)| {
            let thread = if lane.thread.is_empty() { String::new() } else { names.text(&lane.thread) };
            (format!("{thread} {}", lane.name), messages)
        })
        .collect();
    lanes.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, messages) in lanes {
        let messages = messages.iter().map(|message| names.value(message)).collect();
        named.entry(key).or_insert_with(Vec::new).extend(lanes::join_pieces(messages));
    }
    View { name: record.name.clone(), sequences: named }
}

type Row = (Option<Value>, Option<Value>);

/// Aligns two sequences: what is the same in one row, and what replaces something of the same name in one row, too.
fn align(left: Vec<Value>, right: Vec<Value>) -> Vec<Row> {
    let mut length = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            length[i][j] = if left[i] == right[j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut rows: Vec<Row> = Vec::new();
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            rows.push((Some(left[i].clone()), Some(right[j].clone())));
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && length[i + 1][j] >= length[i][j + 1]) {
            rows.push((Some(left[i].clone()), None));
            i += 1;
        } else {
            let replaced =
                rows.iter().rposition(|(l, r)| l.is_some() && r.is_some()).map_or(0, |same| same + 1)
                    ..rows.len();
            let partner = rows[replaced.clone()].iter().position(|(l, r)| {
                r.is_none() && l.as_ref().is_some_and(|l| name_of(l) == name_of(&right[j]))
            });
            match partner {
                Some(at) => rows[replaced.start + at].1 = Some(right[j].clone()),
                None => rows.push((None, Some(right[j].clone()))),
            }
            j += 1;
        }
    }
    rows
}

/// Returns what stands for a message in a report: its method, or what it answers.
fn name_of(message: &Value) -> &str {
    ["method", "to", "answer"].iter().find_map(|key| message[*key].as_str()).unwrap_or("(no method)")
}

fn show(report: &mut String, rows: &[Row]) {
    for (left, right) in rows {
        let title = |it: &Option<Value>| {
            it.as_ref().map_or_else(String::new, |it| match it["method"].as_str().or(it["to"].as_str()) {
                Some(_) if !it["params"]["status"]["type"].is_null() => {
                    format!("{} {}", name_of(it), it["params"]["status"])
                }
                Some(_) => name_of(it).to_owned(),
                None => format!("(answer to {})", name_of(it)),
            })
        };
        let mark = match (left, right) {
            _ if left == right => ' ',
            (Some(_), Some(_)) => '~',
            (Some(_), None) => '<',
            _ => '>',
        };
        let _ = writeln!(report, "{mark} {:<60} | {}", title(left), title(right));
        match (left, right) {
            (Some(left), Some(right)) => {
                for (path, l, r) in different_paths(left, right) {
                    let _ = writeln!(report, "      {path}:\n        {l}\n        {r}");
                }
            }
            (Some(only), None) | (None, Some(only)) => {
                let _ = writeln!(report, "      {}", short(only));
            }
            (None, None) => {}
        }
    }
}

/// Returns the places where two values differ, with what is there.
fn different_paths(left: &Value, right: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    walk("", left, right, &mut found);
    found
}

fn walk(path: &str, left: &Value, right: &Value, found: &mut Vec<(String, String, String)>) {
    match (left, right) {
        _ if left == right => {}
        (Value::Object(l), Value::Object(r)) => {
            let keys: std::collections::BTreeSet<&String> = l.keys().chain(r.keys()).collect();
            for key in keys {
                match (l.get(key), r.get(key)) {
                    (Some(l), Some(r)) => walk(&format!("{path}/{key}"), l, r, found),
                    (l, r) => found.push((format!("{path}/{key}"), maybe(l), maybe(r))),
                }
            }
        }
        (Value::Array(l), Value::Array(r)) if l.len() == r.len() => {
            for (index, (l, r)) in l.iter().zip(r).enumerate() {
                walk(&format!("{path}/{index}"), l, r, found);
            }
        }
        _ => found.push((path.to_owned(), short(left), short(right))),
    }
}

fn maybe(value: Option<&Value>) -> String {
    value.map_or_else(|| "(absent)".to_owned(), short)
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
