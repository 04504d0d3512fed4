//! `codexd install --shim`: a `codex` in PATH whose `app-server` is codexd, and that is the real codex otherwise.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::model::MockModel;
use codexd_tests::output::Output;
use codexd_tests::place;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::Started;

/// A user whose PATH has a directory of their own before that of the real codex.
struct User {
    home: Home,
    /// The directory of the shim.
    bin: PathBuf,
    /// The directory of the real codex.
    real: PathBuf,
    model: Option<MockModel>,
}

impl User {
    /// One whose codex is a program of the test's.
    fn with(codex: &Path) -> User {
        let home = Home::new().unwrap();
        let (bin, real) = (home.home().join(".local/bin"), home.root().join("usr"));
        std::fs::create_dir(&real).unwrap();
        symlink(codex, real.join("codex")).unwrap();
        User { home, bin, real, model: None }
    }

    fn fake() -> User {
        User::with(&binary::fake_codex())
    }

    /// One with the real codex, as npm installs it, and a scripted model.
    fn real() -> Option<User> {
        let codex = Codex::for_test(Version::Current)?;
        let mut user = User::with(&codex.wrapper);
        let model = MockModel::start().unwrap();
        user.home.write_codex_config(&model.base_url(), &CodexConfig::default()).unwrap();
        user.model = Some(model);
        Some(user)
    }

    fn path(&self) -> OsString {
        let rest = std::env::var_os("PATH").unwrap();
        let own = [self.bin.clone(), self.real.clone()];
        std::env::join_paths(own.into_iter().chain(std::env::split_paths(&rest))).unwrap()
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.home.command(program);
        command.args(arguments).env("PATH", self.path());
        command
    }

    #[track_caller]
    fn codexd(&self, arguments: &[&str], code: i32) -> Output {
        Output::of(&mut self.command(&binary::codexd(), arguments)).expect_code(code)
    }

    /// A command line of the `codex` that comes first in PATH.
    fn codex(&self, arguments: &[&str]) -> Command {
        self.command(&self.shim(), arguments)
    }

    /// The same with the real one.
    fn real_codex(&self, arguments: &[&str]) -> Command {
        self.command(&self.real.join("codex"), arguments)
    }

    fn shim(&self) -> PathBuf {
        self.bin.join("codex")
    }

    /// Returns a finding of `codexd doctor`.
    fn doctor(&self, path: OsString) -> Value {
        let mut command = self.command(&binary::codexd(), &["doctor", "--json"]);
        let report = Output::of(command.env("PATH", path)).json();
        report["findings"].as_array().unwrap().iter().find(|it| it["check"] == "shim").unwrap().clone()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Output::of(&mut self.command(&binary::codexd(), &["ctl", "stop", "--now"]));
        let left = process::sweep(self.home.root(), std::time::Duration::from_secs(10));
        assert!(left.is_empty() || std::thread::panicking(), "left behind, and killed now: {left:#?}");
    }
}

#[test]
fn the_shim_is_installed_first_in_path_and_removed_again() {
    let user = User::fake();
    let before = user.doctor(user.path());
    assert_eq!(
        (&before["level"], &before["fix"]),
        (&json!("ok"), &json!("codexd install --shim")),
        "{before}"
    );
    let shown = user.codexd(&["install", "--shim", "--dry-run"], 0);
    assert!(
        shown.stdout.contains(&format!("# ln -s {} {}", binary::codexd().display(), user.shim().display())),
        "{shown}"
    );
    assert!(!user.shim().exists() && std::fs::read_dir(user.home.state()).unwrap().count() == 0);

    let installed = user.codexd(&["install", "--shim"], 0);
    assert!(
        installed.stdout.contains("is codexd for `app-server`") && installed.stdout.contains("hash -r"),
        "{installed}"
    );
    assert_eq!(std::fs::read_link(user.shim()).unwrap(), binary::codexd());
    assert!(user.codexd(&["install", "--shim"], 0).stdout.contains("unchanged "));
    let now = user.doctor(user.path());
    assert_eq!(now["level"], "ok", "{now}");
    for part in [user.shim(), user.real.join("codex")] {
        assert!(now["message"].as_str().unwrap().contains(part.to_str().unwrap()), "{now}");
    }

    assert!(user.codexd(&["uninstall", "--shim", "--dry-run"], 0).stdout.contains("# rm -f "));
    let removed = user.codexd(&["uninstall", "--shim"], 0);
    assert!(removed.stdout.contains(&format!("removed {}", user.shim().display())), "{removed}");
    assert!(!user.shim().exists() && user.real.join("codex").exists());
    assert!(user.codexd(&["uninstall", "--shim"], 0).stdout.contains("no shim is installed"));
    assert_eq!(user.doctor(user.path()), before);
    let left: Vec<_> = std::fs::read_dir(user.home.state().join("codexd")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn nothing_of_anybody_else_is_replaced_or_removed() {
    let user = User::fake();
    std::fs::create_dir_all(&user.bin).unwrap();
    std::fs::write(user.shim(), "precious").unwrap();
    let named = user.bin.to_str().unwrap();
    let refused = user.codexd(&["install", "--shim", "--shim-dir", named], 73);
    assert!(
        refused.stderr.contains("no link to codexd") && refused.stderr.contains("--shim-dir"),
        "{refused}"
    );
    // Without a name, the next directory is used.
    let _ = user.codexd(&["install", "--shim"], 0);
    assert!(user.home.home().join("bin/codex").exists());
    // Only what was installed goes, and only if it is still codexd's.
    let hand_made = user.home.root().join("hand");
    std::fs::create_dir(&hand_made).unwrap();
    symlink(binary::codexd(), hand_made.join("codex")).unwrap();
    std::fs::remove_file(user.home.home().join("bin/codex")).unwrap();
    std::fs::write(user.home.home().join("bin/codex"), "precious").unwrap();
    let left = user.codexd(&["uninstall", "--shim"], 0);
    assert!(left.stdout.contains("as it is"), "{left}");
    for path in [user.shim(), user.home.home().join("bin/codex")] {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
    }
    assert!(hand_made.join("codex").exists());
}

#[test]
fn a_shim_that_is_not_first_in_path_is_reported_with_the_remedy() {
    let user = User::fake();
    let late = user.home.root().join("late");
    let installed = user.codexd(&["install", "--shim", "--shim-dir", late.to_str().unwrap()], 0);
    let remedy = format!("export PATH=\"{}:$PATH\"", late.display());
    assert!(installed.stdout.contains(&remedy), "{installed}");
    let path =
        std::env::join_paths([user.real.clone(), late.clone(), "/usr/bin".into(), "/bin".into()]).unwrap();
    for path in [user.path(), path] {
        let found = user.doctor(path);
        assert_eq!(found["level"], "warn", "{found}");
        assert!(found["fix"].as_str().unwrap().contains(&remedy), "{found}");
    }
    let _ = user.codexd(&["uninstall", "--shim", "--shim-dir", late.to_str().unwrap()], 0);
    assert_eq!(std::fs::read_dir(&late).unwrap().count(), 0);
}

#[test]
fn without_a_real_codex_no_shim_is_installed() {
    let user = User::fake();
    std::fs::remove_file(user.real.join("codex")).unwrap();
    let mut command = user.command(&binary::codexd(), &["install", "--shim"]);
    let refused = Output::of(command.env("PATH", &user.real)).expect_code(69);
    assert!(refused.stderr.contains("npm install"), "{refused}");
    assert!(!user.bin.exists());
    // A shim without a codex reports that, and a shell without codexd finds the real codex.
    std::fs::create_dir_all(&user.bin).unwrap();
    symlink(binary::codexd(), user.shim()).unwrap();
    let lost = Output::of(user.codex(&["--version"]).env("PATH", &user.bin)).expect_code(69);
    assert!(lost.stderr.contains("is codexd itself, and there is no other"), "{lost}");
}

/// A program that prints everything it was given.
const TELLTALE: &str = r#"#!/bin/sh
printf 'arg0:%s\n' "$0"
for word in "$@"; do printf 'word:%s\n' "$word"; done
printf 'pid:%s\n' "$$"
cat
echo to-stderr >&2
exit 37
"#;

#[test]
fn every_other_command_reaches_the_real_codex_untouched() {
    let user = User::fake();
    std::fs::remove_file(user.real.join("codex")).unwrap();
    std::fs::write(user.real.join("codex"), TELLTALE).unwrap();
    std::fs::set_permissions(user.real.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _ = user.codexd(&["install", "--shim"], 0);
    for arguments in [
        &[][..],
        &["--version"],
        &["exec", "--json", "a  prompt with\nlines", ""],
        &["serve", "--socket", "/x"],
        &["-p", "work", "app-server"],
        &["app-server", "generate-ts", "--out", "x"],
        &["app-server", "--listen", "ws://127.0.0.1:1"],
        &["app-server", "--help"],
        &["--no-daemon", "app-server"],
        &["--", "app-server"],
    ] {
        let through = Output::with_input(&mut user.codex(arguments), b"the input").expect_code(37);
        let direct = Output::with_input(&mut user.real_codex(arguments), b"the input").expect_code(37);
        let without_pid = |output: &Output| {
            output.stdout.lines().filter(|line| !line.starts_with("pid:")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without_pid(&through), without_pid(&direct), "{arguments:?}");
        assert!(through.stdout.ends_with("the input") && through.stderr == "to-stderr\n", "{through}");
    }
}

#[test]
fn the_process_that_was_started_becomes_the_real_codex() {
    let user = User::fake();
    std::fs::remove_file(user.real.join("codex")).unwrap();
    // Says how it finds its signals, and ends by one. Without a child: a shell blocks its signals while it starts one.
    let script = "#!/bin/sh\nwhile read -r line; do case $line in SigBlk*|SigIgn*) echo \"$line\";; esac; done \
                  </proc/$$/status\necho $$\nexec sleep 600\n";
    std::fs::write(user.real.join("codex"), script).unwrap();
    std::fs::set_permissions(user.real.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _ = user.codexd(&["install", "--shim"], 0);
    let run = |mut command: Command| {
        let out = user.home.root().join("out");
        let mut child = Started::of(command.stdout(File::create(&out).unwrap()));
        let pid = child.0.id();
        let said = || std::fs::read_to_string(&out).unwrap();
        wait::until("it says its number", || said().contains(&format!("{pid}\n")));
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
        let status = wait::poll(wait::PATIENCE, || child.0.try_wait().unwrap()).unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        said().replace(&format!("{pid}\n"), "")
    };
    assert_eq!(run(user.codex(&["exec"])), run(user.real_codex(&["exec"])));
}

#[test]
fn a_shim_and_a_script_that_lead_to_each_other_end() {
    let user = User::fake();
    std::fs::remove_file(user.real.join("codex")).unwrap();
    let _ = std::fs::create_dir_all(&user.bin);
    symlink(binary::codexd(), user.shim()).unwrap();
    for text in ["exec codex \"$@\"", "codex \"$@\"\nexit $?"] {
        std::fs::write(user.real.join("codex"), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(user.real.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = Output::of(&mut user.codex(&["exec", "hello"])).expect_code(69);
        assert!(output.stderr.contains("seems to lead back to codexd"), "{output}");
        let output = Output::of(&mut user.codex(&["app-server"]));
        assert_eq!(output.code(), Some(69), "{output}");
    }
}

#[test]
fn app_server_through_the_shim_shares_the_daemon_which_finds_the_real_codex() {
    let Some(user) = User::real() else { return };
    let _ = user.codexd(&["install", "--shim"], 0);
    let client = |name: &str, arguments: &[&str]| {
        let log = File::create(user.home.root().join(format!("{name}.stderr"))).unwrap();
        TestClient::spawn(name, user.codex(arguments).stderr(log))
    };
    let mut first = client("first", &["app-server"]);
    let mut second = client("second", &["-m", "o3", "--search", "app-server", "--listen", "stdio://"]);
    for client in [&mut first, &mut second] {
        assert_eq!(client.initialize()["codexd"]["generation"], 1);
    }
    let thread = first.start_thread(json!({"cwd": user.home.project()}));
    assert_eq!(first.turn(&thread, "first").status, "completed");
    second.request("thread/resume", json!({"threadId": thread}));
    let turn = first.turn(&thread, "[[deltas:2]] hello");
    assert_eq!(
        (turn.status.as_str(), turn.answer.as_deref()),
        ("completed", Some("tok0 tok1 | echo:  hello"))
    );
    assert_eq!(second.take_method("turn/completed")["params"]["turn"]["status"], "completed");
    let now = user.codexd(&["ctl", "status", "--json"], 0).json();
    assert_eq!(now["clients"], 2);
    let codex = Codex::for_test(Version::Current).unwrap();
    let executable = Path::new(now["upstream"]["executable"].as_str().unwrap());
    assert_eq!(executable.canonicalize().unwrap(), codex.native.canonicalize().unwrap());
    assert_eq!(now["upstream"]["requested"], json!(user.real.join("codex")));
    // A process that is called codex and is a client of the daemon is no second server.
    let report = user.codexd(&["doctor", "--json"], 0).json();
    let servers =
        report["findings"].as_array().unwrap().iter().find(|it| it["check"] == "appServers").unwrap();
    assert_eq!(servers["level"], "ok", "{servers}");
    for mut client in [first, second] {
        client.finish_sending();
        assert_eq!(client.wait_exit().code(), Some(0));
    }
    for name in ["first", "second"] {
        assert_eq!(std::fs::read_to_string(user.home.root().join(format!("{name}.stderr"))).unwrap(), "");
    }
}

#[test]
fn the_real_codex_runs_through_the_shim_as_without_it() {
    let Some(user) = User::real() else { return };
    let _ = user.codexd(&["install", "--shim"], 0);
    let version = Output::of(&mut user.codex(&["--version"])).expect_code(0);
    assert_eq!(version.stdout, format!("codex-cli {}\n", Version::Current.number()));
    let project = user.home.project();
    let exec = ["exec", "--skip-git-repo-check", "-C", project.to_str().unwrap()];
    let done = Output::of(&mut user.codex(&[&exec[..], &["[[deltas:1]] through"]].concat())).expect_code(0);
    assert!(done.stdout.contains("tok0 | echo:  through"), "{done}");
    let failed = |command: &mut Command| Output::of(command).code();
    for arguments in
        [[&exec[..], &["[[http:400]] no"]].concat(), vec!["no-such-flag", "--bogus"], vec!["exec", "--bogus"]]
    {
        let through = failed(&mut user.codex(&arguments));
        assert_eq!(through, failed(&mut user.real_codex(&arguments)), "{arguments:?}");
        assert!(through > Some(0), "{arguments:?}");
    }
    // None of it needed a daemon.
    let _ = user.codexd(&["ctl", "status"], 3);
    assert_eq!(user.model.as_ref().unwrap().requests().len(), 3);
}

#[test]
fn flags_before_app_server_mean_what_they_mean_to_the_real_codex() {
    for version in [Version::Current, Version::Old] {
        let Some(codex) = Codex::for_test(version) else { return };
        let user = User::with(&codex.native);
        let _ = user.codexd(&["install", "--shim"], 0);
        // A server that accepts the flags ends with its input, and both reject the others with the same message.
        for flags in [
            "",
            "-c model=o3",
            "-cmodel=o3",
            "--config=model=o3",
            "--enable multi_agent",
            "--strict-config",
            "-m o3",
            "--model=o3",
            "--oss",
            "-s read-only",
            "-a never",
            "-C /",
            "--add-dir /tmp --add-dir /",
            "--search",
            "--no-alt-screen",
            "--yolo",
            "-s read-only --yolo",
            "--local-provider x",
            "-p none",
            "-i x.png",
            "--",
            "--bogus",
            "-a never --yolo",
            "-m a -m b",
            "-s bogus",
            "-a untrusted",
            "--no-daemon",
            "--remote unix://x",
            "--approve-for-me",
            "-V",
            "-h",
            "--oss --oss",
            "-m",
            "-c",
        ] {
            let arguments: Vec<&str> = flags.split_whitespace().chain(["app-server"]).collect();
            let through = Output::of(&mut user.codex(&arguments));
            let direct = Output::of(&mut user.real_codex(&arguments));
            assert_eq!(
                through.code(),
                direct.code(),
                "{version:?} {flags}: {through} and directly: {direct}"
            );
            assert_eq!(through.stdout, direct.stdout, "{version:?} {flags}");
            let errors = |output: &Output| -> Vec<String> {
                let lines =
                    output.stderr.lines().filter(|line| line.to_ascii_lowercase().starts_with("error"));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(errors(&through), errors(&direct), "{version:?} {flags}");
        }
        for daemon in process::marked(user.home.root()) {
            let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGTERM);
        }
    }
}

#[test]
fn settings_before_app_server_lead_to_a_daemon_that_has_them() {
    let Some(user) = User::real() else { return };
    let _ = user.codexd(&["install", "--shim"], 0);
    let mut client = TestClient::spawn(
        "settings",
        user.codex(&["-c", "model=\"gpt-5.5\"", "-m", "o3", "app-server"]).stderr(Stdio::null()),
    );
    client.initialize();
    let started = client.request("thread/start", json!({"cwd": user.home.project()}));
    assert_eq!(started["model"], "gpt-5.5");
    client.finish_sending();
    assert_eq!(client.wait_exit().code(), Some(0));
    for daemon in process::marked(user.home.root()) {
        let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGTERM);
    }
}

#[test]
fn a_copy_or_a_hard_link_called_codex_is_a_shim_as_well() {
    let user = User::fake();
    std::fs::create_dir_all(&user.bin).unwrap();
    place::copy(&binary::codexd(), &user.shim());
    let version = Output::of(&mut user.codex(&["--version"])).expect_code(0);
    assert_eq!(version.stdout, "codex-cli 0.0.0-fake\n");
    // Its daemon is started from a file that is called codex, and is codexd.
    let mut client = TestClient::spawn("copy", user.codex(&["app-server"]).stderr(Stdio::null()));
    client.initialize();
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    let now = user.codexd(&["ctl", "status", "--json"], 0).json();
    assert_eq!(now["upstream"]["executable"], json!(user.real.join("codex")));
    client.finish_sending();
    assert_eq!(client.wait_exit().code(), Some(0));
}
