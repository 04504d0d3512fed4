//! The shim: whether programs that run `codex app-server` get the daemon.

use std::path::Path;

use super::Finding;
use crate::commands::install::shim::{export, installed};
use crate::commands::shim::{self, Standing};
use crate::settings::environment::Environment;

/// Checks who comes first in PATH.
pub(super) fn check(environment: &Environment) -> Finding {
    let search_path = environment.value("PATH").map(|path| path.as_os_str());
    let installed = installed(environment);
    let not_first = |first: Option<&Path>, shim: &Path| {
        let dir = shim.parent().unwrap_or(Path::new("/"));
        let who = first.map_or("nothing".to_owned(), |first| format!("`{}`", first.display()));
        Finding::warn(
            "shim",
            format!("`{}` is not first: `codex` leads to {who} in this PATH", shim.display()),
            format!("put this into your shell's profile: {}", export(dir)),
        )
    };
    match shim::standing(search_path) {
        Standing::First(path) => match shim::real(environment) {
            Ok(real) => {
                let real = real.requested.unwrap_or(real.executable);
                Finding::ok(
                    "shim",
                    format!(
                        "`{}` is codexd's and first in PATH; codex is `{}`",
                        path.display(),
                        real.display()
                    ),
                )
            }
            Err(error) => Finding::error("shim", &error),
        },
        Standing::Behind { first, shim } => not_first(Some(&first), &shim),
        Standing::Absent(first) => match installed.first() {
            Some(shim) => not_first(first.as_deref(), shim),
            None => {
                let mut finding = Finding::ok(
                    "shim",
                    "not installed; a program that runs `codex app-server` gets one of its own",
                );
                finding.fix = Some("codexd install --shim".to_owned());
                finding
            }
        },
    }
}
