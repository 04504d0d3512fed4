//! Whether codex starts: it is started, because only that shows its errors, in its own wording.

use codexd_proto::lifecycle::ChildStatus;
use codexd_proto::stderr::explained;

use super::Finding;
use crate::serve::upstream::Program;
use crate::serve::upstream::trial::{Outcome, Trial, Tried};
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::secrets;

/// Starts codex for one `initialize`, with a copy of its configuration. `serves` is true if the daemon has a working
/// codex: then a failure concerns only the next start.
pub(super) fn check(
    settings: &Settings,
    environment: &Environment,
    program: &Program,
    serves: bool,
) -> Vec<Finding> {
    let trial = Trial {
        program,
        arguments: &settings.codex_args,
        codex_home: &settings.codex_home,
        is_named: environment.value("CODEX_HOME").is_some(),
        client_name: &settings.client_name,
        secrets: secrets::known(&settings.codex_args, std::env::vars_os()),
        environment,
    };
    match trial.run() {
        Ok(tried) => findings(settings, tried, serves),
        Err(error) => vec![Finding::error("codexStart", &error)],
    }
}

fn findings(settings: &Settings, tried: Tried, serves: bool) -> Vec<Finding> {
    let config = settings.codex_home.join("config.toml");
    let config = config.display();
    let mut findings = vec![match problem(&tried.outcome, &config) {
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

/// Says what went wrong and what to do about it.
fn problem(outcome: &Outcome, config: &dyn std::fmt::Display) -> Option<(String, String)> {
    let fix = || {
        format!(
            "fix what it reports, usually in `{config}` or in `codex_args`, and run `codexd doctor` again"
        )
    };
    Some(match outcome {
        Outcome::Answered => return None,
        Outcome::Refused(why) => (format!("refused the handshake: {why}"), fix()),
        Outcome::NoMessage(line) => (
            format!("wrote something that is no message: `{line}`"),
            "name codex itself with `--codex PATH` or CODEXD_CODEX; a wrapper must write to stderr"
                .to_owned(),
        ),
        Outcome::Ended(status @ ChildStatus::Signal(_)) => {
            (status.to_string(), "find out what killed it: `journalctl -k` or `dmesg` (memory?)".to_owned())
        }
        // The codes of shells and loaders for what cannot be run (`sh(1)`, `ld.so(8)`).
        Outcome::Ended(status @ ChildStatus::Code(126 | 127)) => (
            status.to_string(),
            "install what it misses, or codex again: `npm install --global @openai/codex`".to_owned(),
        ),
        Outcome::Ended(status) => (status.to_string(), fix()),
        Outcome::OutputEnded => ("closed its output".to_owned(), fix()),
        Outcome::Silent => (
            "did not answer the handshake in time".to_owned(),
            "run `codex app-server` in a terminal and see what it waits for".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_but_an_answer_has_words_and_a_remedy() {
        assert_eq!(problem(&Outcome::Answered, &"c"), None);
        for (outcome, says) in [
            (Outcome::Refused("no".to_owned()), "refused the handshake: no"),
            (Outcome::NoMessage("Usage:".to_owned()), "no message: `Usage:`"),
            (Outcome::Ended(ChildStatus::Code(1)), "exited with code 1"),
            (Outcome::Ended(ChildStatus::Signal(9)), "was killed by signal 9 (SIGKILL)"),
            (Outcome::OutputEnded, "closed its output"),
            (Outcome::Silent, "did not answer"),
        ] {
            let (what, fix) = problem(&outcome, &"c").unwrap();
            assert!(what.contains(says) && !fix.is_empty(), "{what}");
        }
    }
}
