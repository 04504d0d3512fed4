//! The user service and its socket.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use codexd_proto::exit::ExitCode;

use super::step::Step;
use super::{Facts, say, template};
use crate::control::client::ask_status;
use crate::error::Error;
use crate::start::unit::{show, unit_name};

const SERVICE: &str = include_str!("../../../templates/codexd.service");
const SOCKET: &str = include_str!("../../../templates/codexd.socket");

/// How long a daemon has to send its identity.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The units of one instance, as they are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Name without suffix: `codexd`, or `codexd-INSTANCE` for another CODEX_HOME.
    pub(crate) name: String,
    pub(crate) service: (PathBuf, String),
    pub(crate) socket: (PathBuf, String),
}

impl Units {
    /// Fills in the units.
    ///
    /// # Errors
    ///
    /// With exit code 78 when a path or variable cannot stand in a unit.
    pub(crate) fn of(facts: &Facts) -> Result<Units, Error> {
        let instance = &facts.settings.instance;
        let name = unit_name(instance);
        let codexd = facts.codexd.to_str().ok_or_else(|| Error::config("the path of codexd is not UTF-8"))?;
        template::check("codexd", codexd)?;
        let mut environment = Vec::new();
        for (variable, value) in &facts.variables {
            template::check(variable, value)?;
            environment
                .push(format!("Environment={}", template::systemd_word(&format!("{variable}={value}"))));
        }
        let values = [
            ("INSTANCE", instance.clone()),
            ("UNIT", name.clone()),
            ("CODEXD", template::systemd_word(codexd)),
            ("ENVIRONMENT", environment.join("\n")),
            ("SOCKET", socket_path(facts)?),
        ];
        let directory = unit_directory(facts);
        Ok(Units {
            service: (directory.join(format!("{name}.service")), template::fill(SERVICE, &values)),
            socket: (directory.join(format!("{name}.socket")), template::fill(SOCKET, &values)),
            name,
        })
    }
}

fn unit_directory(facts: &Facts) -> PathBuf {
    facts.config_home.join("systemd/user")
}

/// Where the socket is, below `%t` where it can be: that is right for the next login, too.
fn socket_path(facts: &Facts) -> Result<String, Error> {
    let socket = &facts.settings.paths.socket;
    crate::settings::paths::check_socket_path(socket)?;
    let text = |path: &Path| {
        let text = path.to_str().ok_or_else(|| Error::config("the path of the socket is not UTF-8"))?;
        template::check("socket", text)?;
        Ok::<String, Error>(template::systemd_line(text))
    };
    match facts.runtime_home.as_ref().and_then(|home| socket.strip_prefix(home).ok()) {
        Some(below) => Ok(format!("%t/{}", text(below)?)),
        None => text(socket),
    }
}

/// Returns the steps of an installation.
///
/// # Errors
///
/// With exit code 75 when a daemon runs that no service owns, and the service is to start now.
pub(super) fn install(facts: &Facts, now: bool) -> Result<Vec<Step>, Error> {
    let units = Units::of(facts)?;
    let mut steps = Vec::new();
    for (path, contents) in [units.service, units.socket] {
        steps.push(Step::Write { path, contents });
    }
    steps.push(Step::run(&["systemctl", "--user", "daemon-reload"]));
    if now {
        let (service, socket) = (format!("{}.service", units.name), format!("{}.socket", units.name));
        refuse_stranger(facts, &service)?;
        // A limit that was reached earlier would refuse the start.
        steps.push(Step::try_run(&["systemctl", "--user", "reset-failed", &service, &socket]));
        steps.push(Step::run(&["systemctl", "--user", "enable", &socket]));
        steps.push(Step::run(&["systemctl", "--user", "start", &socket]));
        steps.push(Step::run(&["systemctl", "--user", "start", &service]));
    }
    Ok(steps)
}

/// Returns the process of a daemon that was started by hand or by a client.
fn stranger(facts: &Facts, service: &str) -> Option<u32> {
    let status = ask_status(&facts.settings.paths.control_socket, ANSWER_WITHIN).ok()?;
    let own = show(service, "MainPID").as_deref() == Some(status.pid.to_string().as_str());
    (!own).then_some(status.pid)
}

/// A daemon that the service did not start would make the service fail with 75.
fn refuse_stranger(facts: &Facts, service: &str) -> Result<(), Error> {
    let Some(pid) = stranger(facts, service) else { return Ok(()) };
    Err(Error::new(
        ExitCode::AlreadyRunning,
        format!("codexd runs already as process {pid}, and not as a service"),
    )
    .hint("`codexd ctl stop` lets running turns finish and ends it; then install again"))
}

/// Returns whether the service runs.
pub(super) fn is_active(facts: &Facts) -> bool {
    let service = format!("{}.service", unit_name(&facts.settings.instance));
    show(&service, "ActiveState").as_deref() == Some("active")
}

/// Prints the next steps after an installation; `stale` is true if the running daemon was started from another unit
/// file than the installed one.
///
/// # Errors
///
/// When stdout cannot be written.
pub(super) fn print_next_steps(facts: &Facts, now: bool, stale: bool) -> Result<(), Error> {
    let name = unit_name(&facts.settings.instance);
    if now {
        say(&format!("clients connect to {}", facts.settings.paths.socket.display()))?;
    } else {
        say(&format!("next: systemctl --user enable --now {name}.socket"))?;
    }
    if let Some(pid) = stranger(facts, &format!("{name}.service")).filter(|_| !now) {
        say(&format!(
            "note: codexd runs already as process {pid}, and not as a service; `codexd ctl stop` ends it first"
        ))?;
    }
    if stale {
        say(&format!("note: `systemctl --user restart {name}.service` puts the new unit into force"))?;
    }
    if linger() == Some(false) {
        say("note: the service ends with your last session; `loginctl enable-linger` keeps it running")?;
    }
    Ok(())
}

/// Returns the steps of taking the service away.
pub(super) fn uninstall(facts: &Facts) -> Vec<Step> {
    let name = unit_name(&facts.settings.instance);
    let (service, socket) = (format!("{name}.service"), format!("{name}.socket"));
    let directory = unit_directory(facts);
    let mut steps = vec![
        // The socket with the service: it would start the service again.
        Step::try_run(&["systemctl", "--user", "disable", "--now", &socket, &service]),
        Step::Remove { path: directory.join("sockets.target.wants").join(&socket) },
        Step::Remove { path: directory.join("default.target.wants").join(&service) },
        Step::Remove { path: directory.join(&socket) },
        Step::Remove { path: directory.join(&service) },
        Step::try_run(&["systemctl", "--user", "daemon-reload"]),
        Step::try_run(&["systemctl", "--user", "reset-failed", &service, &socket]),
    ];
    for directory in ["sockets.target.wants", "default.target.wants"].map(|wants| directory.join(wants)) {
        steps.push(Step::RemoveEmpty { path: directory });
    }
    steps.push(Step::Remove { path: facts.settings.paths.start_lock() });
    steps.push(Step::RemoveEmpty { path: facts.settings.paths.runtime_dir.clone() });
    steps
}

/// Checks that the user's manager answers, before anything is written.
///
/// # Errors
///
/// With exit code 69 when it does not.
pub(super) fn check_manager() -> Result<(), Error> {
    if show("default.target", "LoadState").is_some() {
        return Ok(());
    }
    Err(Error::new(ExitCode::Unavailable, "no service manager of systemd answers for this user")
        .hint(
            "after `su` or `sudo`, `unset XDG_RUNTIME_DIR` if it is another user's; a user without a session has one \
             after `loginctl enable-linger USER`; without systemd the first client starts the daemon",
        ))
}

/// Returns whether the user's services outlive the last session; `None` where that is not known, or where there are
/// no sessions (no logind).
pub(crate) fn linger() -> Option<bool> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
    let directory = Path::new("/var/lib/systemd/linger");
    let sessions = Path::new("/run/systemd/seats").is_dir();
    ask_linger(&user.name).or_else(|| noted_linger(directory, &user.name, sessions))
}

/// Asks logind. It answers for users that have a session or linger, and only over the system's D-Bus.
fn ask_linger(user: &str) -> Option<bool> {
    let output = Command::new("loginctl").args(["show-user", user, "--property=Linger", "--value"]).output();
    match output.ok().filter(|output| output.status.success())?.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// Looks at the files that logind keeps, one for each user that lingers, and goes by when it starts.
fn noted_linger(directory: &Path, user: &str, sessions: bool) -> Option<bool> {
    (sessions || directory.is_dir()).then(|| directory.join(user).exists())
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;

    #[test]
    fn the_units_have_every_word_filled_in() {
        let units = Units::of(&facts("/home/x")).unwrap();
        assert_eq!(units.name, "codexd");
        assert_eq!(units.service.0, Path::new("/home/x/.config/systemd/user/codexd.service"));
        let service = &units.service.1;
        assert!(
            service.contains("\nExecStart=\"/opt/my tools/100%%/codexd\" serve --supervised\n"),
            "{service}"
        );
        assert!(service.contains("\nEnvironment=\"CODEXD_CODEX=/opt/a&b/codex\"\n"), "{service}");
        assert!(
            service.contains("\nEnvironment=\"PATH=/home/x y/bin:/usr/bin:/odd\\\"\\\\$HOME%%h\"\n"),
            "{service}"
        );
        assert!(units.socket.1.contains("\nListenStream=%t/codexd/default.sock\n"), "{}", units.socket.1);
        for line in service.lines().chain(units.socket.1.lines()).filter(|line| !line.starts_with('#')) {
            assert!(!line.contains('@'), "{line}");
        }
    }

    #[test]
    fn the_unit_does_not_restart_exactly_the_permanent_codes() {
        let line = SERVICE.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
        let permanent: Vec<String> = ExitCode::ALL
            .into_iter()
            .filter(|code| code.is_permanent())
            .map(|code| code.number().to_string())
            .collect();
        assert_eq!(line, permanent.join(" "));
    }

    #[test]
    fn each_setting_of_the_units_has_its_reason() {
        for unit in [SERVICE, SOCKET] {
            let mut said = false;
            for line in unit.lines() {
                match line {
                    "" => said = false,
                    _ if line.starts_with('#') => said = true,
                    _ if line.starts_with('[') => said = true,
                    _ => assert!(said, "no comment above `{line}`"),
                }
            }
        }
    }

    #[test]
    fn lingering_is_looked_up_where_logind_notes_it() {
        let dir = crate::os::test_dir::test_dir();
        let directory = dir.path().join("linger");
        assert_eq!(noted_linger(&directory, "x", false), None);
        // The directory is made for the first one who lingers.
        assert_eq!(noted_linger(&directory, "x", true), Some(false));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("x"), "").unwrap();
        assert_eq!(noted_linger(&directory, "x", false), Some(true));
        assert_eq!(noted_linger(&directory, "y", false), Some(false));
    }

    #[test]
    fn another_codex_home_has_units_of_its_own() {
        assert_eq!(unit_name("1a2b3c4d"), "codexd-1a2b3c4d");
        let mut facts = facts("/home/x");
        facts.settings.instance = "1a2b3c4d".to_owned();
        let units = Units::of(&facts).unwrap();
        assert!(units.service.1.contains("\nRequires=codexd-1a2b3c4d.socket\n"));
    }
}
