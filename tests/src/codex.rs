//! Finds the real codex for tests, and fetches it when it is missing.
//!
//! The exact versions stand in `tests/codex-version` (the one codexd is made for) and
//! `tests/codex-version-old` (an old one that must still work). Each is installed once by npm into
//! `<target dir>/codex/<version>`; nothing of it is in the repository.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{environment, fetch, skip};

/// The pinned versions of codex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one codexd is made for.
    Current,
    /// An old one that must still work.
    Old,
}

/// A codex that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codex {
    /// The `codex` that npm puts into `PATH`: a script for Node that starts the native program.
    pub wrapper: PathBuf,
    /// The native program.
    pub native: PathBuf,
}

impl Version {
    /// Returns the version number.
    pub fn number(self) -> &'static str {
        match self {
            Version::Current => include_str!("../codex-version").trim_ascii(),
            Version::Old => include_str!("../codex-version-old").trim_ascii(),
        }
    }
}

impl Codex {
    /// Returns the codex of `CODEXD_TEST_CODEX` when that is set, else the installed pinned version,
    /// which is fetched when it is missing.
    ///
    /// # Errors
    ///
    /// A sentence: no npm, no network, or no native program for this platform.
    pub fn find(version: Version) -> Result<Codex, String> {
        match std::env::var_os("CODEXD_TEST_CODEX") {
            Some(path) if version == Version::Current => Codex::given(Path::new(&path)),
            _ => Codex::installed(version),
        }
    }

    /// Returns whether [`Codex::find`] would have to fetch it.
    pub fn is_missing(version: Version) -> bool {
        let given = version == Version::Current && std::env::var_os("CODEXD_TEST_CODEX").is_some();
        let directory = fetch::target_dir()
            .map(|target| target.join("codex").join(version.number()).join("node_modules"));
        !given && !directory.is_ok_and(|directory| directory.is_dir())
    }

    /// Returns [`Codex::find`], or `None` when the tests that need it have to be skipped, see
    /// [`skip::unless_found`].
    ///
    /// # Panics
    ///
    /// When there is none and `CI` is set: there, a missing codex is a failure.
    pub fn for_test(version: Version) -> Option<Codex> {
        // Once for each process: without a network, npm takes its time to give up.
        static FOUND: [OnceLock<Result<Codex, String>>; 2] = [const { OnceLock::new() }; 2];
        let found = FOUND[version as usize].get_or_init(|| {
            Codex::find(version).map_err(|reason| format!("no codex {}: {reason}", version.number()))
        });
        skip::unless_found(found.clone())
    }

    /// Returns a `CODEX_HOME` that this codex has used once, to be copied: its databases are made and its own skills
    /// unpacked, and it starts there in half the time. `None` when codex is given and not installed here, or does not
    /// start.
    pub fn used_home(&self) -> Option<PathBuf> {
        // .../<version>/node_modules/.bin/codex
        let directory = self.wrapper.ancestors().nth(3)?;
        let home = directory.join("used-home");
        let base = directory.parent().filter(|base| base.ends_with("codex"))?;
        if !home.is_dir() {
            let number = directory.file_name()?.to_str()?;
            let _lock = fetch::lock(&base.join(format!("{number}.lock"))).ok()?;
            if !home.is_dir() {
                self.use_home(directory, &home).ok()?;
            }
        }
        Some(home)
    }

    /// Runs codex once, in a directory beside that is renamed when it has ended.
    fn use_home(&self, directory: &Path, home: &Path) -> io::Result<()> {
        let fresh = tempfile::Builder::new().prefix("using-").tempdir_in(directory)?;
        let mut child = Command::new(&self.native)
            .arg("app-server")
            .env("CODEX_HOME", fresh.path())
            .env("HOME", fresh.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let initialize =
            br#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"x","version":"1"}}}"#;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut answer = String::new();
        if let (Some(stdin), Some(stdout)) = (&mut stdin, stdout) {
            stdin.write_all(initialize)?;
            stdin.write_all(b"\n")?;
            BufReader::new(stdout).read_line(&mut answer)?;
        }
        drop(stdin);
        let status = child.wait()?;
        if !status.success() || !answer.contains("result") {
            return Err(io::Error::other(format!("codex app-server ended with {status}")));
        }
        fs::rename(fresh.path(), home)
    }

    /// A path from outside may be the wrapper or the native program.
    fn given(path: &Path) -> Result<Codex, String> {
        let real = path
            .canonicalize()
            .map_err(|error| format!("CODEXD_TEST_CODEX `{}`: {error}", path.display()))?;
        let native = match real.extension() {
            // .../node_modules/@openai/codex/bin/codex.js
            Some(extension) if extension == "js" => {
                let modules =
                    real.ancestors().nth(4).ok_or("the wrapper is not in a `node_modules` directory")?;
                native_in(modules)?
            }
            _ => real,
        };
        Ok(Codex { wrapper: path.to_owned(), native })
    }

    fn installed(version: Version) -> Result<Codex, String> {
        let number = version.number();
        let directory = fetch::fetched(Path::new("codex").join(number), |fresh| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(fresh);
            fetch::run(environment::without_settings(npm.arg(format!("@openai/codex@{number}"))))
        })?;
        let modules = directory.join("node_modules");
        Ok(Codex { wrapper: modules.join(".bin/codex"), native: native_in(&modules)? })
    }
}

/// Finds the native program of this platform: `@openai/codex-OS-ARCH/vendor/TRIPLE/bin/codex`, or
/// `codex/codex` below the triple in older versions.
fn native_in(modules: &Path) -> Result<PathBuf, String> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let vendor = modules.join(format!("@openai/codex-{system}-{machine}/vendor"));
    let triples = fs::read_dir(&vendor)
        .map_err(|error| format!("no codex for {system}-{machine}: `{}`: {error}", vendor.display()))?;
    triples
        .flatten()
        .flat_map(|triple| ["bin/codex", "codex/codex"].map(|name| triple.path().join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no native codex below `{}`", vendor.display()))
}
