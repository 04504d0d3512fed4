//! Whether codex starts: it is started, because only that shows its errors, in its own wording.

use codexd_proto::stderr::explained;

use super::Finding;
use crate::serve::upstream::Program;
use crate::serve::upstream::trial::{Trial, Tried};
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// Starts codex for one `initialize`, with a copy of its configuration. `serves` is true if the daemon has a working
/// codex: then a failure concerns only the next start.
pub(super) fn check(
    settings: &Settings,
    environment: &Environment,
    program: &Program,
    serves: bool,
) -> Vec<Finding> {
    match Trial::new(settings, environment, program).run() {
        Ok(tried) => findings(settings, tried, serves),
        Err(error) => vec![Finding::error("codexStart", &error)],
    }
}

fn findings(settings: &Settings, tried: Tried, serves: bool) -> Vec<Finding> {
    let config = settings.codex_home.join("config.toml");
    let config = config.display();
    let mut findings = vec![match tried.outcome.problem(&config) {
        None => Finding::ok(
            "codexStart",
            format!("`initialize` was answered after {} ms", tried.took.as_millis()),
        ),
        Some((what, fix)) => {
            let what = explained(&format!("codex app-server {what}"), &tried.lines);
            let message = if serves { format!("codex would not start again: {what}") } else { what };
            Finding { details: tried.lines, ..Finding::fail("codexStart", message, fix) }
        }
    }];
    findings.extend(tried.warnings.into_iter().map(|text| {
        Finding::warn(
            "codexConfig",
            text,
            format!("change `{config}`, or what it misses; codex goes on without it"),
        )
    }));
    findings
}
