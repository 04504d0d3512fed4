//! What the journal shows: priorities, and why codex does not start.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use codexd_tests::codex::{Codex, Version};

use super::connect::one_client;
use super::*;

/// One entry: its priority and its text.
type Entry = (String, String);

/// Returns what the journal has of the last life of the service.
fn journal(lab: &Lab) -> Vec<Entry> {
    let _ = lab.run_as_root(&["journalctl", "--sync"]).expect_code(0);
    // What the journal has seen itself, and what codexd has told it.
    let life = lab.show(SERVICE, "InvocationID");
    let (seen, told) = (format!("_SYSTEMD_INVOCATION_ID={life}"), format!("INVOCATION_ID={life}"));
    let command =
        ["journalctl", "-q", "--no-pager", "-o", "json", &seen, "+", &told, "SYSLOG_IDENTIFIER=codexd"];
    let text = lab.run_as_root(&command).expect_code(0).stdout;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|entry: Value| (entry["PRIORITY"].as_str().unwrap().to_owned(), shown(&entry["MESSAGE"])))
        .collect()
}

/// A message that is not plain text is a list of bytes (`journalctl(1)`, json).
fn shown(message: &Value) -> String {
    match message.as_array() {
        Some(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| byte.as_u64()?.try_into().ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        None => message.as_str().unwrap().to_owned(),
    }
}

#[track_caller]
fn find<'a>(entries: &'a [Entry], words: &str) -> &'a Entry {
    entries
        .iter()
        .find(|(_, text)| text.contains(words))
        .unwrap_or_else(|| panic!("no `{words}` in {entries:#?}"))
}

/// Writes a service without a socket, whose codex is a file in the home directory.
fn write_service(lab: &Lab) -> PathBuf {
    let codexd = lab.programs().join("codexd");
    let text = format!(
        "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nType=notify\nExecStart={} serve --supervised --codex %h/program\n\
         RuntimeDirectory=codexd\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=yes\n",
        codexd.display(),
    );
    lab.write(lab.home().join(".config/systemd/user").join(SERVICE), &text);
    lab.expect_systemctl(0, &["daemon-reload"]);
    lab.home().join("program")
}

/// Puts a program in its place. Another process writes it: a child of another test would inherit the descriptor
/// for a moment, and what is open for writing cannot be run.
fn put(lab: &Lab, program: &std::path::Path, contents: &[u8], mode: u32) {
    let source = lab.programs().join("source");
    std::fs::write(&source, contents).unwrap();
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _ = lab.run(&["rm", "-f", program.to_str().unwrap()]).expect_code(0);
    lab.expect(0, &["cp", source.to_str().unwrap(), program.to_str().unwrap()]);
    lab.expect(0, &["chmod", &format!("{mode:o}"), program.to_str().unwrap()]);
}

as_both! {
    fn lines_have_priorities_and_no_marks(lab) {
        lab.start();
        lab.client("the-client").turn_completes();
        let upstream = status(&lab)["upstream"]["pid"].to_string();
        // Of this life, and not of the next one.
        lab.drop_in(SERVICE, "[Service]\nRestart=no\n");
        lab.expect(0, &["kill", "-KILL", &upstream]);
        lab.wait_for(SERVICE, "ActiveState", "failed");
        let entries = journal(&lab);
        for (words, priority) in [
            ("client connected", "6"),
            ("client.name=the-client", "6"),
            ("turn started", "6"),
            ("outcome=completed", "6"),
            ("codex warns of its configuration", "4"),
            ("codexd: exits with 1 (upstreamLost), because codex app-server was killed by signal 9", "3"),
        ] {
            assert_eq!(find(&entries, words).0, priority, "{words}");
        }
        assert!(entries.iter().all(|(_, text)| !text.starts_with('<')), "{entries:#?}");
        // The journal shows time stamps and priorities itself.
        let (_, connected) = find(&entries, "client connected");
        assert!(connected.starts_with("client connected client.id="), "{connected}");
        assert!(connected.contains(" client.name=the-client"), "{connected}");
    }

    fn it_finds_lines_by_client_thread_and_turn(lab) {
        lab.start();
        let (mut first, mut second) = (lab.client("the-first"), lab.client("the-second"));
        let thread = first.start_thread(json!({}));
        let turn = first.start_turn(&thread, "hello");
        assert_eq!(first.finish_turn(&thread, &turn).status, "completed");
        second.turn_completes();
        let upstream = status(&lab)["upstream"]["pid"].to_string();
        lab.expect_systemctl(0, &["stop", SERVICE]);
        let _ = lab.run_as_root(&["journalctl", "--sync"]).expect_code(0);
        // As docs/operations.md has it. Root has no journal of its own: its lines are in that of the system.
        let root = lab.run(&["id", "-u"]).expect_code(0).stdout.trim() == "0";
        let unit: &[&str] = if root { &["--user-unit", "codexd"] } else { &["--user", "-u", "codexd"] };
        let found = |field: &str| -> Vec<String> {
            let command = [&["journalctl", "-q", "-o", "cat"], unit, &[field]].concat();
            lab.run(&command).expect_code(0).stdout.lines().map(str::to_owned).collect()
        };
        let of = |lines: &[String]| -> Vec<String> {
            let message = |line: &String| line.split(" client.id=").next().unwrap().split(" thread.id=").next().unwrap().to_owned();
            lines.iter().map(message).collect()
        };
        let of_turn = ["turn started", "turn ended"];
        assert_eq!(of(&found(&format!("CODEXD_TURN={turn}"))), of_turn);
        assert_eq!(of(&found(&format!("CODEXD_THREAD={thread}"))), of_turn);
        let of_client = ["client connected", "turn started", "turn ended"];
        let lines = found("CODEXD_CLIENT_NAME=the-first");
        assert!(of(&lines).starts_with(&of_client.map(str::to_owned)), "{lines:?}");
        let (_, rest) = lines[0].split_once(" client.id=").unwrap();
        let (number, _) = rest.split_once(' ').unwrap();
        assert_eq!(found(&format!("CODEXD_CLIENT={number}")), lines);
        let of_codex = found(&format!("CODEXD_UPSTREAM_PID={upstream}"));
        assert!(of_codex[0].starts_with("started codex app-server"), "{of_codex:?}");
        assert!(of_codex.iter().any(|line| line.starts_with("codex app-server has ended")), "{of_codex:?}");
    }

    fn it_says_why_codex_does_not_start(lab) {
        let program = write_service(&lab);
        let library = || {
            let mut program = std::fs::read("/bin/sleep").ok()?;
            let at = program.windows(10).position(|window| window == b"libc.so.6\0")?;
            program[at..at + 9].copy_from_slice(b"libq.so.6");
            Some(program)
        };
        let script = |text: &str| Some(format!("#!/bin/sh\n{text}\n").into_bytes());
        let obsolete = || {
            let native = Codex::for_test(Version::Current)?.native;
            let real = lab.programs().join("real-codex");
            std::fs::hard_link(&native, &real).or_else(|_| std::fs::copy(&native, &real).map(drop)).unwrap();
            lab.write(lab.home().join(".codex/config.toml"), "approval_policy = \"untrusted\"\n");
            script(&format!("exec {} \"$@\"", real.display()))
        };
        for (contents, mode, code, reported, words) in [
            (obsolete(), 0o755, 1, "exited with code 1", "approval_policy = \"untrusted\" is no longer supported"),
            (library(), 0o755, 1, "exited with code 127", "error while loading shared libraries: libq.so.6"),
            (script("echo 'Error: it is broken' >&2; exit 3"), 0o755, 1, "exited with code 3", "Error: it is broken"),
            (script("echo 'fatal: gone' >&2; kill -9 $$"), 0o755, 1, "was killed by signal 9 (SIGKILL)", "fatal: gone"),
            (script("echo Welcome; exec sleep 300"), 0o755, 1, "something that is no message", "Welcome"),
            (script("exit 4"), 0o644, 69, "it cannot be executed", ""),
            (Some(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x02\0".to_vec()), 0o755, 69, "for another processor", ""),
        ] {
            let Some(contents) = contents else { continue };
            put(&lab, &program, &contents, mode);
            lab.expect_systemctl(1, &["start", SERVICE]);
            assert_eq!(lab.show(SERVICE, "ExecMainStatus"), code.to_string(), "{reported}: {}", lab.report());
            let entries = journal(&lab);
            let (priority, last) = find(&entries, &format!("codexd: exits with {code} ("));
            assert_eq!(priority, "3");
            let status = lab.show(SERVICE, "StatusText");
            // The manager goes on to the next client, which starts it again.
            let said = one_client(&lab, &["--no-direct"]).expect_code(69);
            assert!(said.stderr.contains(&format!("exit code {code}: ")), "{said}");
            for place in [last, &status, &said.stderr] {
                assert!(place.contains(reported) && place.contains(words), "{reported}, {words}: {place}");
            }
            if code == 1 {
                assert_eq!(find(&entries, "codex app-server wrote before it ended").0, "3");
                // A value with spaces is quoted.
                let wrote = entries.iter().any(|(priority, text)| {
                    priority == "3" && text.contains(" line=") && text.replace("\\\"", "\"").contains(words)
                });
                assert!(wrote, "{words}: {entries:#?}");
            }
            let codex = format!("CODEXD_CODEX={}", program.display());
            let doctor = lab.run(&["env", &codex, "codexd", "doctor"]).expect_code(1).stdout;
            let failed = doctor.lines().filter(|line| line.starts_with("FAIL  codex"));
            assert!(failed.into_iter().any(|line| line.contains(reported) && line.contains(words)), "{reported}: {doctor}");
        }
    }
}
