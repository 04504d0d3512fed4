//! `codexd doctor`: what keeps the daemon from working, each finding with the command that fixes it.
//!
//! Nothing is changed. codex is started for one `initialize` in a directory of its own, see
//! [`trial`](crate::serve::upstream::trial), and ended again; no daemon is. A check that cannot be made here (another
//! system, no service manager) yields no finding, not a good one.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use crate::cli::{DoctorArgs, ServeArgs};
use crate::error::Error;
use crate::settings::Settings;
use crate::settings::environment::Environment;

mod codex;
mod daemon;
mod files;
mod instances;
mod processes;
mod service;
mod shim;
mod start;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, and may surprise.
    Warn,
    /// Does not work.
    Fail,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// Stable name for programs.
    check: &'static str,
    level: Level,
    message: String,
    /// What to type or do.
    fix: Option<String>,
    /// Output of another program, line by line.
    details: Vec<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, message: message.into(), fix: None, details: Vec::new() }
    }

    fn warn(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Warn,
            message: message.into(),
            fix: Some(fix.into()),
            details: Vec::new(),
        }
    }

    fn fail(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Fail,
            message: message.into(),
            fix: Some(fix.into()),
            details: Vec::new(),
        }
    }

    fn error(check: &'static str, error: &Error) -> Finding {
        let fix = error.next_step().map(str::to_owned);
        Finding { check, level: Level::Fail, message: error.chain(), fix, details: Vec::new() }
    }
}

/// Makes all checks and prints what they found.
///
/// # Errors
///
/// When stdout cannot be written.
pub(crate) fn run(args: &DoctorArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let findings = examine(environment);
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    let text = if args.json {
        format!("{:#}\n", json!({ "ok": !failed, "findings": findings }))
    } else {
        findings.iter().map(shown).collect()
    };
    crate::commands::ctl::print(&text)?;
    Ok(ExitCode::from(u8::from(failed)))
}

fn examine(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let settings = match Settings::load(&ServeArgs::default(), environment) {
        Ok(settings) => {
            findings.push(Finding::ok("settings", said(&settings)));
            settings
        }
        Err(error) => {
            findings.push(Finding::error("settings", &error));
            // A daemon that started before the file was broken runs all the same.
            match Settings::load_without_file(&ServeArgs::default(), environment) {
                Ok(settings) => settings,
                // It is the environment; everything else depends on that.
                Err(_) => return findings,
            }
        }
    };
    let status = daemon::ask(&settings);
    let siblings = instances::find(&settings);
    findings.extend(files::check(&settings));
    findings.extend(daemon::check(&settings, &status));
    let running = status.as_ref().ok();
    findings.extend(codex::check(&settings, environment, running));
    findings.push(shim::check(environment));
    findings.extend(instances::check(&settings, &siblings));
    findings.extend(processes::check(&settings, environment, &instances::upstreams(running, &siblings)));
    findings.extend(processes::left_behind(&settings, running));
    findings.extend(service::check(&settings, environment));
    findings
}

fn said(settings: &Settings) -> String {
    match &settings.config_file {
        Some(path) => format!("instance `{}`, settings from `{}`", settings.instance, path.display()),
        None => format!("instance `{}`, no configuration file", settings.instance),
    }
}

fn shown(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok  ",
        Level::Warn => "warn",
        Level::Fail => "FAIL",
    };
    let fix = finding.fix.as_ref().map(|fix| format!("      fix: {fix}\n")).unwrap_or_default();
    let details: String = finding.details.iter().map(|line| format!("      codex: {line}\n")).collect();
    format!("{level}  {}: {}\n{details}{fix}", finding.check, finding.message)
}
