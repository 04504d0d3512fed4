//! `ctl status`: the state of the daemon on one screen.

use codexd_proto::control::View;
use codexd_proto::status::{StatusReport, Warning};
use serde_json::{Value, json};

use super::all::{Answer, answer, query_all};
use super::{
    CANNOT_TELL, Context, NOT_REACHED, NOT_RUNNING, exit_code, print, print_json, render, watch, with_reason,
};
use crate::cli::StatusArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record::{self, Former};
use crate::settings::version;
use crate::terminal::{self, note, note_error};

/// Requests the status and shows it.
pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<u8, Error> {
    if args.all {
        return all(context).await;
    }
    check_fields(&args.field)?;
    if args.watch.watch {
        return watch::run(context, &args.watch, View::Status, |json| {
            let mut report = read(json)?;
            add_skew(&mut report);
            let lines = terminal::size().map_or(usize::MAX, |(_, lines)| lines.saturating_sub(1));
            Ok(render::report_in(&report, lines))
        })
        .await;
    }
    match async { answer(&context.connect().await?).await }.await {
        Ok(Answer { json, mut report }) => {
            add_skew(&mut report);
            if context.json {
                print_json(&json)?;
            } else if args.field.is_empty() {
                print(&render::report(&report))?;
            } else {
                print_fields(&json, &args.field)?;
            }
            Ok(readiness(&report))
        }
        Err(unreachable) => {
            if context.json {
                print_json(&absent(context, &unreachable)?)?;
            } else {
                if !args.field.is_empty() {
                    print_fields(&absent(context, &unreachable)?, &args.field)?;
                }
                match &unreachable {
                    Unreachable::NotRunning if args.field.is_empty() => not_running(context),
                    Unreachable::NotRunning => {}
                    Unreachable::CannotTell(error) => note_error(error),
                }
            }
            Ok(exit_code(&unreachable))
        }
    }
}

/// Shows all running instances. Exits 0 if all of them serve, 1 if one does not, 3 if none runs, 4 if that is
/// unknown for one.
async fn all(context: &Context) -> Result<u8, Error> {
    let mut found = query_all(&context.settings.paths).await;
    found.retain(|instance| instance.may_run());
    let mut code = if found.is_empty() { NOT_RUNNING } else { 0 };
    let (mut documents, mut screens) = (Vec::new(), Vec::new());
    for instance in &found {
        match &instance.answer {
            Ok(Answer { json, report }) => {
                code = code.max(readiness(report));
                documents.push(json.clone());
                screens.push(render::report(report));
            }
            Err(unreachable) => {
                code = CANNOT_TELL;
                documents.push(absent(&context.of(&instance.former), unreachable)?);
                if let (Unreachable::CannotTell(error), false) = (unreachable, context.json) {
                    note_error(error);
                }
            }
        }
    }
    if context.json {
        print_json(&documents)?;
    } else if found.is_empty() {
        note("no instance runs");
    } else {
        print(&screens.join("\n"))?;
    }
    Ok(code)
}

/// Parses a status as far as this version can.
fn read(json: &Value) -> Result<StatusReport, Error> {
    serde_json::from_value(json.clone())
        .map_err(|error| Error::os("cannot read the daemon's status").because(error))
}

/// Returns a warning if this program has another version than the daemon.
fn add_skew(report: &mut StatusReport) {
    if report.version != version::NUMBER {
        report.warnings.push(Warning {
            code: "versionSkew".to_owned(),
            message: format!("the daemon is codexd {}, this is {}", report.version, version::NUMBER),
            hint: "`codexd ctl upgrade` changes to what is installed as soon as no turn runs".to_owned(),
        });
    }
}

fn readiness(report: &StatusReport) -> u8 {
    if report.ready { 0 } else { NOT_REACHED }
}

/// Prints how the last daemon ended and how to start the next one.
fn not_running(context: &Context) {
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
    let start = format!("`{}` starts it", context.how_to_start());
    match former.and_then(|former| former.failed_start) {
        // It is the last exit that was printed above.
        Some(failed) if !failed.other_daemon => {
            note(&format!("hint: {}", failed.hint.as_deref().unwrap_or(&start)));
        }
        Some(failed) => {
            note(&format!("last failed start: {}", render::failed_start(&failed)));
            note(&format!("hint: {start}"));
        }
        None => note(&format!("hint: {start}")),
    }
}

/// Returns the status of a daemon that gave none: what is known without the daemon, and null for everything else.
fn absent(context: &Context, unreachable: &Unreachable) -> Result<Value, Error> {
    let settings = &context.settings;
    let paths = &settings.paths;
    let former = record::former(paths);
    let text = |path: &std::path::Path| json!(path.display().to_string());
    let mut value = as_json(&StatusReport::default())?;
    forget(&mut value);
    value["instance"] = json!(former.as_ref().map_or(&settings.instance, |former| &former.instance));
    value["controlSocket"] = text(&paths.control_socket);
    if let Some(former) = former {
        value["lockFile"] = text(&former.lock);
        value["recordFile"] = text(&paths.state_dir.join(format!("{}.json", former.instance)));
        value["lastExit"] = json!(former.last_exit);
        value["failedStart"] = json!(former.failed_start);
    }
    // For another instance, this environment does not show them.
    if context.is_current {
        value["socket"] = text(&paths.socket);
        value["codexHome"] = text(&settings.codex_home);
    }
    if matches!(unreachable, Unreachable::NotRunning) {
        value["ready"] = json!(false);
        value["warnings"] = json!([]);
    }
    Ok(with_reason(value, unreachable))
}

/// Replaces every value by null and keeps the names.
fn forget(value: &mut Value) {
    match value {
        Value::Object(members) if !members.is_empty() => members.values_mut().for_each(forget),
        other => *other = Value::Null,
    }
}

fn as_json(report: &StatusReport) -> Result<Value, Error> {
    serde_json::to_value(report).map_err(|error| {
        Error::new(codexd_proto::exit::ExitCode::Software, "cannot write JSON").because(error)
    })
}

/// Prints bare values, one per line. A value that is not known is an empty line.
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

/// Refuses names that no report has.
fn check_fields(fields: &[String]) -> Result<(), Error> {
    let all = StatusReport {
        last_exit: Some(codexd_proto::status::LastExit::default()),
        failed_start: Some(codexd_proto::status::FailedStart::default()),
        log: Some(codexd_proto::status::LogStatus::default()),
        latency: Some(codexd_proto::status::LatencyStatus::default()),
        memory: Some(codexd_proto::status::MemoryStatus::default()),
        upgrade: Some(codexd_proto::status::UpgradeStatus::default()),
        installed: Some(codexd_proto::status::InstalledStatus::default()),
        upstream: codexd_proto::status::UpstreamStatus {
            installed: Some(codexd_proto::status::InstalledStatus::default()),
            ..Default::default()
        },
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

/// Returns the member at a dotted path, such as `upstream.pid`.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| match value {
        // A member that is missing in an object is not known, which is not an error.
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
            "installed.version",
            "upgrade.sinceMs",
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
