//! The service manager's way to start the daemon, where a unit is installed for the instance.
//!
//! Looking for a unit is cheap and safe: it only reads files, and asks nothing of a manager that does not run. A unit
//! counts only if it starts the wanted daemon: the instance's own socket, no arguments of one client.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::exit::ExitCode;

use super::unit;
use crate::error::Error;
use crate::settings::Settings;
use crate::settings::environment::{Environment, lend_runtime_dir};
use crate::settings::paths;

/// What the service manager is asked to start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    program: &'static str,
    arguments: Vec<String>,
    /// The unit that runs the daemon, where systemd has it.
    unit: Option<String>,
    /// How people look at it.
    inspect: String,
}

/// Finds the unit of the instance.
pub(super) fn find(
    settings: &Settings,
    codex_args: &CodexArgs,
    environment: &Environment,
) -> Option<Service> {
    let own = settings.paths.socket_is_default() && settings.paths.control_socket_is_default();
    if !own || *codex_args != settings.codex_args {
        return None;
    }
    if cfg!(target_os = "macos") { launchd(settings, environment) } else { systemd(settings, environment) }
}

/// Looks for the socket or the service that `codexd install` names after the instance, in the directories for
/// units of users and administrators (`systemd.unit(5)`).
fn systemd(settings: &Settings, environment: &Environment) -> Option<Service> {
    let runtime = environment.absolute_path("XDG_RUNTIME_DIR")?;
    // The user's manager listens there while it runs.
    if !runtime.join("systemd/private").exists() {
        return None;
    }
    let config = environment
        .absolute_path("XDG_CONFIG_HOME")
        .or_else(|| Some(paths::home(environment)?.join(".config")))?;
    let data = environment
        .absolute_path("XDG_DATA_HOME")
        .or_else(|| Some(paths::home(environment)?.join(".local/share")))?;
    let directories = [
        config.join("systemd/user"),
        data.join("systemd/user"),
        PathBuf::from("/etc/systemd/user"),
        PathBuf::from("/usr/lib/systemd/user"),
    ];
    let name = unit::unit_name(&settings.instance);
    let unit = ["socket", "service"]
        .map(|kind| format!("{name}.{kind}"))
        .into_iter()
        .find(|unit| directories.iter().any(|directory| directory.join(unit).exists()))?;
    let service = format!("{name}.service");
    // A socket fails when its service was started too often, and would do so again with the next client, without a
    // message. The service has the reason.
    let failed = || unit::show(&unit, "ActiveState").as_deref() == Some("failed");
    let unit = if unit != service && failed() { service.clone() } else { unit };
    Some(Service {
        program: "systemctl",
        arguments: ["--user", "--no-ask-password", "start", &unit].map(str::to_owned).into(),
        inspect: format!("systemctl --user status {service}"),
        unit: Some(service),
    })
}

/// Looks for the agent that `codexd install` names after the instance, in the user's directory.
fn launchd(settings: &Settings, environment: &Environment) -> Option<Service> {
    let label = unit::label(&settings.instance);
    let plist = paths::home(environment)?.join(format!("Library/LaunchAgents/{label}.plist"));
    let target = format!("gui/{}/{label}", nix::unistd::geteuid());
    plist.exists().then(|| Service {
        program: "launchctl",
        arguments: vec!["kickstart".to_owned(), target.clone()],
        unit: None,
        inspect: format!("launchctl print {target}"),
    })
}

impl Service {
    /// Has it started. The manager bounds how long that takes, and for a unit of the kind `notify` it
    /// returns when the daemon is ready.
    ///
    /// # Errors
    ///
    /// With exit code 69: how the daemon ended if it did, else the manager's message.
    pub(super) fn start(&self) -> Result<(), Error> {
        let failed = || {
            Error::new(
                ExitCode::Unavailable,
                format!(
                    "the service manager did not start the daemon (`{} {}`)",
                    self.program,
                    self.arguments.join(" ")
                ),
            )
            .hint(self.inspect.clone())
        };
        let output = lend_runtime_dir(&mut Command::new(self.program))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed().because(error))?;
        if output.status.success() {
            return Ok(());
        }
        // The manager goes on by itself where trying again may help.
        if matches!(self.ask("ActiveState").as_deref(), Some("activating" | "active")) {
            return Ok(());
        }
        let said = || String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        Err(failed().because(self.end().unwrap_or_else(said)))
    }

    /// Returns the command by which a person starts the daemon.
    pub(super) fn start_command(&self) -> String {
        match &self.unit {
            Some(unit) => format!("systemctl --user start {unit}"),
            None => format!("{} {}", self.program, self.arguments.join(" ")),
        }
    }

    /// Returns the command by which a person restarts the daemon.
    pub(super) fn restart_command(&self) -> String {
        match &self.unit {
            Some(unit) => format!("systemctl --user restart {unit}"),
            None => format!("{} kickstart -k {}", self.program, self.arguments[1..].join(" ")),
        }
    }

    fn ask(&self, property: &str) -> Option<String> {
        unit::show(self.unit.as_ref()?, property)
    }

    /// Says how a variable gets to the daemon, and the codex of this shell.
    pub(super) fn how_to_change_environment(&self) -> String {
        match &self.unit {
            Some(unit) => format!(
                "`systemctl --user edit {unit}` sets variables (`Environment=NAME=value`), `codexd install --systemd` \
                 takes PATH and codex of this shell; then systemctl --user restart {unit}"
            ),
            None => "`codexd install --launchd --now` takes PATH and codex of this shell".to_owned(),
        }
    }

    /// Returns how the daemon of the unit ended: exit code and last log line.
    fn end(&self) -> Option<String> {
        // That of the last life, also when there were too many of them.
        if self.ask("Result")? != "exit-code" {
            return None;
        }
        let code = self.ask("ExecMainStatus")?;
        let words = self.ask("StatusText").filter(|words| !words.is_empty());
        let words = words.map(|words| format!(": {words}")).unwrap_or_default();
        Some(format!("exit code {code}{words}"))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::cli::ServeArgs;

    #[test]
    fn a_unit_counts_only_for_its_own_daemon_and_a_manager_that_runs() {
        let dir = crate::os::test_dir::test_dir();
        let path = |name: &str| dir.path().join(name);
        let units = path("config/systemd/user");
        std::fs::create_dir_all(&units).unwrap();
        std::fs::create_dir_all(path("run/systemd")).unwrap();
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let environment = Environment::of([
            ("HOME", &text("home")),
            ("XDG_RUNTIME_DIR", &text("run")),
            ("XDG_CONFIG_HOME", &text("config")),
        ]);
        let settings = Settings::load(&ServeArgs::default(), &environment).unwrap();
        let none = CodexArgs::default();
        let found = |args: &CodexArgs| {
            find(&settings, args, &environment).map(|service| service.arguments[3].clone())
        };
        std::fs::write(units.join("codexd.service"), "").unwrap();
        assert_eq!(found(&none), None);
        std::fs::write(path("run/systemd/private"), "").unwrap();
        assert_eq!(found(&none).as_deref(), Some("codexd.service"));
        std::fs::write(units.join("codexd.socket"), "").unwrap();
        assert_eq!(found(&none).as_deref(), Some("codexd.socket"));
        assert_eq!(found(&CodexArgs::new(vec!["-c".to_owned()])), None);
        let other = ServeArgs { instance: Some("work".to_owned()), ..ServeArgs::default() };
        let other = Settings::load(&other, &environment).unwrap();
        assert_eq!(find(&other, &none, &environment), None);
        std::fs::write(units.join("codexd-work.socket"), "").unwrap();
        assert_eq!(find(&other, &none, &environment).unwrap().arguments[3], "codexd-work.socket");
        let elsewhere = ServeArgs { socket: Some(path("s")), ..ServeArgs::default() };
        let elsewhere = Settings::load(&elsewhere, &environment).unwrap();
        assert_eq!(find(&elsewhere, &none, &environment), None);
    }
}
