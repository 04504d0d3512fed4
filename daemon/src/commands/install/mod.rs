//! `codexd install` and `codexd uninstall`: the service of this user and CODEX_HOME, and the shim.
//!
//! Both verbs make a plan, a list of steps. `--dry-run` prints it; otherwise each step is carried out and prints what
//! it did. Both can be repeated: a step whose result is already there changes nothing.

use std::path::{Path, PathBuf};

use codexd_proto::exit::ExitCode;

use crate::cli::{InstallArgs, ServeArgs, SupervisorArgs, UninstallArgs};
use crate::error::Error;
use crate::serve::upstream::locate;
use crate::settings::Settings;
use crate::settings::environment::Environment;

pub(crate) mod launchd;
pub(crate) mod shim;
mod step;
pub(crate) mod systemd;
mod template;

use step::{Done, Step};

/// Who starts the daemon and starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supervisor {
    Systemd,
    Launchd,
}

impl Supervisor {
    /// The one that was named, else that of this system.
    fn of(args: &SupervisorArgs) -> Supervisor {
        match (args.systemd, args.launchd) {
            (true, _) => Supervisor::Systemd,
            (_, true) => Supervisor::Launchd,
            _ if cfg!(target_os = "macos") => Supervisor::Launchd,
            _ => Supervisor::Systemd,
        }
    }

    /// Refuses a supervisor that this system does not have.
    fn check(self) -> Result<(), Error> {
        match self {
            Supervisor::Launchd if !cfg!(target_os = "macos") => {
                Err(Error::usage("launchd is part of macOS only").hint("`--dry-run` shows the agent"))
            }
            Supervisor::Systemd if cfg!(target_os = "macos") => {
                Err(Error::usage("systemd is not part of macOS").hint("`codexd install --launchd`"))
            }
            _ => Ok(()),
        }
    }
}

/// What goes into a service, as found now.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) settings: Settings,
    /// The program of this process; the name in PATH where that leads to it, since it outlives updates.
    pub(crate) codexd: PathBuf,
    pub(crate) codex: PathBuf,
    /// Variables for the daemon, by name.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) home: PathBuf,
    /// Where user units live: `$XDG_CONFIG_HOME` or `~/.config`.
    pub(crate) config_home: PathBuf,
    pub(crate) runtime_home: Option<PathBuf>,
}

impl Facts {
    /// Looks around.
    ///
    /// # Errors
    ///
    /// With exit code 69 when there is no codex, 78 when the settings cannot be used.
    pub(crate) fn gather(codex: Option<&Path>, environment: &Environment) -> Result<Facts, Error> {
        let flags = ServeArgs { codex: codex.map(Path::to_owned), ..ServeArgs::default() };
        let settings = Settings::load(&flags, environment)?;
        let search_path = environment.value("PATH").map(|path| path.as_os_str());
        let program = locate::locate(&settings.codex, search_path).map_err(locate::with_flag)?;
        let codex = program.requested.unwrap_or(program.executable);
        Facts::with(settings, codex, environment)
    }

    /// Looks around for everything else.
    fn with(settings: Settings, codex: PathBuf, environment: &Environment) -> Result<Facts, Error> {
        let codexd = own_program(environment)?;
        let home = environment
            .absolute_path("HOME")
            .ok_or_else(|| Error::config("HOME is not set").hint("set HOME to your home directory"))?;
        let config_home =
            environment.absolute_path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let mut variables = Vec::new();
        let mut add = |name: &str, value: &std::ffi::OsStr| {
            let value = value.to_str().ok_or_else(|| Error::config(format!("`{name}` is not UTF-8")))?;
            variables.push((name.to_owned(), value.to_owned()));
            Ok::<(), Error>(())
        };
        add("CODEXD_CODEX", codex.as_os_str())?;
        for name in [
            "PATH",
            "CODEX_HOME",
            "CODEXD_CONFIG",
            "CODEXD_CONTROL_SOCKET",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
        ] {
            if let Some(value) = environment.value(name) {
                add(name, value)?;
            }
        }
        add("CODEXD_INSTANCE", settings.instance.as_ref())?;
        let runtime_home = environment.absolute_path("XDG_RUNTIME_DIR");
        Ok(Facts { settings, codexd, codex, variables, home, config_home, runtime_home })
    }

    /// Returns what is found where no codex is needed: for taking a service away or looking at it.
    fn without_codex(environment: &Environment) -> Result<Facts, Error> {
        let settings = Settings::load(&ServeArgs::default(), environment)?;
        // Any will do: the names of the units do not depend on it.
        let codex = settings.codex.clone();
        Facts::with(settings, codex, environment)
    }
}

/// Returns the program of this process; the name in PATH where that leads to it, since it outlives updates.
fn own_program(environment: &Environment) -> Result<PathBuf, Error> {
    let own = std::env::current_exe()
        .map_err(|error| Error::os("cannot find the path of codexd itself").because(error))?;
    let search_path = environment.value("PATH").map(|path| path.as_os_str());
    let named = locate::in_path(Path::new("codexd"), search_path).next();
    Ok(named.filter(|named| same_file(named, &own)).unwrap_or(own))
}

/// Installs the service.
///
/// # Errors
///
/// When something that the service needs is missing, or a step fails.
pub(crate) fn install(args: &InstallArgs, environment: &Environment) -> Result<ExitCode, Error> {
    if args.shim.shim {
        return shim::install(&args.shim, args.supervisor.dry_run, environment);
    }
    let supervisor = Supervisor::of(&args.supervisor);
    let facts = Facts::gather(args.codex.as_deref(), environment)?;
    if !args.supervisor.dry_run {
        supervisor.check()?;
    }
    if supervisor == Supervisor::Systemd && !args.supervisor.dry_run {
        systemd::check_manager()?;
    }
    let steps = match supervisor {
        Supervisor::Systemd => systemd::install(&facts, args.now)?,
        Supervisor::Launchd => launchd::install(&facts, args.now)?,
    };
    if !args.supervisor.dry_run {
        say(&format!("codexd is {}, codex is {}", facts.codexd.display(), facts.codex.display()))?;
    }
    let stale = supervisor == Supervisor::Systemd && !args.supervisor.dry_run && systemd::is_active(&facts);
    let updated = carry_out(&steps, args.supervisor.dry_run)?;
    if supervisor == Supervisor::Systemd && !args.supervisor.dry_run {
        systemd::print_next_steps(&facts, args.now, stale && updated)?;
    }
    Ok(ExitCode::Stopped)
}

/// Takes the service away.
///
/// # Errors
///
/// When a step fails.
pub(crate) fn uninstall(args: &UninstallArgs, environment: &Environment) -> Result<ExitCode, Error> {
    if args.shim.shim {
        return shim::uninstall(&args.shim, args.supervisor.dry_run, environment);
    }
    let supervisor = Supervisor::of(&args.supervisor);
    if !args.supervisor.dry_run {
        supervisor.check()?;
    }
    let facts = Facts::without_codex(environment)?;
    if supervisor == Supervisor::Systemd && !args.supervisor.dry_run && systemd::is_active(&facts) {
        say("stopping the daemon; running turns may finish first")?;
    }
    let steps = match supervisor {
        Supervisor::Systemd => systemd::uninstall(&facts),
        Supervisor::Launchd => launchd::uninstall(&facts),
    };
    carry_out(&steps, args.supervisor.dry_run)?;
    Ok(ExitCode::Stopped)
}

/// Does or shows the steps; returns whether a file that was there already has changed.
fn carry_out(steps: &[Step], dry_run: bool) -> Result<bool, Error> {
    let mut updated = false;
    for step in steps {
        if dry_run {
            say(&step.shown())?;
            continue;
        }
        let done = step.carry_out()?;
        updated |= matches!(done, Done::Updated { .. });
        if done != Done::Nothing {
            say(&done.to_string())?;
        }
    }
    Ok(updated)
}

/// Writes a line to stdout; a reader that has gone away is no error.
fn say(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::os("cannot write to stdout").because(error))
        }
        _ => Ok(()),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts with awkward paths, for the tests of both supervisors.
    pub(super) fn facts(home: &str) -> Facts {
        let environment = Environment::of([("HOME", home), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        Facts {
            settings: Settings::load(&ServeArgs::default(), &environment).unwrap(),
            codexd: "/opt/my tools/100%/codexd".into(),
            codex: "/opt/a&b/codex".into(),
            variables: vec![
                ("CODEXD_CODEX".to_owned(), "/opt/a&b/codex".to_owned()),
                ("PATH".to_owned(), "/home/x y/bin:/usr/bin:/odd\"\\$HOME%h".to_owned()),
            ],
            home: home.into(),
            config_home: Path::new(home).join(".config"),
            runtime_home: Some("/run/user/7".into()),
        }
    }
}
