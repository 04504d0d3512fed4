//! The codex that would run, the one that runs, and whether somebody is logged in.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_proto::status::StatusReport;

use super::{Finding, start};
use crate::serve::upstream::locate;
use crate::settings::Settings;
use crate::settings::environment::Environment;

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
            let found = version(&program.executable);
            findings.push(match &found {
                Some(version) => {
                    Finding::ok("codex", format!("{version}, `{}`", program.executable.display()))
                }
                None => Finding::fail(
                    "codex",
                    format!("`{}` does not tell its version", program.executable.display()),
                    "npm install --global @openai/codex, or name another one with CODEXD_CODEX",
                ),
            });
            let upstream = running.and_then(|status| status.upstream.version.as_deref());
            findings.extend(found.as_deref().zip(upstream).and_then(|(found, runs)| differ(found, runs)));
            let serves = running.is_some_and(|status| status.ready);
            findings.extend(start::check(settings, environment, &program, serves));
        }
        Err(error) => findings.push(Finding::error("codex", &error)),
    }
    // Presence only: what is in there is nobody's business here.
    let key = std::env::var_os("OPENAI_API_KEY").is_some_and(|value| !value.is_empty());
    let file = settings.codex_home.join("auth.json");
    findings.push(login(&file, file.is_file(), key));
    findings
}

/// Says so if the codex on disk is not the one that runs.
fn differ(found: &str, runs: &str) -> Option<Finding> {
    let number = found.rsplit(' ').next().unwrap_or(found);
    (number != runs).then(|| {
        Finding::warn(
            "codexVersion",
            format!("codex {runs} is running, {number} is installed"),
            "systemctl --user restart codexd.service, or `codexd ctl stop`; running turns may finish",
        )
    })
}

fn login(file: &Path, present: bool, key: bool) -> Finding {
    match (present, key) {
        (true, _) => Finding::ok("login", format!("`{}`", file.display())),
        (false, true) => Finding::warn(
            "login",
            "OPENAI_API_KEY is set here; a service does not see the variables of a shell",
            "codex login --with-api-key, or `systemctl --user edit codexd.service` with an Environment= line",
        ),
        (false, false) => Finding::warn(
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
fn version(executable: &Path) -> Option<String> {
    let mut child = Command::new(executable)
        .arg("--version")
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
    fn another_version_on_disk_is_told() {
        assert_eq!(differ("codex-cli 0.169.0", "0.169.0"), None);
        assert!(differ("codex-cli 0.170.0", "0.169.0").unwrap().message.contains("0.170.0 is installed"));
    }

    #[test]
    fn a_login_is_looked_for_and_not_into() {
        let file = Path::new("/h/auth.json");
        assert_eq!(login(file, true, false).level, Level::Ok);
        assert_eq!(login(file, false, true).level, Level::Warn);
        assert_eq!(login(file, false, false).fix.as_deref(), Some("codex login"));
    }
}
