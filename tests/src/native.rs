//! The real codex with its own listener for several connections: `codex app-server --listen unix://PATH`.
//!
//! What a client sees there is what a client of codexd has to see.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::TestClient;
use crate::codex::Codex;
use crate::home::{CodexConfig, Home};
use crate::model::MockModel;
use crate::{process, wait};

/// A codex that listens, with its scripted model. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct NativeListener {
    child: Child,
    model: MockModel,
    home: Home,
}

impl NativeListener {
    /// Starts it in `home` and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not listen.
    #[track_caller]
    pub fn start(codex: &Codex, home: Home, config: &CodexConfig) -> NativeListener {
        let model = MockModel::start().expect("loopback has a free port");
        home.write_codex_config(&model.base_url(), config).expect("the home can be written");
        let mut command = home.command(&codex.native);
        command.args(["app-server", "--listen"]).arg(format!("unix://{}", socket(&home).display()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(log(&home)).expect("the home can be written"));
        let child = command.spawn().expect("codex can be started");
        let mut native = NativeListener { child, model, home };
        wait::until("the native listener listens", || {
            let status = native.child.try_wait().expect("a child can be waited for");
            assert!(status.is_none(), "the native listener ended");
            UnixStream::connect(native.socket()).is_ok()
        });
        native
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.home)
    }

    /// Returns its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Returns its model.
    pub fn model(&self) -> &MockModel {
        &self.model
    }

    /// Connects a client that has not sent anything yet.
    #[track_caller]
    pub fn raw_client(&self, name: &str) -> TestClient {
        TestClient::connect_websocket(name, &self.socket())
    }

    /// Connects a client and initializes it.
    #[track_caller]
    pub fn client(&self, name: &str) -> TestClient {
        let mut client = self.raw_client(name);
        client.initialize();
        client
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX)), signal);
    }

    /// Waits until it has exited.
    ///
    /// # Panics
    ///
    /// When it does not exit.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait::poll(wait::PATIENCE, || self.child.try_wait().ok().flatten()).expect("the native listener ends")
    }
}

fn socket(home: &Home) -> PathBuf {
    home.runtime().join("native")
}

fn log(home: &Home) -> PathBuf {
    home.root().join("native.log")
}

impl Drop for NativeListener {
    fn drop(&mut self) {
        // Once to stop, a second time not to wait for turns.
        for _ in 0..2 {
            if self.child.try_wait().is_ok_and(|status| status.is_none()) {
                self.signal(Signal::SIGTERM);
            }
        }
        if wait::poll(Duration::from_secs(5), || self.child.try_wait().transpose()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // What the listener leaves is not our fault, and still must not stay.
        process::sweep(self.home.root(), Duration::from_secs(1));
        if std::thread::panicking() {
            let log = fs::read_to_string(log(&self.home)).unwrap_or_default();
            eprintln!("--- stderr of the native listener ---\n{log}--- end of its stderr ---");
        }
    }
}
