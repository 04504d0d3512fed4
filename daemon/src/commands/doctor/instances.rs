//! The other instances of the user's: each has its own codex, which is no stranger.

use codexd_proto::status::StatusReport;

use super::Finding;
use crate::commands::ctl::{Found, find_all};
use crate::control::client::Unreachable;
use crate::settings::Settings;

/// Returns the instances that run, or may do, beside the one of the settings.
pub(super) fn find(settings: &Settings) -> Vec<Found> {
    let mut found = find_all(&settings.paths).unwrap_or_default();
    found.retain(|it| it.may_run() && it.former.control_socket != settings.paths.control_socket);
    found
}

/// Says which there are. One that does not answer is something to look into.
pub(super) fn check(settings: &Settings, siblings: &[Found]) -> Vec<Finding> {
    let silent = siblings.iter().filter_map(|sibling| match &sibling.answer {
        Err(Unreachable::CannotTell(error)) => {
            let fix =
                format!("codexd ctl --control-socket {} status", sibling.former.control_socket.display());
            let what = format!("instance `{}`: {}", sibling.former.instance, error.chain());
            Some(Finding::warn("instances", what, fix))
        }
        _ => None,
    });
    let named: Vec<String> = reports(siblings).map(|report| named(settings, report)).collect();
    let known = (!named.is_empty()).then(|| {
        let mut finding = Finding::ok("instances", format!("others of yours run: {}", named.join("; ")));
        finding.fix = Some("codexd ctl list".to_owned());
        finding
    });
    known.into_iter().chain(silent).collect()
}

fn named(settings: &Settings, report: &StatusReport) -> String {
    let mut text = format!("`{}` (process {}", report.instance, report.pid);
    if report.codex_home != settings.codex_home.display().to_string() {
        text.push_str(&format!(", CODEX_HOME `{}`", report.codex_home));
    }
    if !report.upstream.arguments.is_empty() {
        text.push_str(&format!(", with {}", report.upstream.arguments.join(", ")));
    }
    text + ")"
}

/// Returns the processes of the codex of all instances.
pub(super) fn upstreams(running: Option<&StatusReport>, siblings: &[Found]) -> Vec<u32> {
    running.into_iter().chain(reports(siblings)).filter_map(|report| report.upstream.pid).collect()
}

fn reports(siblings: &[Found]) -> impl Iterator<Item = &StatusReport> {
    siblings.iter().filter_map(|sibling| Some(&sibling.answer.as_ref().ok()?.report))
}
