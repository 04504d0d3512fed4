//! One server with its model in a world of its own: the oracle, or codexd.

use std::path::Path;
use std::{fs, io};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::model::MockModel;
use codexd_tests::native::NativeListener;

/// What serves the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The real codex's own listener, over WebSocket.
    Native,
    /// codexd, a line for each message.
    Lines,
    /// codexd, over WebSocket.
    WebSocket,
}

/// What a script needs of its world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// Codex's configuration.
    pub(crate) config: CodexConfig,
    /// Whether the MCP server `mk` is configured.
    pub(crate) mcp: bool,
    /// Whether codex is the old one.
    pub(crate) old: bool,
    /// Files in the project: name and content.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

impl Setup {
    /// The version of codex that the script is for.
    pub(crate) fn version(&self) -> Version {
        if self.old { Version::Old } else { Version::Current }
    }
}

/// A running server. Dropped, it leaves nothing.
pub(crate) struct World {
    side: Side,
    server: Server,
}

enum Server {
    Native(Box<NativeListener>),
    Codexd(Box<TestDaemon>),
}

/// The first client of each script; natively it names the originator of all threads, so codexd is
/// configured with the same name.
pub(crate) const FIRST: &str = "A";

impl World {
    pub(crate) fn open(side: Side, codex: &Codex, setup: &Setup) -> World {
        let home = Home::new().unwrap();
        for (name, content) in setup.files {
            fs::write(home.project().join(name), content).unwrap();
        }
        if let Some(used) = codex.used_home() {
            copy(&used, &home.codex_home()).unwrap();
        }
        let mut config = setup.config.clone();
        if setup.mcp {
            config.more += &format!("[mcp_servers.mk]\ncommand = {:?}\n", binary::mock_mcp());
        }
        let server = match side {
            Side::Native => Server::Native(Box::new(NativeListener::start(codex, home, &config))),
            Side::Lines | Side::WebSocket => {
                let directory = home.config().join("codexd");
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("config.toml"), format!("client_name = {FIRST:?}\n")).unwrap();
                let daemon = TestDaemon::real(setup.version()).unwrap();
                let daemon = daemon.home(home).codex_config(|it| *it = config).ready();
                Server::Codexd(Box::new(daemon))
            }
        };
        World { side, server }
    }

    pub(crate) fn home(&self) -> &Home {
        match &self.server {
            Server::Native(native) => native.home(),
            Server::Codexd(daemon) => daemon.home(),
        }
    }

    pub(crate) fn model(&self) -> &MockModel {
        match &self.server {
            Server::Native(native) => native.model(),
            Server::Codexd(daemon) => daemon.model(),
        }
    }

    pub(crate) fn connect(&self, name: &str) -> TestClient {
        match (&self.server, self.side) {
            (Server::Native(native), _) => native.raw_client(name),
            (Server::Codexd(daemon), Side::WebSocket) => {
                TestClient::connect_websocket(name, &daemon.socket())
            }
            (Server::Codexd(daemon), _) => daemon.raw_client(name),
        }
    }
}

/// Copies what is in a directory.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
