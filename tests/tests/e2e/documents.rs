//! The documents: every command in them runs, or is listed here with the reason why not; every link leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::skip;
use codexd_tests::wait;

/// Commands that are not run by these tests: how they begin, and why.
const NOT_RUN: [(&str, &str); 34] = [
    ("tests/bench/count", "takes a release build; a step of .ci/run runs it"),
    ("tests/bench/soak", "takes ten minutes and a release build"),
    ("tests/bench/bridge", "takes a minute and a release build"),
    (
        "codexd ctl upgrade",
        "replaces the daemon, and that of this test has no supervisor; `upgrade::` runs it",
    ),
    ("cargo install --locked --path daemon", "`cargo package` in .ci/run builds the same from a clean copy"),
    ("cargo install cargo-fuzz", "network, and another toolchain"),
    ("cargo demo", "`demo::` runs the program of the alias"),
    ("cargo test --workspace", "is what runs this"),
    ("cargo test -p", "a part of that"),
    ("cargo test --release -p codexd-proto --test sim", "the nightly workflow"),
    ("cargo build", ".ci/run builds more"),
    (
        "cargo run -p codexd-tests --bin",
        "the test `chaos` and the nightly workflow run chaos, the tests the model",
    ),
    ("cargo bench", ".ci/run builds the benchmarks; they measure, and that takes minutes"),
    ("cargo clippy -p codexd-proto", ".ci/run checks the workspace"),
    ("cargo package", ".ci/run"),
    ("cargo +nightly fuzz", "another toolchain; the nightly workflow"),
    ("cd proto && cargo +nightly fuzz", "another toolchain; the nightly workflow"),
    (".ci/run", "is what runs this"),
    (".ci/package", ".ci/run runs it for this machine, release.yml for the others"),
    ("tests/bench/run", "measures, and that takes minutes on a machine that does nothing else"),
    ("tests/target-check", ".ci/run"),
    ("tests/odd-environment", "all tests again, in other environments"),
    ("tests/systemd-lab/systemd-lab", "`units::` run it"),
    ("codexd install --systemd", "systemd: `install::` runs it dry, `units::` for real"),
    ("codexd uninstall --systemd", "the same"),
    ("journalctl --user -u codexd", "needs a service of systemd: `units::journal` asks for the same fields"),
    ("codexd install --launchd", "macOS: `install::` runs it dry"),
    ("codexd uninstall --launchd", "macOS: `install::` runs it dry"),
    ("codexd run", "turns need a model: `run::` runs each flag"),
    ("git diff | codexd run", "the same"),
    ("{ echo 'Answer OK", "the beginning of the next line"),
    ("id=$(codexd run", "`jobs::` runs it"),
    ("codexd jobs", "`jobs::` runs it"),
    ("codex --remote", "`tui::` runs it on a terminal"),
];

/// Commands that go on until the daemon ends.
const ENDLESS: [&str; 2] = ["codexd ctl turns --watch", "codexd ctl events"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every document of the repository, by its path from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for directory in
        ["", "docs", "docs/design", "systemd", "launchd", "tests", "tests/bench", "tests/systemd-lab"]
    {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root()).unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 15, "{:?}", found.keys());
    found
}

/// Returns the blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info == language, String::new())),
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, block)| block))
            }
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Returns the commands of all `sh` blocks, each with a document that has it, without comments.
fn commands() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for (name, text) in documents() {
        for block in blocks(&text, "sh") {
            for line in block.replace("\\\n", " ").lines() {
                let line = line.split(" # ").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
                if !line.is_empty() && !line.starts_with('#') {
                    found.insert(line, name.clone());
                }
            }
        }
    }
    assert!(found.len() > 40, "{found:#?}");
    found
}

/// Returns a command without the variables before it.
fn without_variables(line: &str) -> &str {
    match line.split_once(' ') {
        Some((word, rest))
            if word
                .split_once('=')
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')) =>
        {
            without_variables(rest)
        }
        _ => line,
    }
}

fn reason_not_to_run(line: &str) -> Option<usize> {
    NOT_RUN.iter().position(|(begin, _)| without_variables(line).starts_with(begin))
}

#[test]
fn every_command_in_the_documents_is_run_or_listed_with_the_reason() {
    let mut daemon = TestDaemon::fake("").ready();
    // Commands as they stand in the documents: `codexd` is the one under test.
    let bin = daemon.home().root().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(daemon.codexd(), bin.join("codexd")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shell = |line: &str| {
        let mut command = daemon.home().command(Path::new("/bin/sh"));
        command.args(["-e", "-c", line]).env("PATH", &path).env("CODEXD_CODEX", daemon.codex());
        command.env("CODEXD_SOCKET", daemon.socket()).env("CODEXD_CONTROL_SOCKET", daemon.control_socket());
        command.stdin(Stdio::null());
        command
    };
    let (mut listed, mut endless, mut last) = (BTreeSet::new(), Vec::new(), None);
    for (line, document) in commands() {
        let name = || format!("`{line}` of {}", document.display());
        if let Some(at) = reason_not_to_run(&line) {
            listed.insert(at);
        } else if ENDLESS.contains(&line.as_str()) {
            let mut command = shell(&line);
            endless.push((name(), command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()));
        } else if line == "codexd ctl stop" {
            last = Some(line);
        } else if line == "codexd serve" {
            // The daemon of this test has its instance: the command gets as far as that.
            let output = Output::of(&mut shell(&line)).expect_code(75);
            assert!(
                output.stderr.contains("holds this instance") || output.stderr.contains("already"),
                "{output}"
            );
        } else if line.starts_with("curl ") && Output::of(&mut shell("command -v curl")).code() != Some(0) {
            skip::say("curl is not installed");
        } else {
            let output = Output::of(&mut shell(&line));
            assert_eq!(output.code(), Some(0), "{}: {output}", name());
        }
    }
    let stop = last.expect("the documents show how to stop it");
    let _ = Output::of(&mut shell(&stop)).expect_code(0);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    for (name, process) in endless {
        let output = process.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(
            !shown.is_empty() && output.status.code().is_some_and(|code| code == 0 || code == 3),
            "{name}: {output:?}"
        );
    }
    for (at, (begin, _)) in NOT_RUN.iter().enumerate() {
        assert!(listed.contains(&at), "no document has `{begin}` any more");
    }
}

#[test]
fn tests_that_the_documents_name_are_there() {
    let root = root();
    let mut seen = 0;
    for (line, document) in commands() {
        let words: Vec<&str> = without_variables(&line).split(' ').collect();
        if !words.starts_with(&["cargo", "test"]) {
            continue;
        }
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        let Some(target) = after("--test") else { continue };
        let directory = match after("-p").or_else(|| after("--package")) {
            Some("codexd-proto") => "proto/tests",
            Some("codexd") => "daemon/tests",
            _ => "tests/tests",
        };
        let target = root.join(directory).join(target);
        let name = format!("`{line}` of {}", document.display());
        assert!(target.is_dir() || target.with_extension("rs").is_file(), "{name}: no {}", target.display());
        // A module of it, or a test in one.
        for filter in words.iter().filter_map(|word| word.split_once("::")) {
            let file = target.join(filter.0).with_extension("rs");
            let source = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{name}: {}: {error}", file.display()));
            assert!(
                filter.1.is_empty() || source.contains(&format!("fn {}", filter.1)),
                "{name}: no such test"
            );
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

/// Returns what stands between backticks, outside of blocks.
fn inline_code(text: &str) -> Vec<String> {
    let mut inside_block = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            inside_block ^= fence;
            !fence && !inside_block
        })
        .collect();
    prose.join(" ").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns every command with its flags, from the reference, which is compared to the program.
fn reference(text: &str) -> BTreeMap<Vec<String>, BTreeSet<String>> {
    let mut found: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
    let mut current = Vec::new();
    for line in text.lines() {
        if let Some(name) =
            line.trim_start_matches('#').trim().strip_prefix("`codexd ").filter(|_| line.starts_with('#'))
        {
            current = name.trim_end_matches('`').split(' ').map(str::to_owned).collect();
            found.insert(current.clone(), BTreeSet::new());
        } else if let Some(row) = line.strip_prefix("| `-") {
            let flags = row.split('`').next().unwrap();
            let flags = flags.split([' ', ',']).map(|flag| format!("-{flag}").replacen("---", "--", 1));
            found.get_mut(&current).unwrap().extend(flags);
        }
    }
    assert!(found.len() > 20, "{found:#?}");
    found
}

#[test]
fn commands_and_flags_that_the_documents_name_are_there() {
    let documents = documents();
    let known = reference(&documents[Path::new("docs/commands.md")]);
    let flags_of = |command: &[String]| known.get(command).cloned().unwrap_or_default();
    let mut seen = 0;
    for (document, text) in &documents {
        let lines = blocks(text, "sh").concat();
        let shown = lines.lines().map(|line| line.split(" # ").next().unwrap().trim().to_owned());
        for code in inline_code(text).into_iter().chain(shown) {
            let Some(rest) = code.strip_prefix("codexd ") else { continue };
            let name = format!("`{code}` of {}", document.display());
            let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            let depth =
                (1..=2).rev().find(|depth| words.len() >= *depth && known.contains_key(&words[..*depth]));
            let Some(depth) = depth else {
                assert!(
                    words[0].starts_with('-') || words[0] == "man" || words[0].to_uppercase() == words[0],
                    "{name}: no such command"
                );
                continue;
            };
            let (command, rest) = words.split_at(depth);
            seen += 1;
            // What follows belongs to codex.
            if command[0] == "app-server" {
                continue;
            }
            // `ctl` and what is below it share some flags.
            let flags: BTreeSet<String> = (1..=depth).flat_map(|n| flags_of(&command[..n])).collect();
            // Another program may follow.
            let own = rest.iter().take_while(|word| *word != "|");
            for flag in own.filter(|word| word.starts_with('-')) {
                let flag = flag.trim_end_matches([',', '.']).split(['=', '|']).next().unwrap();
                assert!(flag == "--help" || flags.contains(flag), "{name}: no flag {flag} among {flags:?}");
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Returns the anchors of a document, as GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in text.lines() {
        inside ^= line.starts_with("```");
        if inside || !line.starts_with('#') {
            continue;
        }
        let heading = line.trim_start_matches('#').trim();
        let plain: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = (1..).map(|n| format!("{plain}-{n}"));
        let name = std::iter::once(plain.clone()).chain(again).find(|name| !found.contains(name)).unwrap();
        found.insert(name);
    }
    found
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let documents = documents();
    let mut seen = 0;
    for (document, text) in &documents {
        let mut inside = false;
        let prose: String = text
            .lines()
            .filter(|line| {
                inside ^= line.starts_with("```");
                !inside
            })
            .map(|line| format!("{line} "))
            .collect();
        for part in prose.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            let link = format!("({target}) of {}", document.display());
            // Other sites are not asked: there may be no network.
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, anchor) =
                target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let path = root().join(document).parent().unwrap().join(file);
            let path = if file.is_empty() { root().join(document) } else { path };
            assert!(path.exists(), "{link}: {} is not there", path.display());
            if let Some(anchor) = anchor {
                let text = fs::read_to_string(&path).unwrap();
                assert!(anchors(&text).contains(anchor), "{link}: no such heading in {:#?}", anchors(&text));
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn rules_scrapes_and_queries_in_the_documents_are_understood_by_prometheus() {
    let promtool = [PathBuf::from("promtool"), root().join("target/tools/prometheus/usr/bin/promtool")]
        .into_iter()
        .find(|program| std::process::Command::new(program).arg("--version").output().is_ok());
    let promtool = promtool.ok_or_else(|| "promtool is not installed (Debian: prometheus)".to_owned());
    let Some(promtool) = skip::unless_found(promtool) else { return };
    let directory = codexd_tests::home::Home::new().unwrap();
    let check = |what: &str, text: &str| {
        let file = directory.root().join("check.yml");
        fs::write(&file, text).unwrap();
        let mut command = directory.command(&promtool);
        let output = Output::of(command.args(["check", what]).arg(&file)).expect_code(0);
        format!("{}{}", output.stdout, output.stderr)
    };
    let text = fs::read_to_string(root().join("docs/observability.md")).unwrap();
    let (mut rules, mut names) = (0, String::new());
    for block in blocks(&text, "yaml") {
        if block.starts_with("groups:") {
            let found = check("rules", &block);
            assert!(found.contains("SUCCESS: ") && found.contains("rules found"), "{found}");
            rules += 1;
        } else {
            check("config", &block);
        }
        names.push_str(&block);
    }
    assert_eq!(rules, 1);
    // The queries of the table, as rules.
    let queries: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("codexd_") && !line.starts_with("| `"))
        .flat_map(|line| {
            line.rsplit_once(" | ")
                .unwrap_or((line, line))
                .0
                .split('`')
                .chain(line.split('`'))
                .filter(|part| part.contains("codexd_") || part.starts_with("process_"))
        })
        .filter(|part| !part.contains('|'))
        .collect();
    assert!(queries.len() > 6, "{queries:?}");
    let mut all = "groups:\n  - name: queries\n    rules:\n".to_owned();
    for (n, query) in queries.iter().enumerate() {
        all.push_str(&format!("      - record: codexd:q{n}\n        expr: {}\n", serde_json::json!(query)));
        names.push_str(query);
    }
    check("rules", &all);
    // And they are about metrics that there are.
    let mut daemon = TestDaemon::fake("").ready();
    let page = crate::http::get(&daemon, "/metrics");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in names.split(|c| !is_name(c)).filter(|name| name.starts_with("codexd_")) {
        let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
        assert!(page.contains(&format!("# TYPE {family} ")), "{name} is no metric\n{page}");
    }
    assert_eq!(daemon.stop(), 0);
    wait::until("it is gone", || !daemon.socket().exists());
}
