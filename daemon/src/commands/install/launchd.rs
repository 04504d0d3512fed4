//! The launch agent.

use std::path::PathBuf;

use super::step::Step;
use super::{Facts, template};
use crate::error::Error;
use crate::start::unit::label;

const AGENT: &str = include_str!("../../../templates/com.codexd.agent.plist");

fn agent_path(facts: &Facts) -> PathBuf {
    facts.home.join("Library/LaunchAgents").join(format!("{}.plist", label(&facts.settings.instance)))
}

fn log_directory(facts: &Facts) -> PathBuf {
    facts.home.join("Library/Logs/codexd")
}

/// The domain of a user who is logged in (`launchctl(1)`).
fn domain() -> String {
    format!("gui/{}", nix::unistd::geteuid())
}

/// Fills in the agent.
fn agent(facts: &Facts) -> Result<String, Error> {
    let text = |name: &str, path: &std::path::Path| {
        let text = path.to_str().ok_or_else(|| Error::config(format!("`{name}` is not UTF-8")))?;
        template::check(name, text)?;
        Ok::<String, Error>(template::xml(text))
    };
    let mut environment = Vec::new();
    for (name, value) in &facts.variables {
        template::check(name, value)?;
        environment.push(format!("\t\t<key>{name}</key>\n\t\t<string>{}</string>", template::xml(value)));
    }
    let socket = &facts.settings.paths.socket;
    crate::settings::paths::check_socket_path(socket)?;
    let instance = &facts.settings.instance;
    Ok(template::fill(
        AGENT,
        &[
            ("LABEL", label(instance)),
            ("CODEXD", text("codexd", &facts.codexd)?),
            // An XML comment must not contain two hyphens, so the file has placeholders without them.
            ("SUPERVISED", "--supervised".to_owned()),
            ("PERMANENT_EXIT_ZERO", "--permanent-exit-zero".to_owned()),
            ("ENVIRONMENT", environment.join("\n")),
            ("SOCKET", text("socket", socket)?),
            ("LOG", text("log", &log_directory(facts).join(format!("{instance}.log")))?),
        ],
    ))
}

/// Returns the steps of an installation.
///
/// # Errors
///
/// With exit code 78 when a path or variable cannot stand in an agent.
pub(super) fn install(facts: &Facts, now: bool) -> Result<Vec<Step>, Error> {
    let path = agent_path(facts);
    let mut steps = vec![
        // launchd makes the socket and the log, and no directories.
        Step::Directory { path: log_directory(facts) },
        Step::Directory { path: facts.settings.paths.runtime_dir.clone() },
        Step::Write { path: path.clone(), contents: agent(facts)? },
    ];
    if now {
        let (domain, label) = (domain(), label(&facts.settings.instance));
        let service = format!("{domain}/{label}");
        steps.push(Step::try_run(&["launchctl", "bootout", &service]));
        steps.push(Step::run(&["launchctl", "enable", &service]));
        steps.push(Step::run(&["launchctl", "bootstrap", &domain, &path.to_string_lossy()]));
    }
    Ok(steps)
}

/// Returns the steps of taking the agent away.
pub(super) fn uninstall(facts: &Facts) -> Vec<Step> {
    let instance = &facts.settings.instance;
    vec![
        Step::try_run(&["launchctl", "bootout", &format!("{}/{}", domain(), label(instance))]),
        Step::Remove { path: agent_path(facts) },
        Step::Remove { path: facts.settings.paths.socket.clone() },
        Step::Remove { path: log_directory(facts).join(format!("{instance}.log")) },
        Step::RemoveEmpty { path: log_directory(facts) },
        Step::RemoveEmpty { path: facts.settings.paths.runtime_dir.clone() },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;

    #[test]
    fn the_agent_has_every_word_filled_in_and_escaped() {
        let text = agent(&facts("/Users/x")).unwrap();
        assert!(text.contains("<string>/opt/my tools/100%/codexd</string>"), "{text}");
        assert!(text.contains("<string>/opt/a&amp;b/codex</string>"), "{text}");
        assert!(text.contains("<string>--permanent-exit-zero</string>"), "{text}");
        for line in text.lines().filter(|line| line.contains("<string>")) {
            assert!(!line.contains('@'), "{line}");
        }
    }
}
