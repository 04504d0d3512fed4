//! The service: there, as this codexd would write it, enabled, not failed, and outliving the session.

use std::path::Path;

use super::Finding;
use crate::commands::install::{Facts, systemd};
use crate::os::plain_file;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::start::unit;

/// Checks the service of this instance.
pub(super) fn check(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    if cfg!(target_os = "macos") { agent(settings, environment) } else { unit(settings, environment) }
}

fn agent(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let label = unit::label(&settings.instance);
    let Some(home) = environment.path("HOME") else { return Vec::new() };
    let path = home.join("Library/LaunchAgents").join(format!("{label}.plist"));
    vec![if path.is_file() {
        Finding::ok("service", format!("`{}`; `launchctl print gui/$UID/{label}` shows it", path.display()))
    } else {
        not_installed("codexd install --launchd --now")
    }]
}

fn not_installed(fix: &str) -> Finding {
    let mut finding = Finding::ok("service", "not installed; the first client starts the daemon");
    finding.fix = Some(fix.to_owned());
    finding
}

fn unit(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let name = unit::unit_name(&settings.instance);
    let (service, socket) = (format!("{name}.service"), format!("{name}.socket"));
    let Some(load_state) = unit::show(&service, "LoadState") else {
        return vec![Finding::ok("service", "no service manager of systemd answers here")];
    };
    if load_state == "not-found" {
        return vec![not_installed("codexd install --systemd --now")];
    }
    let mut findings = vec![state(&service, &socket)];
    findings.extend(drift(environment, &service));
    match systemd::linger() {
        Some(false) => findings.push(Finding::warn(
            "linger",
            "the service ends with your last session, and running turns with it",
            "loginctl enable-linger",
        )),
        Some(true) => findings.push(Finding::ok("linger", "the service outlives your sessions")),
        None => {}
    }
    findings
}

fn state(service: &str, socket: &str) -> Finding {
    let ask = |unit: &str, property: &str| unit::show(unit, property).unwrap_or_default();
    for unit in [service, socket] {
        if ask(unit, "ActiveState") == "failed" {
            let (result, status) = (ask(unit, "Result"), ask(unit, "ExecMainStatus"));
            let code = if unit == service && result == "exit-code" {
                format!(", exit code {status}")
            } else {
                String::new()
            };
            return Finding::fail(
                "service",
                format!("{unit} has failed: {result}{code}"),
                format!(
                    "journalctl --user -u {service} -n 20; fix it; systemctl --user reset-failed {service} {socket}; systemctl --user restart {socket}"
                ),
            );
        }
    }
    let enabled = |unit: &str| matches!(ask(unit, "UnitFileState").as_str(), "enabled" | "enabled-runtime");
    if !enabled(socket) && !enabled(service) {
        return Finding::warn(
            "service",
            format!("{service} is installed and not enabled: it is gone at the next login"),
            format!("systemctl --user enable --now {socket}"),
        );
    }
    Finding::ok(
        "service",
        format!("{service} is {}, {socket} is {}", ask(service, "ActiveState"), ask(socket, "ActiveState")),
    )
}

/// Compares the units with what `codexd install` would write now: after an update of node or of codexd
/// they may name programs that are gone.
fn drift(environment: &Environment, service: &str) -> Option<Finding> {
    let units = systemd::Units::of(&Facts::gather(None, environment).ok()?).ok()?;
    let installed = plain_file::read_to_string(&units.service.0).ok()?;
    let gone = missing(&installed);
    let again = format!("codexd install --systemd, then systemctl --user restart {service}");
    if let Some(path) = gone {
        return Some(Finding::fail(
            "unit",
            format!("`{}` names `{path}`, which is not there", units.service.0.display()),
            again,
        ));
    }
    // PATH is another one in every second terminal; that is no reason to install again.
    let without_path = |unit: &str| {
        let lines = unit.lines().filter(|line| !line.starts_with("Environment=\"PATH="));
        lines.collect::<Vec<_>>().join("\n")
    };
    (without_path(&installed) != without_path(&units.service.1)).then(|| {
        Finding::warn(
            "unit",
            format!("`{}` is not what would be installed now", units.service.0.display()),
            again,
        )
    })
}

/// Returns a program that a unit names and that does not exist.
fn missing(unit: &str) -> Option<String> {
    let unquoted = |word: &str| word.replace("%%", "%").replace("\\\"", "\"").replace("\\\\", "\\");
    unit.lines()
        .filter_map(|line| {
            let word = line
                .strip_prefix("ExecStart=\"")
                .or_else(|| line.strip_prefix("Environment=\"CODEXD_CODEX="))?;
            // No path ends with a backslash here: the quote after it is the closing one.
            let end = word.find("\" serve").or_else(|| word.strip_suffix('"').map(str::len))?;
            Some(unquoted(&word[..end]))
        })
        .find(|path| !Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_gone_is_found() {
        let unit = |codexd: &str, codex: &str| {
            format!(
                "[Service]\nExecStart=\"{codexd}\" serve --supervised\nEnvironment=\"CODEXD_CODEX={codex}\"\n"
            )
        };
        assert_eq!(missing(&unit("/bin/sh", "/bin/sh")), None);
        assert_eq!(missing(&unit("/no/where", "/bin/sh")).as_deref(), Some("/no/where"));
        assert_eq!(missing(&unit("/bin/sh", "/100%%/codex")).as_deref(), Some("/100%/codex"));
    }
}
