//! The drop-in under the real Python SDK of codex.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use codexd_tests::binary;
use codexd_tests::codex::target_dir;
use codexd_tests::output::Output;

use super::world::World;

/// The package on PyPI, pinned.
const PACKAGE: &str = "openai-codex==0.163.0";
/// What it needs, without the codex that it brings along.
const NEEDS: [&str; 2] = ["pydantic>=2.12", "packaging>=26.2"];

const PROGRAM: &str = r#"
import sys
from openai_codex import Codex, CodexConfig
with Codex(CodexConfig(launch_args_override=(sys.argv[1], "app-server", "--listen", "stdio://"))) as codex:
    print(codex.thread_start().run(sys.argv[2]).final_response)
"#;

/// Returns the folder with the SDK, which is fetched when it is missing.
fn find() -> Result<PathBuf, String> {
    let folder = target_dir()?.join("python").join(PACKAGE);
    if folder.is_dir() {
        return Ok(folder);
    }
    let base = folder.parent().ok_or("the folder has no parent")?;
    std::fs::create_dir_all(base).map_err(|error| error.to_string())?;
    let fresh = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let install = |arguments: &[&str]| {
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(fresh.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run python3: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("pip failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    };
    install(&["--no-deps", PACKAGE])?;
    install(&NEEDS)?;
    // Another test process may have been faster.
    match std::fs::rename(fresh.path(), &folder) {
        Err(error) if !folder.is_dir() => Err(error.to_string()),
        _ => Ok(folder),
    }
}

#[test]
fn the_python_sdk_runs_a_turn_through_the_drop_in() {
    let sdk = match find() {
        Ok(folder) => folder,
        Err(reason) if std::env::var_os("CI").is_some() => panic!("no Python SDK: {reason}"),
        Err(reason) => {
            let line = format!("skipped: the_python_sdk_runs_a_turn_through_the_drop_in: {reason}\n");
            // Past libtest's capture: a skipped test passes, and captured lines would be lost.
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
    };
    let Some(world) = World::real() else { return };
    let mut command = Command::new("python3");
    let like = world.command(&[]);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(world.home().project()).env("PYTHONPATH", sdk);
    command.args(["-c", PROGRAM]).arg(binary::codexd()).arg("[[deltas:2]] hello");
    let output = Output::of(&mut command).expect_code(0);
    assert_eq!(output.stdout.trim(), "tok0 tok1 | echo:  hello");
    // The daemon outlives the client that started it.
    assert_eq!(world.status("state").as_deref(), Some("serving"));
}
