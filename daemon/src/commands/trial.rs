//! `codexd serve --trial`: whether this codexd would serve with these flags, for a daemon that is about to be replaced
//! by it.
//!
//! It reads the settings, finds codex and starts it for one `initialize` ([`Trial`]). It touches neither the sockets nor
//! the lock, which the daemon that asks holds.

use codexd_proto::control::{TrialReport, Versions};
use codexd_proto::exit::ExitCode;
use codexd_proto::stderr::explained;

use super::ctl::print_json;
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::serve::upstream::locate;
use crate::serve::upstream::trial::Trial;
use crate::settings::environment::Environment;
use crate::settings::{Settings, version};
use crate::start;

/// Tries it and prints the result.
///
/// # Errors
///
/// If the output cannot be written.
pub(crate) fn run(args: &ServeArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let mut report = TrialReport::default();
    report.versions.codexd = Some(version::NUMBER.to_owned());
    let code = match attempt(args, environment, &mut report.versions) {
        Ok(()) => ExitCode::Stopped,
        Err(error) => {
            report.error = Some(error.chain());
            report.hint = error.next_step().map(str::to_owned);
            error.exit_code()
        }
    };
    print_json(&report)?;
    Ok(code)
}

fn attempt(args: &ServeArgs, environment: &Environment, versions: &mut Versions) -> Result<(), Error> {
    let args = start::with_given_arguments(args)?;
    let settings = Settings::load(&args, environment)?;
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;
    let tried = Trial::new(&settings, environment, &program).run()?;
    versions.codex.clone_from(&tried.version);
    let config = settings.codex_home.join("config.toml");
    match tried.outcome.problem(&config.display()) {
        None => Ok(()),
        Some((what, fix)) => {
            let codex = program.executable.display();
            let what = explained(&format!("`{codex} app-server` {what}"), &tried.lines);
            Err(Error::new(ExitCode::Unavailable, what).hint(fix))
        }
    }
}
