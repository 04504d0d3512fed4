//! Where a cell happens: a user's environment with the real codex, and whoever starts daemons in it.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::CodexConfig;
use codexd_tests::lab::{Lab, User};
use codexd_tests::model::MockModel;
use codexd_tests::output::Output;
use codexd_tests::process::{self, Process};
use codexd_tests::{binary, clients, place, skip, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sdk;
use super::table::{Death, Manager, Way};
use crate::world::{Bridge, World};

/// A sandbox whose policy no `sandbox` of a resume can express, where the temporary directory is not writable. Neither it
/// nor the approval policy of the threads is the default.
const SETTINGS: &str = "[sandbox_workspace_write]\nexclude_tmpdir_env_var = true\nexclude_slash_tmp = true\n";

pub(super) struct Place {
    /// Ends before the world.
    lab: Option<Lab>,
    world: World,
    native: PathBuf,
}

impl Place {
    /// Makes the place; `None` when the test is skipped.
    pub(super) fn new(manager: Manager) -> Option<Place> {
        let codex = Codex::for_test(Version::Current)?;
        let lab = match manager {
            Manager::AutoSpawn => None,
            // The model is reached over loopback, so the lab shares the network.
            Manager::Systemd => {
                let lab = Lab::boot_with(User::Root, &["--share-net"]);
                let must = cfg!(target_os = "linux") && std::env::var_os("CI").is_some();
                assert!(lab.is_some() || !must, "CI is set, and there is no systemd to test with");
                Some(lab?)
            }
        };
        let world = World::real()?;
        let config = CodexConfig {
            approval_policy: "never".to_owned(),
            more: SETTINGS.to_owned(),
            ..CodexConfig::default()
        };
        world.home().write_codex_config(&world.model().base_url(), &config).unwrap();
        fs::create_dir(world.home().root().join("outside")).unwrap();
        let link = world.home().root().join("codex-link");
        symlink(&codex.native, &link).unwrap();
        let place = Place { lab, world: world.with_codex(&link), native: codex.native };
        if let Some(lab) = &place.lab {
            let variable = place.codex_home();
            let words = ["env", &variable, "codexd", "install", "--systemd", "--now", "--codex"];
            lab.expect(0, &[&words[..], &[link.to_str().unwrap()]].concat());
        }
        Some(place)
    }

    fn codex_home(&self) -> String {
        format!("CODEX_HOME={}", self.world.home().codex_home().display())
    }

    pub(super) fn model(&self) -> &MockModel {
        self.world.model()
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn native(&self) -> &Path {
        &self.native
    }

    pub(super) fn root(&self) -> &Path {
        self.world.home().root()
    }

    pub(super) fn project(&self) -> PathBuf {
        self.world.home().project()
    }

    /// Returns a command with these variables, whose first word is `codexd` or the path of a program.
    fn command(&self, variables: &[String], words: &[&str]) -> Command {
        let variable = self.codex_home();
        if let Some(lab) = &self.lab {
            let variables = variables.iter().map(String::as_str);
            return lab.command(["env", &variable].into_iter().chain(variables).chain(words.iter().copied()));
        }
        let program = if words[0] == "codexd" { binary::codexd() } else { words[0].into() };
        let mut command = self.world.program(program);
        command.envs(variables.iter().map(|it| it.split_once('=').unwrap())).args(&words[1..]);
        command
    }

    /// Runs `codexd`.
    #[track_caller]
    pub(super) fn codexd(&self, words: &[&str]) -> Output {
        Output::of(&mut self.command(&[], &[&["codexd"], words].concat()))
    }

    pub(super) fn status(&self, field: &str) -> String {
        self.codexd(&["ctl", "status", "--field", field]).stdout.trim().to_owned()
    }

    /// Returns the path of the daemon's socket, from here.
    pub(super) fn socket(&self) -> PathBuf {
        let socket = self.codexd(&["ctl", "get-socket"]).expect_code(0).stdout;
        match &self.lab {
            None => socket.trim().into(),
            Some(lab) => lab.path(socket.trim()),
        }
    }

    /// Has a daemon started, where the clients of the socket do not.
    pub(super) fn wake(&self) {
        if self.lab.is_none() {
            assert_eq!(self.world.client("starter").finish(), 0);
        }
    }

    /// Starts a program that speaks lines of JSON.
    fn spawn(&self, name: &str, variables: &[String], words: &[&str]) -> Bridge {
        self.world.spawn(name, &mut self.command(variables, words))
    }

    /// Starts `codexd connect`, and introduces the client.
    pub(super) fn bridge(&self, name: &str) -> Bridge {
        let mut bridge = self.spawn(name, &[], &["codexd", "connect"]);
        bridge.initialize();
        bridge
    }

    /// Connects a client that has an operator's view.
    pub(super) fn operator(&self) -> TestClient {
        let mut client = TestClient::connect("operator", &self.socket());
        client.initialize();
        client
    }

    /// Returns a client that came on this way.
    pub(super) fn client(&self, way: Way) -> Option<Talker> {
        let mut client = match way {
            Way::Connect => Talker::Bridge(self.spawn("client", &[], &["codexd", "connect"])),
            Way::Sdk => {
                let python = skip::unless_found(clients::python())?;
                let packages = format!("PYTHONPATH={}", python.packages.display());
                let codexd = if self.lab.is_some() { "codexd".into() } else { binary::codexd() };
                let program = python.program.to_str().unwrap();
                let words = [program, "-c", sdk::SCRIPT, codexd.to_str().unwrap()];
                Talker::Bridge(self.spawn("client", &[packages], &words))
            }
            _ => {
                self.wake();
                let socket = self.socket();
                Talker::Plain(match way {
                    Way::WebSocket => TestClient::connect_websocket("client", &socket),
                    _ => TestClient::connect("client", &socket),
                })
            }
        };
        client.keep_record();
        match way {
            Way::Plugin => crate::plugin::introduce(&mut client),
            _ => drop(client.initialize()),
        }
        Some(client)
    }

    /// Returns the processes that run with codexd's or codex's own work.
    fn with_command(&self, is_it: impl Fn(&str) -> bool) -> Vec<Process> {
        let mut all = process::marked(self.root());
        all.retain(|process| is_it(&process.command));
        all
    }

    /// Returns the number of the only process of this kind.
    #[track_caller]
    fn only(&self, what: &str, is_it: impl Fn(&str) -> bool) -> i32 {
        // What a process starts is called as it is, for a moment.
        let only = || <[Process; 1]>::try_from(self.with_command(&is_it)).ok();
        let Some([it]) = wait::poll(wait::PATIENCE, only) else {
            panic!("{what}: {:#?}", self.with_command(&is_it))
        };
        it.pid
    }

    fn daemon(&self) -> i32 {
        self.only("the daemon", |command| command.contains("codexd serve --"))
    }

    fn codex(&self) -> i32 {
        let native = format!("{} app-server", self.native.display());
        let link = format!("{} app-server", self.root().join("codex-link").display());
        self.only("codex", |command| command.starts_with(&native) || command.starts_with(&link))
    }

    /// Ends the daemon, and waits until it is gone; `finish` has what runs finished, if something does, while an upgrade
    /// waits for it.
    pub(super) fn happens(&self, death: Death, finish: Option<impl FnOnce()>) {
        let daemon = self.daemon();
        match death {
            Death::CodexKilled => kill(Pid::from_raw(self.codex()), Signal::SIGKILL).unwrap(),
            Death::CodexdKilled => kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap(),
            // Turns are interrupted: the test has no time to wait for them.
            Death::Stopped => drop(self.codexd(&["ctl", "stop", "--now"]).expect_code(0)),
            Death::CodexUpgraded => self.upgrade(finish),
        }
        process::wait_dead(daemon);
    }

    fn upgrade(&self, finish: Option<impl FnOnce()>) {
        let text = format!("#!/bin/sh\nexec '{}' \"$@\"\n", self.native.display());
        place::write(&self.root().join("codex-link"), &text);
        let mut command = self.command(&[], &["codexd", "ctl", "upgrade", "--json"]);
        let upgrade = std::thread::spawn(move || Output::of(&mut command));
        if let Some(finish) = finish {
            wait::until("the upgrade waits", || !self.status("upgrade.sinceMs").is_empty());
            finish();
        }
        let result = upgrade.join().unwrap().expect_code(0).json();
        assert_eq!(result["upgraded"], true, "{result}");
    }

    /// Checks that one daemon serves, the second one.
    #[track_caller]
    pub(super) fn check_second(&self, cell: &impl Display) {
        assert_eq!(self.status("generation"), "2", "{cell}");
        let _ = (self.daemon(), self.codex());
    }

    /// Stops the daemon; nothing that was started here may be left.
    #[track_caller]
    pub(super) fn finish(self) {
        let _ = self.codexd(&["ctl", "stop", "--now"]).expect_code(0);
        process::assert_no_process_left(self.root());
    }
}

/// A client: of a program that outlives daemons, or of the socket.
pub(super) enum Talker {
    Bridge(Bridge),
    Plain(TestClient),
}

impl std::ops::Deref for Talker {
    type Target = TestClient;

    fn deref(&self) -> &TestClient {
        match self {
            Talker::Bridge(bridge) => bridge,
            Talker::Plain(client) => client,
        }
    }
}

impl std::ops::DerefMut for Talker {
    fn deref_mut(&mut self) -> &mut TestClient {
        match self {
            Talker::Bridge(bridge) => bridge,
            Talker::Plain(client) => client,
        }
    }
}
