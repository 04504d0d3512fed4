//! The settings, read once. Precedence: flags, environment, configuration file, defaults.

pub(crate) mod codex_flags;
pub(crate) mod duration;
pub(crate) mod environment;
mod file;
pub(crate) mod fingerprint;
mod limits;
pub(crate) mod origin;
pub(crate) mod paths;
pub(crate) mod reloader;
pub(crate) mod secrets;
pub(crate) mod version;

use std::path::{Path, PathBuf};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::core::{CoreSettings, Restart};
use codexd_proto::router::{ClientShutdown, Limits, OrphanedTurns};

use crate::cli::ServeArgs;
use crate::error::Error;
use crate::logging::filter::LogFilter;
use crate::logging::format::LogFormat;
use crate::os::plain_file::{self, NotRegular};
use duration::TimeLimit;
use environment::Environment;
use file::ConfigFile;
use paths::Paths;

/// Time without clients and turns after which a daemon stops that a client has started.
const AUTO_SPAWNED_IDLE_EXIT: TimeLimit = TimeLimit::seconds(600);

/// All settings of the daemon, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of this daemon among the user's.
    pub(crate) instance: String,
    /// Sockets, locks and records.
    pub(crate) paths: Paths,
    /// CODEX_HOME of the upstream; absolute.
    pub(crate) codex_home: PathBuf,
    /// The codex program as it was asked for: a path, or a name to look up in PATH.
    pub(crate) codex: PathBuf,
    /// Arguments after `codex app-server`.
    pub(crate) codex_args: CodexArgs,
    /// What a client's `broker/shutdown` does to the daemon.
    pub(crate) client_shutdown: ClientShutdown,
    /// What becomes of turns whose last subscriber disconnects.
    pub(crate) orphaned_turns: OrphanedTurns,
    /// The name by which codexd introduces itself to the upstream.
    pub(crate) client_name: String,
    /// How long running turns may go on after a request to stop.
    pub(crate) drain_timeout: TimeLimit,
    /// After how long without clients and turns the daemon stops.
    pub(crate) idle_exit: TimeLimit,
    /// Silence of the upstream after which a health check is sent.
    pub(crate) probe_interval: TimeLimit,
    /// How long the upstream has to answer a health check.
    pub(crate) probe_timeout: TimeLimit,
    /// Whether turns are recorded in the ledger.
    pub(crate) ledger: bool,
    /// Turns that are kept there after their end.
    pub(crate) ledger_turns: u64,
    /// How long they are kept.
    pub(crate) ledger_age: TimeLimit,
    /// What is logged.
    pub(crate) log: LogFilter,
    /// In which form.
    pub(crate) log_format: LogFormat,
    /// Limits.
    pub(crate) limits: Limits,
    /// Bytes of codex and its commands at which the status warns.
    pub(crate) memory_warning_bytes: Option<u64>,
    /// Bytes of codex and its commands at which a daemon that nobody uses stops.
    pub(crate) memory_recycle_bytes: Option<u64>,
    /// The port on loopback for metrics, if there is to be one.
    pub(crate) metrics_port: Option<u16>,
    /// Whether a client started the daemon.
    pub(crate) auto_spawned: bool,
    /// Whether a supervisor restarts the daemon.
    pub(crate) supervised: bool,
    /// Whether failures that a restart cannot cure exit 0.
    pub(crate) permanent_exit_zero: bool,
    /// The configuration file that was read, if one was.
    pub(crate) config_file: Option<PathBuf>,
    /// The keys that it has, those of `[limits]` with `limits.` before them.
    pub(crate) file_keys: Vec<String>,
}

impl Settings {
    /// Returns what the core needs, as far as it can change while clients are served.
    pub(crate) fn for_core(&self) -> CoreSettings {
        CoreSettings {
            limits: self.limits,
            client_shutdown: self.client_shutdown,
            orphaned_turns: self.orphaned_turns,
            drain_ms: self.drain_timeout.as_millis(),
            health_interval_ms: self.probe_interval.as_millis(),
            health_timeout_ms: self.probe_timeout.as_millis(),
            idle_exit_ms: self.idle_exit.as_millis(),
        }
    }

    /// Returns who starts the daemon again; `inherited` if a service manager opened its socket.
    pub(crate) fn restart(&self, inherited: bool) -> Restart {
        if inherited || self.auto_spawned && self.supervised {
            Restart::OnDemand
        } else if self.auto_spawned {
            Restart::BySuccessor
        } else if self.supervised {
            Restart::OnFailure
        } else {
            Restart::Never
        }
    }

    /// Reads the settings of `codexd serve`.
    ///
    /// # Errors
    ///
    /// With exit code 78 when the environment or the configuration file holds something it cannot, or a
    /// configuration file that was named does not exist.
    pub(crate) fn load(args: &ServeArgs, environment: &Environment) -> Result<Settings, Error> {
        let (file, config_file) = read_file(args.config.as_deref(), environment)?;
        Settings::over(file, config_file, args, environment)
    }

    /// Reads the settings as if there were no configuration file: to look for a daemon that started when
    /// the file was still in order.
    ///
    /// # Errors
    ///
    /// With exit code 78 when the environment holds something it cannot.
    pub(crate) fn load_without_file(args: &ServeArgs, environment: &Environment) -> Result<Settings, Error> {
        Settings::over(ConfigFile::default(), None, args, environment)
    }

    fn over(
        file: ConfigFile,
        config_file: Option<PathBuf>,
        args: &ServeArgs,
        environment: &Environment,
    ) -> Result<Settings, Error> {
        let codex_home = paths::codex_home(environment)?;
        let instance = match args.instance.clone().or(text(environment, "CODEXD_INSTANCE")?).or(file.instance)
        {
            Some(name) => name,
            None => paths::instance_name(&codex_home, environment),
        };
        paths::check_instance_name(&instance)?;
        let socket = args.socket.clone().or_else(|| environment.path("CODEXD_SOCKET")).or(file.socket);
        let control_socket = args
            .control_socket
            .clone()
            .or_else(|| environment.path("CODEXD_CONTROL_SOCKET"))
            .or(file.control_socket);
        let paths = Paths::of(&instance, socket.as_deref(), control_socket.as_deref(), environment)?;
        let log = match &args.log_level {
            Some(filter) => filter.clone(),
            None => match text(environment, "CODEXD_LOG")? {
                Some(text) => {
                    text.parse().map_err(|error| Error::config("cannot use `CODEXD_LOG`").because(error))?
                }
                None => file.log_level.unwrap_or_default(),
            },
        };
        let settings = Settings {
            instance,
            paths,
            codex_home,
            codex: args
                .codex
                .clone()
                .or_else(|| environment.path("CODEXD_CODEX"))
                .or(file.codex)
                .unwrap_or_else(|| PathBuf::from("codex")),
            codex_args: if args.codex_arg.is_empty() {
                file.codex_args
            } else {
                CodexArgs::new(args.codex_arg.clone())
            },
            client_shutdown: file.client_shutdown,
            orphaned_turns: file.orphaned_turns,
            client_name: file.client_name.unwrap_or_else(|| "codexd".to_owned()),
            drain_timeout: args.drain_timeout.or(file.drain_timeout).unwrap_or(TimeLimit::seconds(30)),
            idle_exit: args.idle_exit.or(file.idle_exit).unwrap_or(if args.auto_spawned {
                AUTO_SPAWNED_IDLE_EXIT
            } else {
                TimeLimit::Never
            }),
            probe_interval: args.probe_interval.or(file.probe_interval).unwrap_or(TimeLimit::seconds(30)),
            probe_timeout: args.probe_timeout.or(file.probe_timeout).unwrap_or(TimeLimit::seconds(30)),
            ledger: file.ledger.unwrap_or(true),
            ledger_turns: file.ledger_turns.unwrap_or(10_000),
            ledger_age: file.ledger_age.unwrap_or(TimeLimit::seconds(30 * 24 * 3_600)),
            log,
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            limits: file.limits.over(Limits {
                silent_turn_warning_ms: file
                    .silent_turn_warning
                    .map_or(Limits::default().silent_turn_warning_ms, TimeLimit::as_millis),
                silent_turn_interrupt_ms: file.silent_turn_interrupt.and_then(TimeLimit::as_millis),
                ..Limits::default()
            }),
            memory_warning_bytes: file.memory_warning_bytes,
            memory_recycle_bytes: file.memory_recycle_bytes,
            metrics_port: file.metrics_port,
            auto_spawned: args.auto_spawned,
            supervised: args.supervised || file.supervised,
            permanent_exit_zero: args.permanent_exit_zero || file.permanent_exit_zero,
            config_file,
            file_keys: file.keys,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Checks what the types do not.
    fn check(&self) -> Result<(), Error> {
        if self.paths.socket == self.paths.control_socket {
            return Err(Error::config(format!(
                "`{}` cannot be the socket for clients and the control socket at once",
                self.paths.socket.display()
            ))
            .hint("name two sockets with `--socket` and `--control-socket`"));
        }
        if self.client_name.is_empty() {
            return Err(Error::config("`client_name` is empty"));
        }
        for (name, limit) in [("probe_interval", self.probe_interval), ("probe_timeout", self.probe_timeout)]
        {
            if limit.as_duration().is_some_and(|duration| duration.is_zero()) {
                return Err(
                    Error::config(format!("`{name}` is zero")).hint("write for instance `30s`, or `never`")
                );
            }
        }
        limits::check(&self.limits)
    }
}

/// Reads the file that was named, which must exist, or the default one, which need not.
fn read_file(flag: Option<&Path>, environment: &Environment) -> Result<(ConfigFile, Option<PathBuf>), Error> {
    let named = flag.map(Path::to_owned).or_else(|| environment.path("CODEXD_CONFIG"));
    let Some(path) = named.clone().or_else(|| paths::default_config_file(environment)) else {
        return Ok((ConfigFile::default(), None));
    };
    match plain_file::read_to_string(&path) {
        Ok(text) => Ok((file::parse(&text, &path)?, Some(path))),
        Err(error) if named.is_none() && is_absent(&error) => Ok((ConfigFile::default(), None)),
        Err(error) => {
            let hint = match (NotRegular::caused(&error), &named) {
                (true, _) => format!("put a file in the place of `{}`; an empty one will do", path.display()),
                (false, Some(_)) => "check the path, or leave out `--config` and CODEXD_CONFIG".to_owned(),
                (false, None) => format!("ls -l {}", path.display()),
            };
            Err(Error::config(format!("cannot read the configuration file `{}`", path.display()))
                .because(error)
                .hint(hint))
        }
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Returns a variable as text.
fn text(environment: &Environment, name: &str) -> Result<Option<String>, Error> {
    environment
        .value(name)
        .map(|value| {
            value.to_str().map(str::to_owned).ok_or_else(|| Error::config(format!("`{name}` is not UTF-8")))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use codexd_proto::exit::ExitCode;

    use super::*;

    fn home(dir: &tempfile::TempDir) -> &str {
        dir.path().to_str().unwrap()
    }

    fn write_config(dir: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn defaults_need_nothing_but_a_home() {
        let dir = crate::os::test_dir::test_dir();
        let settings =
            Settings::load(&ServeArgs::default(), &Environment::of([("HOME", home(&dir))])).unwrap();
        assert_eq!(settings.instance, "default");
        assert_eq!(settings.codex, Path::new("codex"));
        assert_eq!(settings.codex_home, dir.path().join(".codex"));
        assert_eq!(settings.idle_exit, TimeLimit::Never);
        let spawned = ServeArgs { auto_spawned: true, ..ServeArgs::default() };
        let spawned = Settings::load(&spawned, &Environment::of([("HOME", home(&dir))])).unwrap();
        assert_eq!(spawned.idle_exit, TimeLimit::seconds(600));
        assert_eq!(settings.limits, Limits::default());
        assert_eq!(settings.config_file, None);
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let dir = crate::os::test_dir::test_dir();
        let config = write_config(
            &dir,
            "codex = \"/file/codex\"\ninstance = \"file\"\nsocket = \"/file/s\"\nlog_level = \"warn\"\n\
             drain_timeout = \"5s\"\nclient_shutdown = \"never\"\n[limits]\nwindow = 3\n",
        );
        let environment = Environment::of([
            ("HOME", home(&dir)),
            ("CODEXD_CONFIG", config.to_str().unwrap()),
            ("CODEXD_INSTANCE", "environment"),
            ("CODEXD_SOCKET", "/environment/s"),
        ]);
        let args = ServeArgs { socket: Some("/flag/s".into()), ..ServeArgs::default() };
        let settings = Settings::load(&args, &environment).unwrap();
        assert_eq!(settings.paths.socket, Path::new("/flag/s"));
        assert_eq!(settings.instance, "environment");
        assert_eq!(settings.codex, Path::new("/file/codex"));
        assert_eq!(settings.drain_timeout, TimeLimit::seconds(5));
        assert_eq!(settings.client_shutdown, ClientShutdown::Never);
        assert_eq!(settings.limits, Limits { window: 3, ..Limits::default() });
        assert_eq!(settings.log.to_string(), "warn");
        assert_eq!(settings.config_file, Some(config));
    }

    #[test]
    fn a_named_file_must_exist() {
        let dir = crate::os::test_dir::test_dir();
        let args = ServeArgs { config: Some(dir.path().join("none.toml")), ..ServeArgs::default() };
        let error = Settings::load(&args, &Environment::of([("HOME", home(&dir))])).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Config);
    }

    #[test]
    fn values_without_sense_are_refused() {
        let dir = crate::os::test_dir::test_dir();
        for text in [
            "probe_interval = \"0s\"",
            "limits.window = 0",
            "limits.window = 101",
            "limits.client_queue_hard_bytes = 5000",
            "client_name = \"\"",
            "instance = \"a/b\"",
            "socket = \"/a\"\ncontrol_socket = \"/a\"",
        ] {
            let args = ServeArgs { config: Some(write_config(&dir, text)), ..ServeArgs::default() };
            let error = Settings::load(&args, &Environment::of([("HOME", home(&dir))])).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config, "{text}");
        }
        let environment = Environment::of([("HOME", home(&dir)), ("CODEXD_LOG", "loud")]);
        let error = Settings::load(&ServeArgs::default(), &environment).unwrap_err();
        assert!(error.chain().contains("CODEXD_LOG"), "{error:?}");
    }
}
