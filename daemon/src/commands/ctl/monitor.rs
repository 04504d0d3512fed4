//! `ctl monitor`: the frames of the data plane, as they pass.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use codexd_proto::feed::{Direction, Frame, FrameFilter};
use serde_json::json;

use super::{Context, NOT_REACHED, NOT_RUNNING, print, render};
use crate::cli::MonitorArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::os::priority;
use crate::terminal::note;

/// Version of the format of a transcript.
const TRANSCRIPT: u32 = 1;

/// Shows frames until the daemon ends (exit 3) or drops this monitor because it does not read fast enough (exit 1).
pub(super) async fn run(context: &Context, args: &MonitorArgs) -> Result<u8, Error> {
    let filter = FrameFilter {
        clients: args.client.clone(),
        methods: args.method.clone(),
        directions: directions(args),
        bodies: args.bodies || args.record.is_some(),
    };
    let mut record = args.record.as_deref().map(Transcript::create).transpose()?;
    let subscribed = async {
        let connection = context.connect().await?;
        let status = connection.status().await?;
        let frames = connection.frames(filter).await?;
        Ok::<_, Unreachable>((connection, status, frames))
    };
    let (_connection, status, mut frames) = match subscribed.await {
        Ok(subscribed) => subscribed,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    // What it looks at goes first.
    priority::give_way();
    if let Some(record) = &mut record {
        record.line(&json!({
            "transcript": TRANSCRIPT,
            "codexd": status.version,
            "codex": status.upstream.version,
            "instance": status.instance,
            "generation": status.generation,
        }))?;
        record.flush()?;
        note(&format!("recording to `{}`; end with Ctrl-C", record.path));
    }
    while let Some(batch) = frames.next().await {
        let Ok(batch) = batch else { continue };
        if batch.missed > 0 {
            note(&format!(
                "codexd: {} messages are not shown: they came faster than a monitor reads",
                batch.missed
            ));
        }
        let mut text = String::new();
        for frame in &batch.frames {
            if let Some(record) = &mut record {
                record.line(&json!(frame))?;
                if !args.bodies {
                    continue;
                }
            }
            if context.json {
                text.push_str(&format!("{}\n", json!(frame)));
            } else {
                text.push_str(&line(frame));
            }
        }
        if let Some(record) = &mut record {
            record.flush()?;
        }
        print(&text)?;
        if batch.dropped {
            note("codexd: frames came faster than they were read, so the daemon has dropped this monitor");
            note("hint: name clients, methods or directions to see fewer frames");
            return Ok(NOT_REACHED);
        }
    }
    note("the daemon has ended");
    Ok(NOT_RUNNING)
}

/// Returns the filter: by default what clients see, and everything for a transcript.
fn directions(args: &MonitorArgs) -> Vec<Direction> {
    match args {
        MonitorArgs { direction, .. } if !direction.is_empty() => {
            direction.iter().map(|d| (*d).into()).collect()
        }
        MonitorArgs { record: Some(_), .. } => Vec::new(),
        _ => vec![Direction::FromClient, Direction::ToClient],
    }
}

/// A file with one JSON document per line, which only its owner can read.
struct Transcript {
    path: String,
    file: BufWriter<File>,
}

impl Transcript {
    /// Creates the file, which must not exist yet.
    fn create(path: &Path) -> Result<Transcript, Error> {
        let shown = path.display().to_string();
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                Error::os(format!("cannot create the transcript `{shown}`"))
                    .because(error)
                    .hint("name a file that does not exist yet, in a directory that you can write to")
            })?;
        Ok(Transcript { path: shown, file: BufWriter::new(file) })
    }

    fn line(&mut self, value: &serde_json::Value) -> Result<(), Error> {
        writeln!(self.file, "{value}").map_err(|error| self.failed(error))
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.flush().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::os(format!("cannot write to the transcript `{}`", self.path)).because(error)
    }
}

/// Renders a frame as a line that begins with the time of day (UTC).
fn line(frame: &Frame) -> String {
    let client = frame.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    let method = frame.method.as_deref().unwrap_or("-");
    let mut text = format!(
        "{} {:<10} {client:>4} {:<12} {method}",
        render::time_of_day(frame.at_unix_ms),
        frame.direction.word(),
        frame.kind
    );
    if let Some(id) = &frame.id {
        text.push_str(&format!(" #{id}"));
    }
    text.push_str(&format!(" {} B", frame.bytes));
    if let Some(us) = frame.latency_us {
        text.push_str(&format!(" after {}", render::micros(us)));
    }
    if let Some(body) = &frame.body {
        text.push_str(&format!(" {body}"));
    }
    format!("{}\n", render::plain(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line() {
        let frame = Frame {
            at_unix_ms: 3_661_007,
            direction: Direction::ToClient,
            client: Some(3),
            kind: "response".to_owned(),
            method: Some("model/list".to_owned()),
            id: Some("\"x\"".to_owned()),
            bytes: 120,
            latency_us: Some(2_345),
            body: None,
        };
        assert_eq!(
            line(&frame),
            "01:01:01.007Z toClient      3 response     model/list #\"x\" 120 B after 2.34ms\n"
        );
    }
}
