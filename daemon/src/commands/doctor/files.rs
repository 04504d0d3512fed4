//! Directories, paths and descriptors.

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::os::open_files::BESIDE_CLIENTS;
use crate::os::{plain_file, private_dir};
use crate::settings::Settings;
use crate::settings::paths;

/// Checks what the daemon needs from the file system.
pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let own = &settings.paths;
    let mut findings = Vec::new();
    for path in [&own.socket, &own.control_socket] {
        findings.push(match paths::check_socket_path(path) {
            Ok(()) => Finding::ok("socketPath", path.display().to_string()),
            Err(error) => Finding::error("socketPath", &error),
        });
    }
    findings.push(match private_dir::inspect_own(&own.runtime_dir) {
        Ok(()) => Finding::ok("runtimeFolder", own.runtime_dir.display().to_string()),
        Err(error) => Finding::error("runtimeFolder", &error),
    });
    for (check, path) in [("record", &own.record), ("log", &own.log_file())] {
        if let Err(error) = plain_file::check_path(path) {
            findings.push(Finding::fail(
                check,
                format!("cannot use `{}`: {error}", path.display()),
                format!("move `{}` away", path.display()),
            ));
        }
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        findings.push(descriptors(hard, settings.limits.max_clients as u64));
    }
    findings
}

/// The daemon raises the soft limit itself.
fn descriptors(hard: u64, clients: u64) -> Finding {
    let needed = clients + BESIDE_CLIENTS;
    if hard >= needed {
        Finding::ok("fileLimit", format!("a daemon started here may open {hard} files"))
    } else {
        Finding::warn(
            "fileLimit",
            format!(
                "{hard} open files are allowed to a daemon started here; {clients} clients need {needed}"
            ),
            "set `limits.max_clients` to less, or raise the hard limit (`limits.conf(5)`); the service has one of its own",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn few_descriptors_are_reported_with_what_can_be_done() {
        assert_eq!(descriptors(1024 + BESIDE_CLIENTS, 1024).level, Level::Ok);
        assert!(descriptors(1023 + BESIDE_CLIENTS, 1024).fix.unwrap().contains("max_clients"));
    }
}
