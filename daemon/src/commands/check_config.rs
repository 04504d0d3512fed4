//! `codexd serve --check-config`: reads the settings as `codexd serve` does, prints them, and starts nothing.

use std::fmt::Write as _;

use codexd_proto::exit::ExitCode;

use super::ctl;
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::settings::environment::Environment;
use crate::settings::origin::{self, Setting, Shown};
use crate::settings::{Settings, paths};

/// Prints every setting with its origin, in the form of a configuration file that sets all of them.
///
/// # Errors
///
/// As `codexd serve` with the same flags, variables and file: with exit code 78 when these hold something they cannot.
pub(crate) fn run(args: &ServeArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let settings = Settings::load(args, environment)?;
    // The paths are a matter of the settings, too: `serve` refuses them later, and so does this.
    paths::check_socket_path(&settings.paths.control_socket)?;
    paths::check_socket_path(&settings.paths.socket)?;
    ctl::print(&report(&settings, args, environment))?;
    Ok(ExitCode::Stopped)
}

fn report(settings: &Settings, args: &ServeArgs, environment: &Environment) -> String {
    let mut text = match &settings.config_file {
        Some(path) => format!("# configuration file: {}\n", path.display()),
        None => match paths::default_config_file(environment) {
            Some(path) => format!("# configuration file: none, there is no {}\n", path.display()),
            None => "# configuration file: none\n".to_owned(),
        },
    };
    let _ = writeln!(text, "# CODEX_HOME: {}\n", settings.codex_home.display());
    let mut in_limits = false;
    for Setting { key, value, origin } in origin::list(settings, args, environment) {
        let key = match key.strip_prefix("limits.") {
            Some(key) => {
                if !std::mem::replace(&mut in_limits, true) {
                    text.push_str("\n[limits]\n");
                }
                key
            }
            None => key,
        };
        let _ = match value {
            Shown::Value(value) => writeln!(text, "{:<47} # {origin}", format!("{key} = {value}")),
            Shown::Absent => writeln!(text, "# {key} has no value"),
            Shown::Names(names) => {
                writeln!(text, "# {key}, without their values, from {origin}: {}", names.join(", "))
            }
        };
    }
    text
}
