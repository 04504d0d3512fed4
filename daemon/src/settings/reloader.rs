//! Reading the settings again while the daemon runs: what can change then, and what cannot.

use codexd_proto::router::Limits;
use codexd_proto::status::Warning;

use crate::cli::ServeArgs;
use crate::error::Error;
use crate::logging::LogControl;
use crate::logging::filter::LogFilter;
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// Knows where the settings came from, and which are in force.
#[derive(Debug)]
pub(crate) struct Reloader {
    args: ServeArgs,
    environment: Environment,
    /// As they were read last.
    current: Settings,
    /// As they were at the start, for those that need a restart.
    started: Settings,
    log: LogControl,
    needs_restart: Vec<&'static str>,
    failure: Option<String>,
}

/// What differs between two readings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Settings that can change while the daemon runs.
    pub(crate) live: Vec<&'static str>,
    /// Settings that need a restart.
    pub(crate) restart: Vec<&'static str>,
}

impl Reloader {
    /// Makes one of what the daemon was started with.
    pub(crate) fn new(
        args: &ServeArgs,
        environment: &Environment,
        settings: &Settings,
        log: LogControl,
    ) -> Reloader {
        Reloader {
            args: args.clone(),
            environment: environment.clone(),
            current: settings.clone(),
            started: settings.clone(),
            log,
            needs_restart: Vec::new(),
            failure: None,
        }
    }

    /// Reads the settings again and puts the log level into force; the caller does so with the others.
    ///
    /// Returns what is new since the last reading, and what needs a restart since the start.
    ///
    /// Flags and variables of the process are what they were: only the file can have changed.
    ///
    /// # Errors
    ///
    /// When the file cannot be used; then everything stays as it was.
    pub(crate) fn reload(&mut self) -> Result<(Settings, Differences), Error> {
        let new = match Settings::load(&self.args, &self.environment) {
            Ok(new) => new,
            Err(error) => {
                self.failure = Some(error.chain());
                return Err(error);
            }
        };
        self.failure = None;
        self.log.set_level(&new.log);
        let live = differences(&self.current, &new).live;
        self.needs_restart = differences(&self.started, &new).restart;
        self.current = new.clone();
        Ok((new, Differences { live, restart: self.needs_restart.clone() }))
    }

    /// Changes what is logged, until the settings are read again.
    pub(crate) fn set_log(&mut self, filter: &LogFilter) {
        self.log.set_level(filter);
        self.current.log = filter.clone();
        tracing::warn!(level = %filter, "the log level was changed");
    }

    /// Returns the settings in force.
    pub(crate) fn current(&self) -> &Settings {
        &self.current
    }

    /// Returns what an operator should know about the settings.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let broken = self.failure.as_ref().map(|message| Warning {
            code: "settingsNotReloaded".to_owned(),
            message: format!("the settings cannot be used, the old ones stay in force: {message}"),
            hint: "fix the file and run `codexd ctl reload`".to_owned(),
        });
        let restart = (!self.needs_restart.is_empty()).then(|| Warning {
            code: "restartNeeded".to_owned(),
            message: format!("changed, but not in force before a restart: {}", self.needs_restart.join(", ")),
            hint: "restart the daemon when no turn runs".to_owned(),
        });
        broken.into_iter().chain(restart).collect()
    }
}

/// Compares two readings, setting by setting.
fn differences(old: &Settings, new: &Settings) -> Differences {
    // Taken apart, so that a new setting cannot be forgotten here.
    let Settings {
        instance,
        paths,
        codex_home,
        codex,
        codex_args,
        client_shutdown,
        orphaned_turns,
        client_name,
        drain_timeout,
        idle_exit,
        probe_interval,
        probe_timeout,
        ledger,
        ledger_turns,
        ledger_age,
        log,
        log_format,
        limits,
        memory_recycle_bytes,
        memory_warning_bytes,
        metrics_port,
        supervised,
        permanent_exit_zero,
        // Only its contents count.
        config_file: _,
        file_keys: _,
        // How the process was started does not change.
        auto_spawned: _,
    } = old;
    let mut differences = Differences::default();
    for (name, changed) in [
        ("client_shutdown", *client_shutdown != new.client_shutdown),
        ("orphaned_turns", *orphaned_turns != new.orphaned_turns),
        ("drain_timeout", *drain_timeout != new.drain_timeout),
        ("idle_exit", *idle_exit != new.idle_exit),
        ("probe_interval", *probe_interval != new.probe_interval),
        ("probe_timeout", *probe_timeout != new.probe_timeout),
        ("log_level", *log != new.log),
        ("memory_recycle_bytes", *memory_recycle_bytes != new.memory_recycle_bytes),
        ("memory_warning_bytes", *memory_warning_bytes != new.memory_warning_bytes),
        ("silent_turn_warning", limits.silent_turn_warning_ms != new.limits.silent_turn_warning_ms),
        ("silent_turn_interrupt", limits.silent_turn_interrupt_ms != new.limits.silent_turn_interrupt_ms),
        ("limits", without_message_size(*limits) != without_message_size(new.limits)),
    ] {
        if changed {
            differences.live.push(name);
        }
    }
    for (name, changed) in [
        ("instance", *instance != new.instance),
        ("socket", paths.socket != new.paths.socket),
        ("control_socket", paths.control_socket != new.paths.control_socket),
        ("CODEX_HOME", *codex_home != new.codex_home),
        ("codex", *codex != new.codex),
        ("codex_args", *codex_args != new.codex_args),
        ("client_name", *client_name != new.client_name),
        ("ledger", *ledger != new.ledger),
        ("ledger_turns", *ledger_turns != new.ledger_turns),
        ("ledger_age", *ledger_age != new.ledger_age),
        ("log_format", *log_format != new.log_format),
        ("metrics_port", *metrics_port != new.metrics_port),
        ("supervised", *supervised != new.supervised),
        ("permanent_exit_zero", *permanent_exit_zero != new.permanent_exit_zero),
        // Buffers of this size are made with the connections, that to the upstream included.
        ("limits.max_message_bytes", limits.max_message_bytes != new.limits.max_message_bytes),
    ] {
        if changed {
            differences.restart.push(name);
        }
    }
    differences
}

fn without_message_size(limits: Limits) -> Limits {
    Limits { max_message_bytes: 0, silent_turn_warning_ms: None, silent_turn_interrupt_ms: None, ..limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &tempfile::TempDir, text: &str) -> Settings {
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        Settings::load(&args, &Environment::of([("HOME", dir.path().to_str().unwrap())])).unwrap()
    }

    #[test]
    fn a_change_is_live_or_needs_a_restart() {
        let dir = crate::os::test_dir::test_dir();
        let old = settings(&dir, "log_level = \"info\"\n");
        assert_eq!(differences(&old, &old), Differences::default());
        let new = settings(
            &dir,
            "log_level = \"debug\"\nidle_exit = \"1m\"\ncodex = \"other\"\nclient_name = \"x\"\n\
             [limits]\nmax_clients = 3\nmax_message_bytes = 100000\n",
        );
        let found = differences(&old, &new);
        assert_eq!(found.live, ["idle_exit", "log_level", "limits"]);
        assert_eq!(found.restart, ["codex", "client_name", "limits.max_message_bytes"]);
    }
}
