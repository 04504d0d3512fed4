//! A running `codexd` for a test, in a world of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary;
use crate::client::TestClient;
use crate::codex::{Codex, Version};
use crate::home::{CodexConfig, Home};
use crate::model::MockModel;
use crate::notify::NotifySocket;
use crate::output::Output;
use crate::process::{self, Process};
use crate::wait::{self, PATIENCE};

/// What a daemon is started with.
#[derive(Debug)]
pub struct Builder {
    home: Option<Arc<Home>>,
    config: Option<String>,
    codexd: Option<PathBuf>,
    upstream: Upstream,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    notify: bool,
    orphans_allowed: bool,
}

/// The upstream of a daemon.
#[derive(Debug)]
enum Upstream {
    Fake(String),
    Real(Codex, Box<CodexConfig>),
    Program(PathBuf),
}

/// A daemon that was started.
///
/// On drop it is stopped, and nothing it started may be left.
#[derive(Debug)]
pub struct TestDaemon {
    home: Arc<Home>,
    codexd: PathBuf,
    child: Child,
    status: Option<ExitStatus>,
    stderr: File,
    notify: Option<NotifySocket>,
    model: Option<MockModel>,
    codex: PathBuf,
    orphans_allowed: bool,
}

impl TestDaemon {
    /// Prepares a daemon on the stand-in for codex; `script` is its behaviour as a process (markers,
    /// see `fake-codex`), usually none.
    pub fn fake(script: &str) -> Builder {
        Builder::new(Upstream::Fake(script.to_owned()))
    }

    /// Prepares a daemon on the real codex and a scripted model.
    ///
    /// Returns `None` when the test has to be skipped, see [`Codex::for_test`].
    pub fn real(version: Version) -> Option<Builder> {
        let codex = Codex::for_test(version)?;
        Some(Builder::new(Upstream::Real(codex, Box::default())))
    }

    /// Prepares a daemon whose codex is any program, for instance one that is not there.
    pub fn program(codex: &Path) -> Builder {
        Builder::new(Upstream::Program(codex.to_owned()))
    }

    /// Returns the world the daemon lives in.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Returns the path of the clients' socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.home)
    }

    /// Returns the path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.home)
    }

    /// Returns the `codexd` under test.
    pub fn codexd(&self) -> &Path {
        &self.codexd
    }

    /// Returns the program given as codex.
    pub fn codex(&self) -> &Path {
        &self.codex
    }

    /// Returns the scripted model of the real codex.
    ///
    /// # Panics
    ///
    /// When the upstream is another.
    #[track_caller]
    pub fn model(&self) -> &MockModel {
        self.model.as_ref().expect("only a daemon on the real codex has a model")
    }

    /// Returns the service manager's end of the notifications.
    ///
    /// # Panics
    ///
    /// When the daemon was started without.
    #[track_caller]
    pub fn notify(&self) -> &NotifySocket {
        self.notify.as_ref().expect("this daemon was started without a notify socket")
    }

    /// Returns the daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns all processes of this test but the test: the daemon, its upstream and their children.
    pub fn processes(&self) -> Vec<Process> {
        process::marked(self.home.root())
    }

    /// Returns the ids of [`TestDaemon::processes`].
    pub fn pids(&self) -> Vec<i32> {
        self.processes().into_iter().map(|process| process.pid).collect()
    }

    /// Returns the process id of the upstream: the child of the daemon that runs `app-server`.
    ///
    /// # Panics
    ///
    /// When there is none in [`PATIENCE`].
    #[track_caller]
    pub fn upstream_pid(&self) -> i32 {
        let own = i32::try_from(self.pid()).unwrap_or(0);
        let find = || {
            let processes = self.processes();
            processes.iter().find(|it| it.pid != own && it.command.contains(" app-server")).map(|it| it.pid)
        };
        match wait::poll(PATIENCE, find) {
            Some(pid) => pid,
            None => self.fail("no upstream is running"),
        }
    }

    /// Returns what the daemon has written to stderr so far; all of it when it has ended.
    pub fn stderr(&self) -> String {
        // At a place of its own: the daemon writes where the shared position of the file is.
        let length = self.stderr.metadata().map_or(0, |it| usize::try_from(it.len()).unwrap_or(0));
        let mut bytes = vec![0; length];
        self.stderr.read_exact_at(&mut bytes, 0).expect("the file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns what the stand-in for codex has received so far, raw; lines that start with `!!` are its
    /// complaints.
    pub fn fake_log(&self) -> String {
        fs::read_to_string(fake_log(&self.home)).unwrap_or_default()
    }

    /// Returns the complaints of the stand-in for codex.
    pub fn complaints(&self) -> Vec<String> {
        self.fake_log().lines().filter(|line| line.starts_with("!!")).map(str::to_owned).collect()
    }

    /// Blocks until the daemon has sent `READY=1`, and returns itself.
    ///
    /// # Panics
    ///
    /// When it ends instead, or does not send it in [`PATIENCE`].
    #[track_caller]
    pub fn wait_ready(mut self) -> TestDaemon {
        // In slices, because the end of the process is not reported on this socket.
        let ready = wait::poll(PATIENCE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.status = Some(status);
            }
            let said = self.notify().wait_for(Duration::from_millis(20), |line| line == "READY=1");
            said.map(|_| true).or(self.status.map(|_| false))
        });
        match ready {
            Some(true) => self,
            Some(false) => self.fail("the daemon ended before it was ready"),
            None => self.fail("the daemon did not become ready"),
        }
    }

    /// Connects a client and initializes it; the notifications that follow from that are dropped.
    #[track_caller]
    pub fn client(&self, name: &str) -> TestClient {
        let mut client = self.raw_client(name);
        client.initialize();
        // What every client gets after its initialize concerns few tests.
        client.request("broker/status", serde_json::Value::Null);
        client.forget();
        client
    }

    /// Connects a client that has not sent anything yet.
    #[track_caller]
    pub fn raw_client(&self, name: &str) -> TestClient {
        if !self.socket().exists() {
            self.fail("there is no socket");
        }
        TestClient::connect(name, &self.socket())
    }

    /// Connects a client over WebSocket and introduces it.
    #[track_caller]
    pub fn websocket_client(&self, name: &str) -> TestClient {
        let mut client = TestClient::connect_websocket(name, &self.socket());
        client.initialize();
        client
    }

    /// Returns a `codexd` command line in the daemon's world, for instance of `connect`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&self.codexd);
        command
            .args(arguments)
            .env("CODEXD_SOCKET", self.socket())
            .env("CODEXD_CONTROL_SOCKET", self.control_socket())
            .env("CODEXD_CODEX", &self.codex);
        command
    }

    /// Runs `codexd` in the daemon's world to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// Runs `codexd ctl` to its end.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.run(&[&["ctl"], arguments].concat())
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        // Not collected yet, so the number still belongs to our child.
        if self.status.is_none() {
            let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX)), signal);
        }
    }

    /// Asks the daemon to stop, as a service manager does.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Kills the daemon without a chance to do anything.
    pub fn kill9(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Waits for the end of the daemon.
    ///
    /// # Panics
    ///
    /// When it does not end in [`PATIENCE`].
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        match self.exit_within(PATIENCE) {
            Some(status) => status,
            None => self.fail("the daemon did not end"),
        }
    }

    /// Asks the daemon to stop and returns its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end in [`PATIENCE`], or by a signal.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.term();
        match self.wait_exit().code() {
            Some(code) => code,
            None => self.fail("the daemon ended by a signal"),
        }
    }

    /// Ends the daemon if it still runs, checks what it left, and returns its world for a successor.
    pub fn into_home(self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    /// Sends the upstream a signal.
    #[track_caller]
    pub fn signal_upstream(&self, signal: Signal) {
        let pid = self.upstream_pid();
        let _ = kill(Pid::from_raw(pid), signal);
        if signal == Signal::SIGSTOP {
            // Threads that run on other processors stop a moment later, and may still answer.
            wait::until("codex has stopped", || process::is_stopped(pid));
        }
    }

    /// Checks that nothing of this test is left; call it when the daemon has ended.
    #[track_caller]
    pub fn assert_no_process_left(&self) {
        process::assert_no_process_left(self.home.root());
    }

    /// Ends with `reason`; the daemon's output is printed when it is dropped.
    #[track_caller]
    pub fn fail(&self, reason: &str) -> ! {
        let status = self.status.map_or("it is running".to_owned(), |status| status.to_string());
        panic!("{reason} ({status})");
    }

    /// Waits at most so long for the end of the daemon; that it does not come is no failure.
    pub fn exit_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            let child = &mut self.child;
            self.status = wait::poll(patience, || child.try_wait().ok().flatten());
        }
        self.status
    }
}

impl Builder {
    fn new(upstream: Upstream) -> Builder {
        Builder {
            home: None,
            config: None,
            codexd: None,
            upstream,
            arguments: Vec::new(),
            variables: Vec::new(),
            notify: true,
            orphans_allowed: false,
        }
    }

    /// Uses this world, for instance with files prepared in it, or that of an earlier daemon.
    pub fn home(mut self, home: impl Into<Arc<Home>>) -> Builder {
        self.home = Some(home.into());
        self
    }

    /// Writes this text as codexd's configuration file.
    pub fn config(mut self, text: &str) -> Builder {
        self.config = Some(text.to_owned());
        self
    }

    /// Changes codex's configuration; of a real upstream only.
    ///
    /// # Panics
    ///
    /// When the upstream is another.
    pub fn codex_config(mut self, change: impl FnOnce(&mut CodexConfig)) -> Builder {
        match &mut self.upstream {
            Upstream::Real(_, config) => change(config),
            _ => panic!("only the real codex has a configuration"),
        }
        self
    }

    /// Gives the daemon the npm wrapper instead of the native program; of a real upstream only.
    ///
    /// # Panics
    ///
    /// When the upstream is another.
    pub fn npm_wrapper(mut self) -> Builder {
        match &mut self.upstream {
            Upstream::Real(codex, _) => codex.native.clone_from(&codex.wrapper),
            _ => panic!("only the real codex has a wrapper"),
        }
        self
    }

    /// Runs this `codexd` instead of the one that [`binary::codexd`] finds.
    pub fn codexd(mut self, path: &Path) -> Builder {
        self.codexd = Some(path.to_owned());
        self
    }

    /// Adds arguments to `codexd serve`.
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, arguments: I) -> Builder {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the daemon without a service manager to notify.
    pub fn without_notify(mut self) -> Builder {
        self.notify = false;
        self
    }

    /// Lets processes survive the daemon without failing the test; they are killed silently.
    ///
    /// For tests that kill the daemon hard while a command detached itself: no process is left then that could end
    /// it.
    pub fn orphans_allowed(mut self) -> Builder {
        self.orphans_allowed = true;
        self
    }

    /// Starts the daemon and does not wait for anything.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn start(self) -> TestDaemon {
        let home = self
            .home
            .unwrap_or_else(|| Arc::new(Home::new().expect("the temporary directory can be written")));
        if let Some(config) = &self.config {
            home.write_config(config).expect("the temporary directory can be written");
        }
        let mut model = None;
        let (codex, script) = match self.upstream {
            Upstream::Fake(script) => (binary::fake_codex(), script),
            Upstream::Program(path) => (path, String::new()),
            Upstream::Real(codex, config) => {
                let server = MockModel::start().expect("a loopback port can be had");
                home.write_codex_config(&server.base_url(), &config)
                    .expect("the temporary directory can be written");
                model = Some(server);
                (codex.native, String::new())
            }
        };
        let codexd = self.codexd.unwrap_or_else(binary::codexd);
        let mut command = home.command(&codexd);
        command.arg("serve").arg("--socket").arg(socket(&home));
        command.arg("--control-socket").arg(control_socket(&home));
        command.arg("--codex").arg(&codex).args(&self.arguments);
        if !script.is_empty() {
            command.env("FAKE_CODEX", script);
        }
        command.env("FAKE_CODEX_LOG", fake_log(&home));
        let notify = self.notify.then(|| {
            let path = home.root().join("notify");
            let _ = fs::remove_file(&path);
            NotifySocket::open(&path).expect("the temporary directory can hold a socket")
        });
        if let Some(notify) = &notify {
            command.env("NOTIFY_SOCKET", notify.path());
        }
        // In the group of the test: an interrupt at the terminal reaches the daemon, too.
        command.envs(self.variables);
        // A file and no pipe: what was written is there when the daemon has ended.
        let stderr = tempfile::tempfile_in(home.root()).expect("the temporary directory can be written");
        let its_own = stderr.try_clone().expect("a file can be opened");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(its_own);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {:?}: {error}", command.get_program()),
        };
        TestDaemon {
            home,
            codexd,
            child,
            status: None,
            stderr,
            notify,
            model,
            codex,
            orphans_allowed: self.orphans_allowed,
        }
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it cannot be started or does not become ready.
    #[track_caller]
    pub fn ready(self) -> TestDaemon {
        self.start().wait_ready()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        // Once to stop, a second time not to wait for turns, a third time to kill the upstream.
        let mut stubborn = false;
        if self.exit_within(Duration::ZERO).is_none() {
            self.term();
            self.term();
            if self.exit_within(Duration::from_secs(5)).is_none() {
                self.term();
                if self.exit_within(Duration::from_secs(5)).is_none() {
                    stubborn = true;
                    self.kill9();
                    let _ = self.exit_within(PATIENCE);
                }
            }
        }
        let left = process::sweep(self.home.root(), Duration::from_secs(if stubborn { 5 } else { 2 }));
        if failing {
            let stderr = self.stderr();
            eprintln!("--- stderr of the daemon ---\n{stderr}--- end of its stderr ---");
            return;
        }
        assert!(!stubborn, "the daemon did not end after three signals; its stderr:\n{}", self.stderr());
        assert!(
            self.orphans_allowed || left.is_empty(),
            "left behind by the daemon, and killed now: {left:#?}\nits stderr:\n{}",
            self.stderr()
        );
    }
}

fn socket(home: &Home) -> PathBuf {
    home.runtime().join("s")
}

fn control_socket(home: &Home) -> PathBuf {
    home.runtime().join("c")
}

fn fake_log(home: &Home) -> PathBuf {
    home.root().join("fake-codex.log")
}
