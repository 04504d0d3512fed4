//! A user's environment without a daemon: the first client that connects starts one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::model::MockModel;
use codexd_tests::output::Output;
use codexd_tests::process::{self, Process};
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The world; daemons that were started in it end with it.
pub(crate) struct World {
    home: Home,
    codex: PathBuf,
    variables: Vec<(String, String)>,
    model: Option<MockModel>,
}

/// A program that speaks lines of JSON, usually a bridge to the daemon.
pub(crate) struct Bridge {
    client: TestClient,
    stderr: PathBuf,
}

impl World {
    /// Makes a world with the stand-in for codex, which behaves as `script` says.
    pub(crate) fn fake(script: &str) -> World {
        let mut world = World::with(&binary::fake_codex());
        let log = world.home.root().join("fake-codex.log").display().to_string();
        world.variables.push(("FAKE_CODEX_LOG".to_owned(), log));
        if !script.is_empty() {
            world.variables.push(("FAKE_CODEX".to_owned(), script.to_owned()));
        }
        world
    }

    /// Makes a world with the real codex and a scripted model; `None` when the test is skipped.
    pub(crate) fn real() -> Option<World> {
        let codex = Codex::for_test(Version::Current)?;
        let model = MockModel::start().unwrap();
        let mut world = World::with(&codex.native);
        world.home.write_codex_config(&model.base_url(), &CodexConfig::default()).unwrap();
        world.model = Some(model);
        Some(world)
    }

    /// Makes a world with any program as codex.
    pub(crate) fn with(codex: &Path) -> World {
        let home = Home::new().unwrap();
        World { home, codex: codex.to_owned(), variables: Vec::new(), model: None }
    }

    /// Makes this program the codex of all commands to come.
    pub(super) fn with_codex(mut self, codex: &Path) -> World {
        self.codex = codex.to_owned();
        self
    }

    /// Writes codexd's configuration.
    pub(crate) fn configured(self, text: &str) -> World {
        let directory = self.home.config().join("codexd");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.toml"), text).unwrap();
        self
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Returns a command that runs in this world, with what codexd takes from the environment.
    pub(crate) fn program(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.home.command(program.as_ref());
        command.env("CODEXD_CODEX", &self.codex).envs(self.variables.iter().cloned());
        command
    }

    /// Returns a `codexd` command line of this world.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(binary::codexd());
        command.args(arguments);
        command
    }

    /// Runs `codexd` to its end, without input.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// Starts a bridge.
    #[track_caller]
    pub(crate) fn spawn(&self, name: &str, command: &mut Command) -> Bridge {
        let stderr = self.home.root().join(format!("{name}.stderr"));
        let client = TestClient::spawn(name, command.stderr(File::create(&stderr).unwrap()));
        Bridge { client, stderr }
    }

    /// Starts `codexd connect`, which has not sent anything yet.
    #[track_caller]
    pub(crate) fn raw_client(&self, name: &str, flags: &[&str]) -> Bridge {
        self.spawn(name, &mut self.command(&[&["connect"], flags].concat()))
    }

    /// Starts `codexd connect` and introduces the client.
    #[track_caller]
    pub(crate) fn client(&self, name: &str) -> Bridge {
        let mut bridge = self.raw_client(name, &[]);
        bridge.initialize();
        bridge
    }

    /// Returns one member of the daemon's status, bare; `None` while no daemon answers.
    pub(crate) fn status(&self, field: &str) -> Option<String> {
        let output = self.run(&["ctl", "status", "--field", field]);
        (!output.stdout.is_empty()).then(|| output.stdout.trim().to_owned())
    }

    /// Returns the record of the last daemon.
    pub(crate) fn record(&self) -> Value {
        let directory = fs::read_dir(self.home.state().join("codexd")).unwrap();
        let path = directory
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "json"));
        serde_json::from_slice(&fs::read(path.unwrap()).unwrap()).unwrap()
    }

    /// Returns the daemons that clients started.
    pub(crate) fn daemons(&self) -> Vec<Process> {
        let mut all = process::marked(self.home.root());
        all.retain(|process| process.command.contains(" serve --auto-spawned"));
        all
    }

    /// Returns the process id of the only daemon.
    #[track_caller]
    pub(crate) fn daemon(&self) -> i32 {
        let daemons = self.daemons();
        assert_eq!(daemons.len(), 1, "{daemons:#?}");
        daemons[0].pid
    }

    /// Returns the scripted model of the real codex.
    pub(crate) fn model(&self) -> &MockModel {
        self.model.as_ref().unwrap()
    }

    /// Returns the codex servers that run, of whichever daemon.
    pub(crate) fn servers(&self) -> Vec<Process> {
        let server = format!("{} app-server", self.codex.display());
        let mut all = process::marked(self.home.root());
        all.retain(|process| process.command.starts_with(&server));
        all
    }

    /// Kills the only codex server.
    #[track_caller]
    pub(crate) fn kill9_codex(&self) {
        // A command that it starts is called as it is, for a moment.
        let only = || <[Process; 1]>::try_from(self.servers()).ok();
        let Some([server]) = wait::poll(wait::PATIENCE, only) else { panic!("{:#?}", self.servers()) };
        kill(Pid::from_raw(server.pid), Signal::SIGKILL).unwrap();
    }

    /// Kills the only daemon and waits until nothing of it is left.
    #[track_caller]
    pub(crate) fn kill9(&self) {
        let daemon = self.daemon();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        process::wait_dead(daemon);
    }
}

impl Bridge {
    /// Returns what the bridge has written to stderr.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for the end and returns the exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> i32 {
        let status = self.client.wait_exit();
        status.code().unwrap_or_else(|| panic!("{status}"))
    }

    /// Ends the input, waits for the end and returns the exit code.
    #[track_caller]
    pub(crate) fn finish(mut self) -> i32 {
        self.client.finish_sending();
        self.exit_code()
    }
}

impl Deref for Bridge {
    type Target = TestClient;

    fn deref(&self) -> &TestClient {
        &self.client
    }
}

impl DerefMut for Bridge {
    fn deref_mut(&mut self) -> &mut TestClient {
        &mut self.client
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Once to stop, again not to wait for turns, and a third time to kill. A daemon that lost codex may be starting its
        // successor.
        let mut signals: BTreeMap<i32, u32> = BTreeMap::new();
        let _ = wait::poll(Duration::from_secs(10), || {
            for daemon in self.daemons() {
                let sent = signals.entry(daemon.pid).or_default();
                if *sent < 3 {
                    *sent += 1;
                    let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGTERM);
                }
            }
            process::marked(self.home.root()).is_empty().then_some(())
        });
        let left = process::sweep(self.home.root(), Duration::ZERO);
        if std::thread::panicking() {
            let logs = fs::read_dir(self.home.state().join("codexd")).into_iter().flatten().flatten();
            for log in
                logs.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"))
            {
                eprintln!("--- {} ---\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
            }
            for entry in fs::read_dir(self.home.root()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "stderr") {
                    eprintln!(
                        "--- {} ---\n{}",
                        entry.path().display(),
                        fs::read_to_string(entry.path()).unwrap()
                    );
                }
            }
        } else {
            assert!(left.is_empty(), "left behind, and killed now: {left:#?}");
        }
    }
}
