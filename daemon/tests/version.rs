//! Where the commit in `codexd --version` comes from: the build script, run as Cargo runs it.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The build script, built, in a directory that also holds the crates it is run for.
struct Script {
    dir: tempfile::TempDir,
}

/// What the script has printed for Cargo.
struct Reported {
    version: String,
    watched: Vec<PathBuf>,
}

impl Script {
    fn new() -> Script {
        let script = Script { dir: tempfile::tempdir().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "-o"])
            .arg(script.path("build"))
            .arg(source)
            .status()
            .unwrap();
        assert!(status.success());
        script
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the directory of a crate.
    fn package(&self, name: &str) -> PathBuf {
        let package = self.path(name);
        std::fs::create_dir(&package).unwrap();
        std::fs::write(package.join("Cargo.toml"), "").unwrap();
        package
    }

    fn run(&self, package: &Path, commit: Option<&str>) -> Reported {
        let mut command = Command::new(self.path("build"));
        command.current_dir(package).env("CARGO_MANIFEST_DIR", package).env("CARGO_PKG_VERSION", "1.2.3");
        command.env_remove("CODEXD_COMMIT").envs(commit.map(|commit| ("CODEXD_COMMIT", commit)));
        // No repository that may be around the temporary directory.
        command.env("GIT_CEILING_DIRECTORIES", self.dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let reported = |key: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(key));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let watched = reported("cargo::rerun-if-changed=").into_iter();
        Reported {
            version: reported("cargo::rustc-env=CODEXD_BUILD_VERSION=").concat(),
            watched: watched.filter(|path| path != "build.rs").map(PathBuf::from).collect(),
        }
    }
}

/// Runs git; `None` where there is none.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().ok()?;
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn a_build_without_git_has_the_version_alone_and_is_not_repeated() {
    let script = Script::new();
    let reported = script.run(&script.package("plain"), None);
    assert_eq!(reported.version, "1.2.3");
    assert!(reported.watched.is_empty(), "{:?}", reported.watched);
}

#[test]
fn a_packager_and_an_archive_of_cargo_name_the_commit() {
    let script = Script::new();
    let package = script.package("archive");
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let info =
        format!("{{\n  \"git\": {{\n    \"sha1\": \"{sha}\"\n  }},\n  \"path_in_vcs\": \"daemon\"\n}}");
    std::fs::write(package.join(".cargo_vcs_info.json"), info).unwrap();
    assert_eq!(script.run(&package, None).version, "1.2.3 (0123456789)");
    assert_eq!(script.run(&package, Some("debian-4")).version, "1.2.3 (debian-4)");
    // A value with a line break is ignored.
    assert_eq!(script.run(&package, Some("a b")).version, "1.2.3 (0123456789)");
}

#[test]
fn a_checkout_names_its_commit_and_only_the_next_commit_is_a_reason_to_look_again() {
    let script = Script::new();
    let package = script.package("checkout");
    if git(&package, &["init", "--quiet"]).is_none() {
        eprintln!("skipped: there is no git");
        return;
    }
    // Files that the repository does not track do not belong to it.
    assert_eq!(script.run(&package, None).version, "1.2.3");
    git(&package, &["add", "Cargo.toml"]);
    git(&package, &["commit", "--quiet", "--message", "one"]);
    let head = || git(&package, &["rev-parse", "HEAD"]).unwrap();
    let first = script.run(&package, None);
    assert_eq!(first.version, format!("1.2.3 ({})", &head()[..10]));
    assert!(
        !first.watched.is_empty() && first.watched.iter().all(|path| path.exists()),
        "{:?}",
        first.watched
    );
    let contents = |reported: &Reported| {
        reported.watched.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let before = contents(&first);
    git(&package, &["status"]);
    assert_eq!(contents(&first), before);
    git(&package, &["commit", "--quiet", "--allow-empty", "--message", "two"]);
    assert_ne!(contents(&first), before);
    assert_eq!(script.run(&package, None).version, format!("1.2.3 ({})", &head()[..10]));
    // A worktree has its files elsewhere.
    let tree = script.path("tree");
    git(&package, &["worktree", "add", "--quiet", tree.to_str().unwrap()]);
    let reported = script.run(&tree, None);
    assert_eq!(reported.version, format!("1.2.3 ({})", &head()[..10]));
    assert!(
        !reported.watched.is_empty() && reported.watched.iter().all(|path| path.exists()),
        "{:?}",
        reported.watched
    );
}
