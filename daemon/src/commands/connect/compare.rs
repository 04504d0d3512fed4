//! Differences between a client's environment and that of the daemon that serves it: reported once, on stderr, if
//! they matter.
//!
//! PATH differs between most shells and a service without any effect on codex itself. So of PATH, only
//! the codex that it leads to counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_proto::status::StatusReport;

use crate::control::client::ask_status;
use crate::serve::upstream::locate;
use crate::settings::fingerprint;
use crate::start::{self, Target};
use crate::terminal::note;

/// How long the daemon has to send its environment.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// The client's side.
pub(super) struct Client {
    control_socket: PathBuf,
    environment: BTreeMap<String, String>,
    /// The codex that would run if there were no daemon.
    codex: Option<PathBuf>,
    /// How variables get to the daemon.
    hint: String,
}

impl Client {
    pub(super) fn of(target: &Target<'_>) -> Client {
        let Target { settings, environment, .. } = target;
        let path = environment.value("PATH").map(|path| path.as_os_str());
        Client {
            control_socket: settings.paths.control_socket.clone(),
            environment: fingerprint::of(&settings.codex_home, environment),
            codex: locate::locate(&settings.codex, path).ok().map(|program| program.executable),
            hint: start::how_to_change_environment(target),
        }
    }

    /// Asks the daemon for its side and warns of what differs.
    pub(super) fn compare(&self) {
        let Ok(status) = ask_status(&self.control_socket, STATUS_WITHIN) else { return };
        if let Some(warning) = self.warning(&status) {
            note(&format!("codexd: warning: {warning}\nhint: {}", self.hint));
        }
    }

    fn warning(&self, daemon: &StatusReport) -> Option<String> {
        // A daemon that sends no environment is of an older version.
        if daemon.environment.is_empty() {
            return None;
        }
        let mut different = fingerprint::differences(&self.environment, &daemon.environment);
        different.retain(|name| *name != "PATH");
        let codex = self.codex.as_ref().filter(|codex| !same_file(codex, &daemon.upstream.executable));
        let variables = (!different.is_empty()).then(|| {
            format!(
                "the daemon was started with other values of {}; its own are in force",
                different.join(", ")
            )
        });
        let codex = codex.map(|codex| {
            format!("the daemon runs `{}` and not `{}`", daemon.upstream.executable, codex.display())
        });
        let both: Vec<String> = variables.into_iter().chain(codex).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

fn same_file(ours: &Path, theirs: &str) -> bool {
    let theirs = Path::new(theirs);
    ours == theirs || matches!((ours.canonicalize(), theirs.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::environment::Environment;

    fn environment(variables: [(&str, &str); 2]) -> BTreeMap<String, String> {
        fingerprint::of(Path::new("/nowhere/codex"), &Environment::of(variables))
    }

    #[test]
    fn another_path_matters_only_if_it_leads_to_another_codex() {
        let dir = crate::os::test_dir::test_dir();
        let (codex, link) = (dir.path().join("codex"), dir.path().join("link"));
        std::fs::write(&codex, "").unwrap();
        std::os::unix::fs::symlink(&codex, &link).unwrap();
        let client = |codex: &Path, variables| Client {
            control_socket: PathBuf::new(),
            environment: environment(variables),
            codex: Some(codex.to_owned()),
            hint: String::new(),
        };
        let mut daemon = StatusReport {
            environment: environment([("PATH", "/bin"), ("HTTPS_PROXY", "p")]),
            ..StatusReport::default()
        };
        daemon.upstream.executable = codex.display().to_string();
        let shell = [("PATH", "/venv/bin:/bin"), ("HTTPS_PROXY", "p")];
        assert_eq!(client(&codex, shell).warning(&daemon), None);
        assert_eq!(client(&link, shell).warning(&daemon), None);
        let other = client(Path::new("/venv/bin/codex"), shell).warning(&daemon).unwrap();
        assert!(other.contains("and not `/venv/bin/codex`") && !other.contains("PATH"), "{other}");
        let proxy = client(&link, [("PATH", "/bin"), ("https_proxy", "q")]).warning(&daemon).unwrap();
        assert!(proxy.contains("other values of HTTPS_PROXY;"), "{proxy}");
        assert_eq!(client(&codex, shell).warning(&StatusReport::default()), None);
    }
}
