//! `ctl list`: the instances of the user.

use serde_json::{Value, json};

use super::all::{Answer, Found, query_all};
use super::table::{Column, table};
use super::{Context, print, print_json, render, with_reason};
use crate::cli::ListArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::terminal::note;

const COLUMNS: [Column; 7] =
    [("INSTANCE", 0), ("STATE", 0), ("PID", 0), ("CLIENTS", 1), ("TURNS", 1), ("UP", 2), ("DETAILS", 0)];

/// Members of the status that are shown for each instance.
const MEMBERS: [&str; 12] = [
    "state",
    "ready",
    "pid",
    "version",
    "generation",
    "codexHome",
    "socket",
    "clients",
    "openTurns",
    "uptimeMs",
    "lastExit",
    "warnings",
];

/// Lists the instances that run, and those that ended without being asked to; with `all`, also the others.
pub(super) async fn run(context: &Context, args: &ListArgs) -> Result<u8, Error> {
    let mut found = query_all(&context.settings.paths).await;
    let hidden = found.len();
    found.retain(|instance| args.all || instance.may_run() || has_failed(instance));
    let hidden = hidden - found.len();
    // Running ones come first, and each group is in the order of names.
    found.sort_by_key(|instance| !instance.may_run());
    if context.json {
        print_json(&found.iter().map(|instance| entry(context, instance)).collect::<Vec<_>>())?;
        return Ok(0);
    }
    if found.is_empty() {
        note("no instance runs");
    } else {
        let rows: Vec<_> = found.iter().map(|instance| row(context, instance)).collect();
        print(&table(&COLUMNS, &rows))?;
    }
    if hidden > 0 {
        note(&format!("{} stopped as asked: `codexd ctl list --all`", render::count(hidden, "instance")));
    }
    Ok(0)
}

/// Returns whether the last daemon ended without being asked to.
fn has_failed(instance: &Found) -> bool {
    instance.former.last_exit.as_ref().is_some_and(|exit| exit.code != Some(0))
}

/// Returns whether this is the instance of a `codexd ctl` without flags.
fn is_current(context: &Context, instance: &Found) -> bool {
    context.settings.paths.control_socket == instance.former.control_socket
}

fn entry(context: &Context, instance: &Found) -> Value {
    let former = &instance.former;
    let mut entry = json!({
        "instance": former.instance,
        "current": is_current(context, instance),
        "controlSocket": former.control_socket.display().to_string(),
    });
    for member in MEMBERS {
        entry[member] = Value::Null;
    }
    entry["arguments"] = Value::Null;
    match &instance.answer {
        Ok(Answer { json: status, .. }) => {
            for member in MEMBERS {
                entry[member] = status.get(member).cloned().unwrap_or_default();
            }
            entry["arguments"] = status.pointer("/upstream/arguments").cloned().unwrap_or_default();
            entry
        }
        Err(unreachable) => {
            entry["lastExit"] = json!(former.last_exit);
            if matches!(unreachable, Unreachable::NotRunning) {
                entry["ready"] = json!(false);
            }
            with_reason(entry, unreachable)
        }
    }
}

fn row(context: &Context, instance: &Found) -> Vec<String> {
    let mark = if is_current(context, instance) { " *" } else { "" };
    let name = format!("{}{mark}", instance.former.instance);
    let none = || "-".to_owned();
    match &instance.answer {
        Ok(Answer { report, .. }) => {
            let mut details = report.codex_home.clone();
            if !report.upstream.arguments.is_empty() {
                details.push_str(&format!(", with {}", report.upstream.arguments.join(", ")));
            }
            if !report.warnings.is_empty() {
                details.push_str(&format!(", {}", render::count(report.warnings.len(), "warning")));
            }
            vec![
                name,
                report.state.word().to_owned(),
                report.pid.to_string(),
                report.clients.to_string(),
                report.open_turns.to_string(),
                render::duration(report.uptime_ms),
                details,
            ]
        }
        Err(Unreachable::NotRunning) => {
            let last = instance.former.last_exit.as_ref();
            let last = last.map_or_else(|| "no record of its end".to_owned(), render::last_exit);
            vec![name, "not running".to_owned(), none(), none(), none(), none(), last]
        }
        Err(Unreachable::CannotTell(error)) => {
            vec![name, "unknown".to_owned(), none(), none(), none(), none(), error.chain()]
        }
    }
}
