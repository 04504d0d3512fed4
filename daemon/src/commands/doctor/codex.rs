//! The codex that would run, the one that runs, and whether there is a login.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_proto::status::StatusReport;

use super::{Finding, start};
use crate::instance::life::{self, Purpose};
use crate::serve::upstream::locate;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::start::unit;
use crate::start::{has_service, how_to_restart};

/// How long `codex --version` may take.
const VERSION_WITHIN: Duration = Duration::from_secs(5);
/// Time between looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Checks program and login.
pub(super) fn check(
    settings: &Settings,
    environment: &Environment,
    running: Option<&StatusReport>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    match locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str())) {
        Ok(program) => {
            let found = version(&program.executable, environment);
            findings.push(match &found {
                Some(version) => {
                    Finding::ok("codex", format!("{version}, `{}`", program.executable.display()))
                }
                None => Finding::fail(
                    "codex",
                    format!("`{}` does not print its version", program.executable.display()),
                    "npm install --global @openai/codex, or name another one with CODEXD_CODEX",
                ),
            });
            let upstream = running.and_then(|status| status.upstream.version.as_deref());
            let restart = || how_to_restart(settings, environment);
            findings.extend(
                found.as_deref().zip(upstream).and_then(|(found, runs)| differ(found, runs, restart)),
            );
            let serves = running.is_some_and(|status| status.ready);
            findings.extend(start::check(settings, environment, &program, serves));
        }
        Err(error) => findings.push(Finding::error("codex", &error)),
    }
    // Presence only: the content is not read.
    let key = std::env::var_os("OPENAI_API_KEY").is_some_and(|value| !value.is_empty());
    let file = settings.codex_home.join("auth.json");
    let service = has_service(settings, environment);
    findings.push(login(&file, file.is_file(), key, service, &settings.instance));
    findings
}

/// Says so if the codex on disk is not the one that runs.
fn differ(found: &str, runs: &str, restart: impl FnOnce() -> String) -> Option<Finding> {
    let number = found.rsplit(' ').next().unwrap_or(found);
    (number != runs).then(|| {
        Finding::warn(
            "codexVersion",
            format!("codex {runs} is running, {number} is installed"),
            format!("{}; running turns can finish", restart()),
        )
    })
}

fn login(file: &Path, present: bool, key: bool, service: bool, instance: &str) -> Finding {
    match (present, key, service) {
        (true, _, _) => Finding::ok("login", format!("`{}`", file.display())),
        (false, true, false) => Finding::ok(
            "login",
            "OPENAI_API_KEY is set here, and a daemon that a client starts gets it from there",
        ),
        (false, true, true) if cfg!(target_os = "macos") => Finding::warn(
            "login",
            "OPENAI_API_KEY is set here; an agent does not see the variables of a shell",
            "codex login --with-api-key",
        ),
        (false, true, true) => Finding::warn(
            "login",
            "OPENAI_API_KEY is set here; a service does not see the variables of a shell",
            format!(
                "codex login --with-api-key, or `systemctl --user edit {}.service` with an Environment= line",
                unit::unit_name(instance)
            ),
        ),
        (false, false, _) => Finding::warn(
            "login",
            format!(
                "neither `{}` nor OPENAI_API_KEY; right only for a provider without login",
                file.display()
            ),
            "codex login",
        ),
    }
}

/// Returns the first line of `codex --version`.
fn version(executable: &Path, environment: &Environment) -> Option<String> {
    let mut child = Command::new(executable)
        .arg("--version")
        // A script that runs codexd in place of codex must not start a daemon for this.
        .envs(life::variables(None, Purpose::Trial, environment))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + VERSION_WITHIN;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::park_timeout(LOOK_EVERY),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    // A version is short: it fits into the pipe.
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    (status.success() && !line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn another_version_on_disk_is_reported() {
        let restart = || "restart it".to_owned();
        assert_eq!(differ("codex-cli 0.169.0", "0.169.0", restart), None);
        let finding = differ("codex-cli 0.170.0", "0.169.0", restart).unwrap();
        assert!(finding.message.contains("0.170.0 is installed"));
        assert_eq!(finding.fix.as_deref(), Some("restart it; running turns can finish"));
    }

    #[test]
    fn a_login_is_looked_for_and_not_into() {
        let file = Path::new("/h/auth.json");
        let login = |present, key, service| login(file, present, key, service, "work");
        assert_eq!(login(true, false, true).level, Level::Ok);
        assert_eq!(login(false, false, true).fix.as_deref(), Some("codex login"));
        // The variable of a shell reaches a daemon that is started from there, and no service.
        assert_eq!(login(false, true, false).level, Level::Ok);
        let finding = login(false, true, true);
        assert_eq!(finding.level, Level::Warn);
        assert!(cfg!(target_os = "macos") || finding.fix.unwrap().contains("edit codexd-work.service"));
    }
}
