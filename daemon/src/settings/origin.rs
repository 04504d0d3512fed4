//! Every setting with its value and where that comes from: what `codexd serve --check-config` shows.

use std::fmt;
use std::path::Path;

use codexd_proto::router::Limits;
use toml::Value;

use crate::cli::ServeArgs;
use crate::settings::Settings;
use crate::settings::duration::TimeLimit;
use crate::settings::environment::Environment;

/// One setting as it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    /// Its key in the configuration file, that of a limit with `limits.` before it.
    pub(crate) key: &'static str,
    /// Its value.
    pub(crate) value: Shown,
    /// Where that comes from.
    pub(crate) origin: Origin,
}

/// A value, as far as it can be shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shown {
    /// As it would stand in the file.
    Value(Value),
    /// There is none, and no default.
    Absent,
    /// The names of arguments, whose values may be secrets.
    Names(Vec<String>),
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag, by its name.
    Flag(&'static str),
    /// A variable of the environment, by its name.
    Environment(&'static str),
    /// The configuration file.
    File,
    /// It is built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => f.write_str(name),
            Origin::Environment(name) => f.write_str(name),
            Origin::File => f.write_str("file"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Returns every setting, in the order of the example file (`docs/config.toml`).
pub(crate) fn list(settings: &Settings, args: &ServeArgs, environment: &Environment) -> Vec<Setting> {
    // Both are taken apart, so that a new setting cannot be forgotten here.
    let Settings {
        instance,
        paths,
        codex_home: _,
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
        memory_warning_bytes,
        memory_recycle_bytes,
        metrics_port,
        auto_spawned: _,
        supervised,
        permanent_exit_zero,
        config_file: _,
        file_keys: _,
    } = settings;
    let path = |path: &Path| text(&path.to_string_lossy());
    let limit = |limit: &TimeLimit| text(&limit.to_string());
    let count = |number: &usize| whole(u64::try_from(*number).unwrap_or(u64::MAX));
    let bytes = |number: &Option<u64>| number.map_or(Shown::Absent, whole);
    let args_shown = match codex_args.names() {
        names if names.is_empty() => Shown::Value(Value::Array(Vec::new())),
        names => Shown::Names(names),
    };
    let Limits {
        client_queue_soft_ms,
        orphaned_turn_grace_ms,
        silent_turn_warning_ms,
        silent_turn_interrupt_ms,
        ..
    } = limits;
    let values = [
        ("codex", path(codex)),
        ("codex_args", args_shown),
        ("client_name", text(client_name)),
        ("client_shutdown", text(client_shutdown.word())),
        ("orphaned_turns", text(orphaned_turns.word())),
        ("drain_timeout", limit(drain_timeout)),
        ("idle_exit", limit(idle_exit)),
        ("probe_interval", limit(probe_interval)),
        ("probe_timeout", limit(probe_timeout)),
        ("log_level", text(&log.to_string())),
        ("log_format", text(log_format.word())),
        ("silent_turn_warning", limit(&TimeLimit::of_millis(*silent_turn_warning_ms))),
        ("silent_turn_interrupt", limit(&TimeLimit::of_millis(*silent_turn_interrupt_ms))),
        ("ledger", Shown::Value(Value::Boolean(*ledger))),
        ("ledger_turns", whole(*ledger_turns)),
        ("ledger_age", limit(ledger_age)),
        ("memory_warning_bytes", bytes(memory_warning_bytes)),
        ("memory_recycle_bytes", bytes(memory_recycle_bytes)),
        ("metrics_port", metrics_port.map_or(Shown::Absent, |port| whole(port.into()))),
        ("instance", text(instance)),
        ("socket", path(&paths.socket)),
        ("control_socket", path(&paths.control_socket)),
        ("supervised", Shown::Value(Value::Boolean(*supervised))),
        ("permanent_exit_zero", Shown::Value(Value::Boolean(*permanent_exit_zero))),
        ("limits.max_message_bytes", count(&limits.max_message_bytes)),
        ("limits.client_queue_soft_bytes", count(&limits.client_queue_soft_bytes)),
        ("limits.client_queue_soft_time", limit(&TimeLimit::of_millis(finite(*client_queue_soft_ms)))),
        ("limits.client_queue_hard_bytes", count(&limits.client_queue_hard_bytes)),
        ("limits.client_queue_max_bytes", count(&limits.client_queue_max_bytes)),
        ("limits.max_clients", count(&limits.max_clients)),
        ("limits.max_queued_requests_per_client", count(&limits.queued_requests_per_client)),
        ("limits.orphaned_turn_grace", limit(&TimeLimit::of_millis(finite(*orphaned_turn_grace_ms)))),
        ("limits.window", count(&limits.window)),
    ];
    let origin = |key| origin(key, args, environment, &settings.file_keys);
    values.into_iter().map(|(key, value)| Setting { key, value, origin: origin(key) }).collect()
}

/// Returns which of the places that can name a setting does, in their order of precedence.
fn origin(key: &str, args: &ServeArgs, environment: &Environment, file_keys: &[String]) -> Origin {
    let ServeArgs {
        socket,
        control_socket,
        instance,
        codex,
        codex_arg,
        config: _,
        supervised,
        auto_spawned: _,
        codex_args_on_stdin: _,
        permanent_exit_zero,
        idle_exit,
        drain_timeout,
        probe_interval,
        probe_timeout,
        log_level,
        log_format,
        check_config: _,
        trial: _,
    } = args;
    let (given, flag, variable) = match key {
        "socket" => (socket.is_some(), "--socket", Some("CODEXD_SOCKET")),
        "control_socket" => (control_socket.is_some(), "--control-socket", Some("CODEXD_CONTROL_SOCKET")),
        "instance" => (instance.is_some(), "--instance", Some("CODEXD_INSTANCE")),
        "codex" => (codex.is_some(), "--codex", Some("CODEXD_CODEX")),
        "codex_args" => (!codex_arg.is_empty(), "--codex-arg", None),
        "supervised" => (*supervised, "--supervised", None),
        "permanent_exit_zero" => (*permanent_exit_zero, "--permanent-exit-zero", None),
        "idle_exit" => (idle_exit.is_some(), "--idle-exit", None),
        "drain_timeout" => (drain_timeout.is_some(), "--drain-timeout", None),
        "probe_interval" => (probe_interval.is_some(), "--probe-interval", None),
        "probe_timeout" => (probe_timeout.is_some(), "--probe-timeout", None),
        "log_level" => (log_level.is_some(), "--log-level", Some("CODEXD_LOG")),
        "log_format" => (log_format.is_some(), "--log-format", None),
        _ => (false, "", None),
    };
    match variable.filter(|name| environment.value(name).is_some()) {
        _ if given => Origin::Flag(flag),
        Some(name) => Origin::Environment(name),
        None if file_keys.iter().any(|in_file| in_file == key) => Origin::File,
        None => Origin::Default,
    }
}

fn text(text: &str) -> Shown {
    Shown::Value(Value::String(text.to_owned()))
}

fn whole(number: u64) -> Shown {
    Shown::Value(Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)))
}

/// Limits in milliseconds have the largest number for `never`.
fn finite(milliseconds: u64) -> Option<u64> {
    Some(milliseconds).filter(|number| *number != u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::file::{KEYS, LIMIT_KEYS};

    /// Reads settings with `text` as the configuration file, and lists them.
    fn listed(text: &str, mut args: ServeArgs, variables: [(&str, &str); 2]) -> Vec<Setting> {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        args.config = Some(path);
        let [one, two] = variables;
        let environment = Environment::of([("HOME", dir.path().to_str().unwrap()), one, two]);
        list(&Settings::load(&args, &environment).unwrap(), &args, &environment)
    }

    fn find<'a>(listed: &'a [Setting], key: &str) -> &'a Setting {
        listed.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("no {key}"))
    }

    #[test]
    fn every_key_of_the_file_is_listed_once() {
        let mut keys: Vec<String> = listed("", ServeArgs::default(), [("A", ""); 2])
            .iter()
            .map(|setting| setting.key.to_owned())
            .collect();
        keys.sort();
        let limits = LIMIT_KEYS.iter().map(|key| format!("limits.{key}"));
        let mut known: Vec<String> =
            KEYS.iter().filter(|key| **key != "limits").map(|key| (*key).to_owned()).chain(limits).collect();
        known.sort();
        assert_eq!(keys, known);
    }

    #[test]
    fn a_value_has_the_first_place_that_names_it() {
        let file = "codex = \"/f\"\nsocket = \"/f.sock\"\ninstance = \"f\"\nlog_level = \"warn\"\n\
                    [limits]\nwindow = 3\nclient_queue_soft_time = \"never\"\n";
        let args = ServeArgs { codex: Some("/flag".into()), ..ServeArgs::default() };
        let listed = listed(file, args, [("CODEXD_CODEX", "/e"), ("CODEXD_SOCKET", "/e.sock")]);
        let shown = |key: &str| {
            let setting = find(&listed, key);
            let Shown::Value(value) = &setting.value else { panic!("{setting:?}") };
            (value.to_string(), setting.origin)
        };
        assert_eq!(shown("codex"), ("\"/flag\"".to_owned(), Origin::Flag("--codex")));
        assert_eq!(shown("socket"), ("\"/e.sock\"".to_owned(), Origin::Environment("CODEXD_SOCKET")));
        // Of what has a default that depends on another setting, that is the origin.
        assert_eq!(shown("control_socket"), ("\"/e.sock.ctl\"".to_owned(), Origin::Default));
        assert_eq!(shown("instance"), ("\"f\"".to_owned(), Origin::File));
        assert_eq!(shown("limits.window"), ("3".to_owned(), Origin::File));
        assert_eq!(shown("limits.client_queue_soft_time"), ("\"never\"".to_owned(), Origin::File));
        assert_eq!(shown("limits.max_clients"), ("1024".to_owned(), Origin::Default));
    }

    #[test]
    fn the_value_of_an_argument_for_codex_is_not_listed() {
        let file = "codex_args = [\"-c\", \"a.token=SECRET\"]\n";
        let listed = listed(file, ServeArgs::default(), [("A", ""); 2]);
        let setting = find(&listed, "codex_args");
        assert!(matches!(&setting.value, Shown::Names(names) if names.len() == 1), "{setting:?}");
        assert!(!format!("{listed:?}").contains("SECRET"));
    }

    /// The example file with every setting in force: lines that begin with `#` and no space after it are settings.
    fn example() -> (String, String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let in_force = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let all = text.lines().map(in_force).collect();
        (text, all)
    }

    #[test]
    fn the_example_file_changes_nothing_as_it_is() {
        let (text, _) = example();
        let with = listed(&text, ServeArgs::default(), [("A", ""); 2]);
        for setting in with {
            assert_eq!(setting.origin, Origin::Default, "{}", setting.key);
        }
    }

    #[test]
    fn the_example_file_has_every_key_with_its_default() {
        let (_, all) = example();
        let defaults = listed("", ServeArgs::default(), [("A", ""); 2]);
        let listed = listed(&all, ServeArgs::default(), [("A", ""); 2]);
        for (setting, default) in listed.iter().zip(&defaults) {
            assert_eq!(setting.origin, Origin::File, "docs/config.toml has no `{}`", setting.key);
            // These depend on the user; the others have one default or none.
            if !["socket", "control_socket"].contains(&setting.key) && default.value != Shown::Absent {
                assert_eq!(setting.value, default.value, "{} in docs/config.toml", setting.key);
            }
        }
    }
}
