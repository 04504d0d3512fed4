//! Other app-servers on the same CODEX_HOME: two of them write the same files.

use codexd_proto::status::StatusReport;

use super::Finding;
use crate::instance::{lock, record};
#[cfg(target_os = "linux")]
use crate::serve::upstream::identity::is_codexd;
use crate::serve::upstream::leftovers;
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// A process as `/proc` shows it (`proc(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    /// Words of its command line.
    words: Vec<String>,
    /// Its CODEX_HOME, or the default one.
    codex_home: std::path::PathBuf,
}

/// Looks for app-servers that are no daemon's: neither among `upstreams` nor started by a `codexd serve`, which may
/// be too busy to answer. Without `/proc` there is no finding.
pub(super) fn check(settings: &Settings, environment: &Environment, upstreams: &[u32]) -> Option<Finding> {
    let home = environment.path("HOME");
    let processes = table(home.as_deref())?;
    let others = others(&processes, &settings.codex_home, upstreams);
    Some(match others.as_slice() {
        [] => Finding::ok("appServers", "no app-server but those of codexd uses this CODEX_HOME"),
        pids => {
            let list: Vec<String> = pids.iter().map(u32::to_string).collect();
            Finding::warn(
                "appServers",
                format!(
                    "other app-servers use `{}`: process {}; each has threads that the others do not see",
                    settings.codex_home.display(),
                    list.join(", ")
                ),
                format!("ps -fp {}; end what starts them, or let it run `codexd app-server`", list.join(",")),
            )
        }
    })
}

/// Looks for what a daemon that was killed has left, while none runs.
pub(super) fn left_behind(settings: &Settings, running: Option<&StatusReport>) -> Option<Finding> {
    if running.is_some() || !lock::is_free(&settings.paths.lock) {
        return None;
    }
    let pids = leftovers::pids(&record::lives(&settings.paths.record));
    let list: Vec<String> = pids.iter().map(i32::to_string).collect();
    (!list.is_empty()).then(|| {
        Finding::warn(
            "leftBehind",
            format!(
                "a daemon that was killed has left codex or commands running: process {}",
                list.join(", ")
            ),
            "start a daemon, which ends them: codexd connect </dev/null",
        )
    })
}

/// Returns those that run an app-server on `codex_home`, but `ours` and those of daemons; of a wrapper and its
/// server, both.
fn others(processes: &[Process], codex_home: &std::path::Path, ours: &[u32]) -> Vec<u32> {
    let daemons: Vec<u32> =
        processes.iter().filter(|process| is_daemon(&process.words)).map(|process| process.pid).collect();
    let canonical = |path: &std::path::Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    processes
        .iter()
        .filter(|process| !ours.contains(&process.pid) && !daemons.contains(&process.parent))
        .filter(|process| is_app_server(&process.words))
        .filter(|process| canonical(&process.codex_home) == canonical(codex_home))
        .map(|process| process.pid)
        .collect()
}

/// `codexd serve ...`.
fn is_daemon(words: &[String]) -> bool {
    matches!(words, [program, verb, ..] if program.rsplit('/').next() == Some("codexd") && verb == "serve")
}

/// `codex app-server ...`, perhaps after an interpreter: `node /path/codex app-server`. Not `codexd app-server`,
/// which is a client.
fn is_app_server(words: &[String]) -> bool {
    let name = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    words
        .windows(2)
        .take(2)
        .any(|pair| pair[1] == "app-server" && matches!(name(&pair[0]).as_str(), "codex" | "codex.js"))
}

#[cfg(target_os = "linux")]
fn table(home: Option<&std::path::Path>) -> Option<Vec<Process>> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let uid = nix::unistd::geteuid().as_raw();
    let processes = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        if entry.metadata().ok()?.uid() != uid {
            return None;
        }
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> =
            command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        // The shim is called codex, and a client. A daemon is kept: its codex is known by its parent.
        if !is_daemon(&words) && is_codexd(&entry.path().join("exe")) {
            return None;
        }
        // As it was at the time of exec; of one's own processes it can be read.
        let variables = std::fs::read(entry.path().join("environ")).ok()?;
        let value = |name: &[u8]| {
            variables
                .split(|byte| *byte == 0)
                .find_map(|line| line.strip_prefix(name))
                .filter(|value| !value.is_empty())
                .map(|value| std::path::PathBuf::from(std::ffi::OsStr::from_bytes(value)))
        };
        let codex_home = value(b"CODEX_HOME=")
            .or_else(|| value(b"HOME=").or_else(|| home.map(Into::into)).map(|home| home.join(".codex")))?;
        Some(Process { pid, parent: parent(&entry.path())?, words, codex_home })
    });
    Some(processes.collect())
}

/// Returns the parent of a process: the fourth field, and the second after the name, which can hold anything.
#[cfg(target_os = "linux")]
fn parent(process: &std::path::Path) -> Option<u32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn table(_home: Option<&std::path::Path>) -> Option<Vec<Process>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_server_is_known_by_its_words() {
        let is = |line: &str| is_app_server(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(is("codex app-server"));
        assert!(is("/opt/bin/codex app-server --listen stdio://"));
        assert!(is("node /usr/bin/codex app-server"));
        assert!(!is("codexd app-server"));
        assert!(!is("codex exec app-server"));
        assert!(!is("grep codex app-server-log"));
        assert!(!is("codex"));
    }

    #[test]
    fn only_strangers_on_the_same_codex_home_count() {
        let process = |pid, parent, line: &str, home: &str| Process {
            pid,
            parent,
            words: line.split(' ').map(str::to_owned).collect(),
            codex_home: home.into(),
        };
        let app_server = |pid, parent, home| process(pid, parent, "codex app-server", home);
        let table = [
            app_server(1, 7, "/a"),
            app_server(2, 7, "/a"),
            app_server(3, 7, "/b"),
            // Those of another instance.
            process(8, 1, "/opt/codexd serve --auto-spawned", "/a"),
            app_server(4, 8, "/a"),
            process(9, 1, "codexd connect", "/a"),
            app_server(5, 9, "/a"),
        ];
        assert_eq!(others(&table, std::path::Path::new("/a"), &[1]), [2, 5]);
        assert_eq!(others(&table, std::path::Path::new("/c"), &[]), [0u32; 0]);
    }
}
