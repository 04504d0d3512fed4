//! Why codex does not start: its own error, if it prints one, at every place where a person looks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::Home;
use codexd_tests::skip;
use codexd_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use crate::support::Started;

/// Longer than a handshake may take.
const LONG: std::time::Duration = PATIENCE.saturating_mul(3);

/// One way not to start.
struct Case {
    /// What is wrong, for the messages of this test.
    what: &'static str,
    /// How to make a codex of that kind in a world; `None` where something for it is missing.
    make: fn(&Home) -> Option<Fault>,
    /// The exit code of `serve`, and its name.
    code: i32,
    word: &'static str,
    /// codexd's reason for the end.
    reported: &'static str,
    /// codex's own error, if it prints one.
    words: &'static str,
}

/// A codex that does not start.
struct Fault {
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
    /// Lines of codexd's own configuration.
    settings: &'static str,
}

impl Fault {
    fn of(program: PathBuf) -> Option<Fault> {
        Some(Fault { program, variables: Vec::new(), settings: "" })
    }
}

const CASES: [Case; 10] = [
    Case {
        what: "a bad value of a key",
        make: |_| Some(Fault { settings: "codex_args = [\"-c\", \"model=7\"]\n", ..real()? }),
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server exited with code 1",
        words: "invalid type: integer `7`, expected a string in `model`",
    },
    Case {
        what: "an obsolete setting",
        make: |home| {
            fs::write(home.codex_home().join("config.toml"), "approval_policy = \"untrusted\"\n").unwrap();
            real()
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server exited with code 1",
        words: "approval_policy = \"untrusted\" is no longer supported; remove this setting",
    },
    Case {
        what: "a CODEX_HOME that is not there",
        make: |home| {
            let gone = home.root().join("gone").display().to_string();
            Some(Fault { variables: vec![("CODEX_HOME", gone)], ..real()? })
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server exited with code 1",
        words: "but that path does not exist",
    },
    Case {
        what: "no permission",
        make: |home| Fault::of(file(home, b"\x7fELF", 0o644)),
        code: 69,
        word: "unavailable",
        reported: "it cannot be executed",
        words: "",
    },
    Case {
        what: "another processor",
        make: |home| {
            let mut program = fs::read(std::env::current_exe().unwrap()).unwrap();
            program.truncate(4096);
            // SPARC (`elf.h`), of which there is no codex.
            program[18..20].copy_from_slice(&[2, 0]);
            let emulated = fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|list| list.count() > 2);
            if emulated { None } else { Fault::of(file(home, &program, 0o755)) }
        },
        code: 69,
        word: "unavailable",
        reported: "it is for another processor",
        words: "",
    },
    Case {
        what: "a missing library",
        make: |home| {
            let mut program = fs::read("/bin/sleep").ok()?;
            let at = program.windows(10).position(|window| window == b"libc.so.6\0")?;
            program[at..at + 9].copy_from_slice(b"libq.so.6");
            Fault::of(gated(home, &file(home, &program, 0o755)))
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server exited with code 127",
        words: "error while loading shared libraries: libq.so.6",
    },
    Case {
        what: "output that is no message",
        make: |home| {
            let script = b"#!/bin/sh\necho 'Welcome to another program'\nexec sleep 300\n";
            Fault::of(gated(home, &file(home, script, 0o755)))
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server wrote something that is no message",
        words: "Welcome to another program",
    },
    Case {
        what: "an end at once, without a word",
        make: |home| Fault::of(gated(home, &file(home, b"#!/bin/sh\nexit 3\n", 0o755))),
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server exited with code 3",
        words: "",
    },
    Case {
        what: "no answer to the handshake",
        make: |_| {
            let variables = vec![("FAKE_CODEX", "[[init-hang]]".to_owned())];
            Some(Fault { variables, ..Fault::of(binary::fake_codex())? })
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server did not answer the handshake in time",
        words: "",
    },
    Case {
        what: "a death by a signal",
        make: |home| {
            let script = b"#!/bin/sh\necho 'fatal: no memory is left' >&2\nkill -9 $$\n";
            Fault::of(gated(home, &file(home, script, 0o755)))
        },
        code: 1,
        word: "upstreamLost",
        reported: "codex app-server was killed by signal 9 (SIGKILL)",
        words: "fatal: no memory is left",
    },
];

fn real() -> Option<Fault> {
    Fault::of(Codex::for_test(Version::Current)?.native)
}

fn file(home: &Home, contents: &[u8], mode: u32) -> PathBuf {
    write_program(home.root().join("codex-program"), contents, mode)
}

/// Writes a file that is about to be run. Another process writes it: a child of another test would inherit the
/// descriptor for a moment, and what is open for writing cannot be run (ETXTBSY).
pub(crate) fn write_program(path: PathBuf, contents: &[u8], mode: u32) -> PathBuf {
    let source = path.with_extension("source");
    fs::write(&source, contents).unwrap();
    let copied = Command::new("cp").arg(&source).arg(&path).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Puts a program in front of another one that becomes it when the gate is opened.
fn gated(home: &Home, program: &Path) -> PathBuf {
    let text = format!(
        "#!/bin/sh\nwhile ! [ -e '{}' ]; do sleep 0.01; done\nexec '{}' \"$@\"\n",
        gate(home).display(),
        program.display()
    );
    write_program(home.root().join("gated-codex"), text.as_bytes(), 0o755)
}

fn gate(home: &Home) -> PathBuf {
    home.root().join("gate")
}

/// A world with a codex that does not start.
struct World {
    home: Arc<Home>,
    fault: Fault,
}

impl World {
    fn of(case: &Case) -> Option<World> {
        let home = Home::new().unwrap();
        let Some(mut fault) = (case.make)(&home) else {
            skip::say(&format!("{} cannot be made here", case.what));
            return None;
        };
        // The real codex waits for the gate as well, so that a client can come before its end.
        if fault.program.ends_with("bin/codex") {
            fault.program = gated(&home, &fault.program);
        }
        home.write_config(fault.settings).unwrap();
        Some(World { home: Arc::new(home), fault })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&binary::codexd());
        command.args(arguments).env("CODEXD_CODEX", &self.fault.program).env("CODEXD_INSTANCE", "t");
        command.envs(self.fault.variables.iter().cloned());
        command
    }

    /// Lets codex go on to where it fails.
    fn open_gate(&self) {
        fs::write(gate(&self.home), "").unwrap();
    }

    /// Runs `codexd` to its end; a handshake may be a part of that. Returns exit code, stdout and stderr.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let path = |name: &str| self.home.root().join(name);
        let [out, err] = ["out", "err"].map(path);
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = Started::of(&mut command);
        let status = wait::poll(LONG, || child.0.try_wait().unwrap()).expect("it ends");
        (status.code(), fs::read_to_string(out).unwrap(), fs::read_to_string(err).unwrap())
    }

    /// Runs `serve` to its end with a client that came before it; returns what that was answered, exit code
    /// and stderr.
    fn serve(&self, waits: bool) -> (Option<String>, Option<i32>, String) {
        let err = self.home.root().join("serve.err");
        let mut command = self.command(&["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&err).unwrap());
        let mut child = Started::of(&mut command);
        let socket = self.home.runtime().join("codexd/t.sock");
        let mut status = None;
        wait::until("it listens or has ended", || {
            status = child.0.try_wait().unwrap();
            socket.exists() || status.is_some()
        });
        let answer = waits.then(|| {
            wait::until("it listens", || socket.exists());
            let mut client = TestClient::connect("early", &socket);
            client.set_patience(LONG);
            let info = json!({"clientInfo": {"name": "early", "version": "1"}});
            let id = client.send_request("initialize", info);
            wait::until("the client is known", || {
                self.run(&["ctl", "status", "--field", "clients"]).1 == "1\n"
            });
            self.open_gate();
            let error = client.response(id).unwrap_err();
            assert_eq!(error.code, -32010);
            error.message
        });
        let status = wait::poll(LONG, || child.0.try_wait().unwrap()).expect("it ends");
        (answer, status.code(), fs::read_to_string(err).unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        codexd_tests::process::sweep(self.home.root(), std::time::Duration::from_secs(2));
    }
}

/// Checks that a text contains codexd's reason and codex's own error.
#[track_caller]
fn assert_named(case: &Case, place: &str, text: &str) {
    for part in [case.reported, case.words] {
        assert!(text.contains(part), "{}: {place} does not say `{part}`:\n{text}", case.what);
    }
}

/// `serve`: its last line, its log, the client that had come, the record and `ctl status`.
fn check_serve(case: &Case) {
    let Some(world) = World::of(case) else { return };
    let (answer, code, stderr) = world.serve(case.code == 1);
    assert_eq!(code, Some(case.code), "{}: {stderr}", case.what);
    let last = stderr.lines().rfind(|line| !line.starts_with("hint: ")).unwrap_or_default();
    assert_named(case, "the last line of serve", last);
    let begin = format!("codexd: exits with {} ({}), because ", case.code, case.word);
    assert!(last.starts_with(&begin), "{}: {last}", case.what);
    if case.code == 1 {
        let errors = stderr.lines().filter(|line| line.contains(" ERROR "));
        let said: Vec<&str> = errors.filter_map(|line| Some(line.split_once(" line=")?.1)).collect();
        assert!(said.join(" ").contains(case.words), "{}: the log: {stderr}", case.what);
        // The error that the client gets is one line, and has the reason in its message.
        let message = answer.expect("the client came in time");
        assert_named(case, "the client's error", &message);
        assert!(!message.contains('\n'), "{}: {message}", case.what);
    }
    let (_, status, _) = world.run(&["ctl", "status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let exit = &status["lastExit"];
    assert_eq!(exit["code"], case.code, "{}: {exit}", case.what);
    let lines = exit["upstreamStderr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said: Vec<&str> = lines.iter().map(|line| line.as_str().unwrap()).collect();
    assert_named(case, "the record", &format!("{} {}", exit["reason"].as_str().unwrap(), said.join(" ")));
    let (code, _, people) = world.run(&["ctl", "status"]);
    assert_eq!(code, Some(3), "{}: {people}", case.what);
    assert_named(case, "ctl status", &people.replace("\ncodex: ", " "));
    codexd_tests::process::assert_no_process_left(world.home.root());
}

/// `connect`, which starts a daemon that does not start.
fn check_connect(case: &Case) {
    let Some(world) = World::of(case) else { return };
    world.open_gate();
    let (code, _, stderr) = world.run(&["connect", "--no-direct"]);
    assert_eq!(code, Some(69), "{}: {stderr}", case.what);
    assert_named(case, "connect", &stderr);
    assert!(stderr.contains(&format!("exit code {}", case.code)), "{}: {stderr}", case.what);
    wait::until("the daemon is gone", || codexd_tests::process::marked(world.home.root()).is_empty());
}

/// `doctor`, which starts no daemon.
fn check_doctor(case: &Case) {
    let Some(world) = World::of(case) else { return };
    world.open_gate();
    let before = listing(&world.home.codex_home());
    let (code, report, _) = world.run(&["doctor", "--json"]);
    assert_eq!(code, Some(1), "{}: {report}", case.what);
    let report: Value = serde_json::from_str(&report).unwrap();
    let failed: Vec<&Value> =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "fail").collect();
    let messages: Vec<&str> = failed.iter().map(|finding| finding["message"].as_str().unwrap()).collect();
    assert_named(case, "doctor", &messages.join("\n"));
    assert!(failed.iter().all(|finding| finding["fix"].is_string()), "{}: {failed:#?}", case.what);
    assert_eq!(listing(&world.home.codex_home()), before, "{}: doctor has touched CODEX_HOME", case.what);
    codexd_tests::process::assert_no_process_left(world.home.root());
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_codex_that_cannot_start_is_named_with_its_own_words_everywhere() {
    std::thread::scope(|scope| {
        for case in &CASES {
            for check in [check_serve, check_connect, check_doctor] {
                scope.spawn(move || check(case));
            }
        }
    });
}
