//! `ctl logs`: the log, wherever it is.
//!
//! A daemon that was started by a client writes to a file next to its record, an agent of launchd to a file in
//! `~/Library/Logs`, and a service of systemd to the journal. One that was started by hand writes to its stderr.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::{Context, NOT_REACHED, print, print_json};
use crate::cli::LogsArgs;
use crate::error::Error;
use crate::settings::environment::lend_runtime_dir;
use crate::start::unit;
use crate::terminal::note;

/// Time between checks of a file that is followed.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// Where a log is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    /// Of the user's journal.
    Journal(String),
    Nowhere(String),
}

/// Prints the end of the log and, with `--follow`, what is added. Exits 0 if there is a log, 1 if not.
pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<u8, Error> {
    let place = find(context).await;
    if context.json {
        return match &place {
            Place::File(path) => print_json(&json!({ "kind": "file", "path": path })).map(|()| 0),
            Place::Journal(unit) => print_json(&json!({ "kind": "journal", "unit": unit })).map(|()| 0),
            Place::Nowhere(why) => print_json(&json!({ "kind": null, "error": why })).map(|()| NOT_REACHED),
        };
    }
    match place {
        Place::File(path) => follow(&path, args).await.map(|()| 0),
        Place::Journal(unit) => journal(&unit, args),
        Place::Nowhere(why) => {
            note(&format!("codexd: {why}"));
            note("hint: `codexd ctl events` shows what happens from now on");
            Ok(NOT_REACHED)
        }
    }
}

/// Finds the log of the running daemon; without one, that of the daemon that ran last.
async fn find(context: &Context) -> Place {
    let running = async { context.connect().await?.status().await }.await.ok();
    if let Some(log) = running.as_ref().and_then(|status| status.log.clone()) {
        return match (log.kind.as_str(), log.path) {
            ("file", Some(path)) => Place::File(PathBuf::from(path)),
            ("journal", _) => Place::Journal(unit::unit_name(&running.unwrap_or_default().instance)),
            (_, Some(path)) => {
                Place::Nowhere(format!("the daemon writes its log to `{path}`, where it was started"))
            }
            _ => Place::Nowhere("the daemon writes its log to where it was started".to_owned()),
        };
    }
    let file = context.settings.paths.log_file();
    let unit = unit::unit_name(&context.settings.instance);
    if file.is_file() {
        Place::File(file)
    } else if unit::show(&format!("{unit}.service"), "LoadState").is_some_and(|state| state == "loaded") {
        Place::Journal(unit)
    } else {
        Place::Nowhere(format!("no daemon runs, and there is no log at `{}`", file.display()))
    }
}

fn journal(unit: &str, args: &LogsArgs) -> Result<u8, Error> {
    let mut command = Command::new("journalctl");
    command.args(["--user", "--user-unit", unit, "--lines", &args.lines.to_string(), "--no-pager"]);
    if args.follow {
        command.arg("--follow");
    }
    let status = lend_runtime_dir(&mut command)
        .status()
        .map_err(|error| Error::os("cannot run `journalctl`").because(error))?;
    Ok(if status.success() { 0 } else { NOT_REACHED })
}

/// Prints the last lines of a file, and what is added. A file that replaces it is read from its beginning.
async fn follow(path: &Path, args: &LogsArgs) -> Result<(), Error> {
    let failed = |error| Error::os(format!("cannot read the log `{}`", path.display())).because(error);
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut last: VecDeque<String> = VecDeque::new();
    let read = |file: &mut BufReader<File>| -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        file.read_until(b'\n', &mut bytes).map_err(failed)?;
        Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    };
    while let Some(line) = read(&mut file)? {
        last.push_back(line);
        if last.len() > args.lines {
            last.pop_front();
        }
    }
    print(&last.into_iter().collect::<String>())?;
    if !args.follow {
        return Ok(());
    }
    loop {
        while let Some(line) = read(&mut file)? {
            print(&line)?;
        }
        tokio::time::sleep(CHECK_EVERY).await;
        let Ok(now) = std::fs::metadata(path) else { continue };
        let open = file.get_ref().metadata().map_err(failed)?;
        if (now.dev(), now.ino()) != (open.dev(), open.ino()) {
            // First, the rest of the old file.
            while let Some(line) = read(&mut file)? {
                print(&line)?;
            }
            file = BufReader::new(File::open(path).map_err(failed)?);
        } else if now.len() < file.stream_position().map_err(failed)? {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
        }
    }
}
