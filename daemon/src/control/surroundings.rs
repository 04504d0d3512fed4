//! What the status reports of things outside the core: memory, programs on disk, failed starts. The core reads no
//! files; the thread of the control server does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use codexd_proto::control::TrialReport;
use codexd_proto::secrets::Secrets;
use codexd_proto::status::{InstalledStatus, MemoryStatus, StatusReport, Warning};
use serde::Deserialize;

use super::candidate::{Origin, Refused};
use crate::instance::failed_start;
use crate::os::{process, program_mark};

/// Directories above a program that are searched for the `package.json` of its npm package: `vendor/TRIPLE/bin/codex`.
const PACKAGE_ABOVE: usize = 5;

/// What to do about a program that was replaced.
const CHANGE_TO_IT: &str = "`codexd ctl upgrade` changes to what is installed as soon as no turn runs";

/// Finds the codex that the next daemon would run.
type Find = Box<dyn Fn() -> Option<PathBuf> + Send + Sync>;

/// The programs at the start of the daemon.
#[derive(Default)]
pub(crate) struct Surroundings {
    codex: Option<(PathBuf, Identity)>,
    codexd: Option<(PathBuf, Identity)>,
    /// The program that a supervisor starts; `None` if none does.
    supervised: Option<PathBuf>,
    find: Option<Find>,
    secrets: Secrets,
    origin: Option<Origin>,
}

/// The programs that the next daemon would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) codexd: Option<PathBuf>,
    codexd_file: Option<Identity>,
    codex: Option<(PathBuf, Option<Identity>)>,
}

/// Identifies a file, so that a replacement is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> Option<Identity> {
        let metadata = fs::metadata(path).ok()?;
        Some(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl Surroundings {
    /// Records the programs before they can be replaced: the codex that is about to run, and this one. `find` finds
    /// the codex that would run next; `secrets` are masked.
    pub(crate) fn at_start(
        codex: &Path,
        secrets: Secrets,
        find: impl Fn() -> Option<PathBuf> + Send + Sync + 'static,
    ) -> Surroundings {
        let known = |path: PathBuf| Identity::of(&path).map(|identity| (path, identity));
        Surroundings {
            codex: known(codex.to_owned()),
            codexd: std::env::current_exe().ok().and_then(known),
            supervised: None,
            find: Some(Box::new(find)),
            secrets,
            origin: None,
        }
    }

    /// Records how the daemon was started. A supervisor starts the `supervised` program again; without one, the client
    /// that asks for the next daemon names it, or it is that of this process.
    #[must_use]
    pub(crate) fn started(self, supervised: Option<PathBuf>, origin: Origin) -> Surroundings {
        Surroundings { supervised, origin: Some(origin), ..self }
    }

    /// Returns the programs that the next daemon would run, if `asking` is the codexd that asks for it.
    pub(super) fn candidate(&self, asking: Option<&Path>) -> Candidate {
        let own = || self.codexd.as_ref().map(|(path, _)| path.clone());
        let codexd = self.supervised.clone().or_else(|| asking.map(Path::to_owned)).or_else(own);
        let codex = self.find.as_ref().and_then(|find| find());
        Candidate {
            codexd_file: codexd.as_deref().and_then(Identity::of),
            codexd,
            codex: codex.map(|path| (path.clone(), Identity::of(&path))),
        }
    }

    /// Returns whether these programs are those that run.
    pub(super) fn runs(&self, candidate: &Candidate) -> bool {
        let codexd = self.codexd.as_ref().map(|(_, identity)| *identity);
        let codex = self.codex.as_ref().map(|(path, identity)| (path.clone(), Some(*identity)));
        codexd.is_some() && candidate.codexd_file == codexd && codex.is_some() && candidate.codex == codex
    }

    /// Tries a codexd, and the codex that it finds. Blocks until that has ended or `cancelled` returns true.
    ///
    /// # Errors
    ///
    /// Why it could not serve.
    pub(super) fn attempt(
        &self,
        codexd: &Path,
        cancelled: impl Fn() -> bool,
    ) -> Result<TrialReport, Refused> {
        match &self.origin {
            Some(origin) => origin.attempt(codexd, cancelled),
            None => Err(Refused { reason: "cannot tell how the daemon was started".to_owned(), hint: None }),
        }
    }

    /// Returns the text with `***` in place of secrets.
    pub(super) fn mask(&self, text: &str) -> String {
        self.secrets.mask(text).into_owned()
    }

    /// Adds the present findings to a report, with warnings.
    pub(super) fn describe(&self, report: &mut StatusReport) {
        report.failed_start = failed_start::read(Path::new(&report.record_file));
        report.memory = memory(report);
        report.warnings.extend(memory_warning(report));
        report.upstream.installed = self.other_codex();
        report.warnings.extend(codex_warning(report));
        report.installed = self.other_codexd();
        report.warnings.extend(codexd_warning(report));
    }

    /// Returns the codexd on disk, if it is not the running one.
    fn other_codexd(&self) -> Option<InstalledStatus> {
        let (_, identity) = self.codexd.as_ref()?;
        let Candidate { codexd, codexd_file, .. } = self.candidate(None);
        (codexd_file.as_ref() != Some(identity)).then(|| InstalledStatus {
            version: codexd.as_deref().and_then(program_mark::version),
            executable: codexd.filter(|_| codexd_file.is_some()).map(|path| path.display().to_string()),
        })
    }

    /// Returns the codex on disk, if it is not the running one.
    fn other_codex(&self) -> Option<InstalledStatus> {
        let (began, identity) = self.codex.as_ref()?;
        let found = self.find.as_ref()?();
        if found.as_ref() == Some(began) && Identity::of(began).as_ref() == Some(identity) {
            return None;
        }
        Some(InstalledStatus {
            version: found.as_deref().and_then(package_version),
            executable: found.map(|path| path.display().to_string()),
        })
    }
}

/// Returns the memory of the daemon and of the codex in the report.
pub(crate) fn memory(report: &StatusReport) -> Option<MemoryStatus> {
    // The daemon has no other children than codex.
    let own = process::resident(report.pid)?;
    let codex = report.upstream.pid.and_then(process::tree);
    Some(MemoryStatus {
        daemon_bytes: own,
        codex_bytes: codex.map(|tree| tree.bytes),
        codex_processes: codex.map(|tree| tree.processes),
    })
}

fn memory_warning(report: &StatusReport) -> Option<Warning> {
    let (limit, bytes) = (report.memory_warning_bytes?, report.memory.as_ref()?.codex_bytes?);
    (bytes >= limit).then(|| Warning {
        code: "memoryHigh".to_owned(),
        message: format!(
            "codex and its commands use {} MiB, `memory_warning_bytes` is {} MiB",
            bytes >> 20,
            limit >> 20
        ),
        hint: "`codexd ctl turns` shows what runs; `codexd ctl drain` ends codex when its turns have, and the next \
               start begins anew"
            .to_owned(),
    })
}

fn codex_warning(report: &StatusReport) -> Option<Warning> {
    let installed = report.upstream.installed.as_ref()?;
    let runs = report.upstream.version.as_deref().unwrap_or("an unknown version");
    let message = match (&installed.version, &installed.executable) {
        (Some(version), _) if version != runs => format!("codex {runs} is running, {version} is installed"),
        (_, Some(path)) => format!("codex {runs} is running, and `{path}` was replaced since it started"),
        (_, None) => format!("codex {runs} is running, and is not installed any more"),
    };
    Some(Warning { code: "codexReplaced".to_owned(), message, hint: CHANGE_TO_IT.to_owned() })
}

fn codexd_warning(report: &StatusReport) -> Option<Warning> {
    let installed = report.installed.as_ref()?;
    let runs = &report.version;
    let message = match (&installed.version, &installed.executable) {
        (Some(version), _) if version != runs => format!("codexd {runs} is running, {version} is installed"),
        (_, Some(path)) => format!("`{path}` was replaced since this daemon started from it"),
        (_, None) => format!("codexd {runs} is running, and is not installed any more"),
    };
    Some(Warning { code: "codexdReplaced".to_owned(), message, hint: CHANGE_TO_IT.to_owned() })
}

/// Returns the version of a program's npm package. The version of a package for one platform ends with the platform
/// (`0.169.0-linux-x64`), which is removed.
fn package_version(program: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let package = program.ancestors().skip(1).take(PACKAGE_ABOVE).map(|dir| dir.join("package.json"));
    let text = package.filter_map(|path| fs::read_to_string(path).ok()).next()?;
    let version = serde_json::from_str::<Package>(&text).ok()?.version;
    let end = ["-linux-", "-darwin-", "-win32-"].iter().filter_map(|platform| version.find(platform)).min();
    Some(end.map_or(version.as_str(), |end| &version[..end]).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_codex_is_reported_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("vendor/x/bin");
        fs::create_dir_all(&bin).unwrap();
        let codex = bin.join("codex");
        fs::write(&codex, "old").unwrap();
        let found = codex.clone();
        let surroundings =
            Surroundings::at_start(&codex, Secrets::default(), move || found.exists().then(|| found.clone()));
        assert_eq!(surroundings.other_codex(), None);
        fs::write(dir.path().join("package.json"), r#"{"name":"x","version":"0.170.0-alpha.1-linux-x64"}"#)
            .unwrap();
        fs::write(bin.join("new"), "new one").unwrap();
        fs::rename(bin.join("new"), &codex).unwrap();
        let installed = surroundings.other_codex().unwrap();
        assert_eq!(installed.version.as_deref(), Some("0.170.0-alpha.1"));
        assert_eq!(installed.executable, Some(codex.display().to_string()));
        let mut report = StatusReport::default();
        report.upstream.version = Some("0.169.0".to_owned());
        report.upstream.installed = Some(installed);
        let warning = codex_warning(&report).unwrap();
        assert_eq!(warning.message, "codex 0.169.0 is running, 0.170.0-alpha.1 is installed");
        fs::remove_file(&codex).unwrap();
        assert_eq!(surroundings.other_codex().unwrap().executable, None);
    }

    #[test]
    fn memory_above_the_threshold_is_a_warning() {
        let report = |bytes, limit| StatusReport {
            memory: Some(MemoryStatus { codex_bytes: Some(bytes), ..MemoryStatus::default() }),
            memory_warning_bytes: limit,
            ..StatusReport::default()
        };
        assert_eq!(memory_warning(&report(99, Some(100))), None);
        assert_eq!(memory_warning(&report(100, None)), None);
        assert_eq!(memory_warning(&report(100, Some(100))).unwrap().code, "memoryHigh");
    }
}
