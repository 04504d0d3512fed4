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
    /// Words of its command line.
    words: Vec<String>,
    /// Its CODEX_HOME, or the default one.
    codex_home: std::path::PathBuf,
}

/// Looks for app-servers that are not the daemon's. Says nothing where there is no `/proc`.
pub(super) fn check(
    settings: &Settings,
    environment: &Environment,
    running: Option<&StatusReport>,
) -> Option<Finding> {
    let home = environment.path("HOME");
    let processes = table(home.as_deref())?;
    let ours = running.and_then(|status| status.upstream.pid);
    let others = others(&processes, &settings.codex_home, ours);
    Some(match others.as_slice() {
        [] => Finding::ok("appServers", "no other app-server uses this CODEX_HOME"),
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

/// Returns those that run an app-server on `codex_home`, but `ours`; of a wrapper and its server, both.
fn others(processes: &[Process], codex_home: &std::path::Path, ours: Option<u32>) -> Vec<u32> {
    let canonical = |path: &std::path::Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    processes
        .iter()
        .filter(|process| Some(process.pid) != ours && is_app_server(&process.words))
        .filter(|process| canonical(&process.codex_home) == canonical(codex_home))
        .map(|process| process.pid)
        .collect()
}

/// `codex app-server ...`, perhaps behind an interpreter: `node /path/codex app-server`. Not `codexd
/// app-server`, which is a client.
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
        let words =
            command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        // The shim is called codex, and a client.
        if is_codexd(&entry.path().join("exe")) {
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
        Some(Process { pid, words, codex_home })
    });
    Some(processes.collect())
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
        let process = |pid, home: &str| Process {
            pid,
            words: vec!["codex".to_owned(), "app-server".to_owned()],
            codex_home: home.into(),
        };
        let table = [process(1, "/a"), process(2, "/a"), process(3, "/b")];
        assert_eq!(others(&table, std::path::Path::new("/a"), Some(1)), [2]);
        assert_eq!(others(&table, std::path::Path::new("/c"), None), [0u32; 0]);
    }
}
