//! `ctl status`: how the daemon is, on one screen.

use codexd_proto::status::StatusReport;
use serde_json::{Value, json};

use super::{CANNOT_TELL, Context, NOT_REACHED, NOT_RUNNING, print, print_json, render};
use crate::cli::StatusArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record::{self, Former};
use crate::terminal::{note, note_error};

/// Asks and shows.
pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<u8, Error> {
    check_fields(&args.field)?;
    let asked = async { context.connect().await?.status().await };
    match asked.await {
        Ok(report) => {
            let code = if report.ready { 0 } else { NOT_REACHED };
            if context.json {
                print_json(&report)?;
            } else if args.field.is_empty() {
                print(&render::report(&report))?;
            } else {
                print_fields(&as_json(&report)?, &args.field)?;
            }
            Ok(code)
        }
        Err(Unreachable::NotRunning) => {
            not_running(context, args)?;
            Ok(NOT_RUNNING)
        }
        Err(Unreachable::CannotTell(error)) => {
            if context.json || !args.field.is_empty() {
                let mut value = absent(context, "unknown")?;
                value["error"] = json!(error.chain());
                show(context, args, &value)?;
            }
            note_error(&error);
            Ok(CANNOT_TELL)
        }
    }
}

/// Says how the last daemon ended and how to start the next.
fn not_running(context: &Context, args: &StatusArgs) -> Result<(), Error> {
    if context.json || !args.field.is_empty() {
        return show(context, args, &absent(context, "notRunning")?);
    }
    let settings = &context.settings;
    note(&format!("codexd is not running: nobody listens on `{}`", settings.paths.control_socket.display()));
    let former = record::former(&settings.paths);
    match &former {
        Some(Former { instance, last_exit: Some(exit), .. }) => {
            note(&format!("last exit of instance `{instance}`: {}", render::last_exit(exit)));
            for line in &exit.upstream_stderr {
                note(&format!("codex: {line}"));
            }
        }
        _ => note("last exit: no record of an earlier daemon"),
    }
    match former.and_then(|former| former.failed_start) {
        // That is the last exit, told above.
        Some(failed) if !failed.other_daemon => {
            note(&format!("hint: {}", failed.hint.as_deref().unwrap_or("`codexd serve` shows it again")));
        }
        Some(failed) => {
            note(&format!("last failed start: {}", render::failed_start(&failed)));
            note("hint: `codexd serve` starts it");
        }
        None => note("hint: `codexd serve` starts it"),
    }
    Ok(())
}

fn show(context: &Context, args: &StatusArgs, value: &Value) -> Result<(), Error> {
    if context.json { print_json(value) } else { print_fields(value, &args.field) }
}

/// The report of a daemon that is not there: what is known without it.
fn absent(context: &Context, state: &str) -> Result<Value, Error> {
    let settings = &context.settings;
    let former = record::former(&settings.paths);
    let mut value = as_json(&StatusReport {
        instance: former.as_ref().map_or(&settings.instance, |former| &former.instance).clone(),
        socket: settings.paths.socket.display().to_string(),
        control_socket: settings.paths.control_socket.display().to_string(),
        codex_home: settings.codex_home.display().to_string(),
        last_exit: former.as_ref().and_then(|former| former.last_exit.clone()),
        failed_start: former.and_then(|former| former.failed_start),
        ..StatusReport::default()
    })?;
    value["state"] = json!(state);
    // There is none, and 0 is a process id that signals reach.
    value["pid"] = Value::Null;
    Ok(value)
}

fn as_json(report: &StatusReport) -> Result<Value, Error> {
    serde_json::to_value(report).map_err(|error| {
        Error::new(codexd_proto::exit::ExitCode::Software, "cannot write JSON").because(error)
    })
}

/// Prints one bare value a line; one that is not known is an empty line.
fn print_fields(value: &Value, fields: &[String]) -> Result<(), Error> {
    let mut text = String::new();
    for field in fields {
        match lookup(value, field) {
            None | Some(Value::Null) => {}
            Some(Value::String(string)) => text.push_str(string),
            Some(other) => text.push_str(&other.to_string()),
        }
        text.push('\n');
    }
    print(&text)
}

/// Refuses names that the report never has.
fn check_fields(fields: &[String]) -> Result<(), Error> {
    let all = StatusReport {
        last_exit: Some(codexd_proto::status::LastExit::default()),
        failed_start: Some(codexd_proto::status::FailedStart::default()),
        ..StatusReport::default()
    };
    let all = as_json(&all)?;
    match fields.iter().find(|field| lookup(&all, field).is_none()) {
        None => Ok(()),
        Some(field) => {
            let names = all.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
            Err(Error::usage(format!("the status has no field `{field}`"))
                .hint(format!("fields are {}", names.unwrap_or_default().join(", "))))
        }
    }
}

/// Returns the member at a path with full stops, as `upstream.pid`.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| match value {
        // A member of an object that is absent is not known, which is no error.
        Value::Null => Some(value),
        _ => value.get(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_checked_against_the_whole_report() {
        for field in [
            "state",
            "upstream.pid",
            "lastExit.code",
            "failedStart.code",
            "counters.clientsAccepted",
            "warnings",
        ] {
            check_fields(&[field.to_owned()]).unwrap();
        }
        for field in ["", "State", "upstream.pd", "lastExit.x", "state.x"] {
            let error = check_fields(&[field.to_owned()]).unwrap_err();
            assert!(error.is_usage(), "{field}");
        }
    }

    #[test]
    fn members_of_what_is_absent_are_null() {
        let value = json!({ "lastExit": null, "upstream": { "pid": 7 } });
        assert_eq!(lookup(&value, "lastExit.code"), Some(&Value::Null));
        assert_eq!(lookup(&value, "upstream.pid"), Some(&json!(7)));
    }
}
