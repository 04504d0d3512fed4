//! Folders, paths and descriptors.

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::config::Settings;
use crate::{paths, private_dir};

/// Descriptors beside those of clients: sockets, pipes, logs, the control connections.
const BESIDE_CLIENTS: u64 = 64;

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
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        findings.push(descriptors(soft, hard, settings.limits.max_clients as u64));
    }
    findings
}

fn descriptors(soft: u64, hard: u64, clients: u64) -> Finding {
    let needed = clients + BESIDE_CLIENTS;
    if soft >= needed {
        Finding::ok("fileLimit", format!("{soft} open files"))
    } else {
        Finding::warn(
            "fileLimit",
            format!(
                "{soft} open files are allowed to a daemon started here; {clients} clients need {needed}"
            ),
            if hard >= needed {
                format!("ulimit -n {needed} (the service has a limit of its own)")
            } else {
                "set `limits.max_clients` to less, or raise the hard limit (`limits.conf(5)`)".to_owned()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn few_descriptors_are_told_with_what_can_be_done() {
        assert_eq!(descriptors(8192, 8192, 1024).level, Level::Ok);
        assert!(descriptors(1024, 4096, 1024).fix.unwrap().starts_with("ulimit -n 1088"));
        assert!(descriptors(256, 512, 1024).fix.unwrap().contains("max_clients"));
    }
}
