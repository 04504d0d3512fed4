//! A user's world for one test: home, runtime, state and configuration directories in one temporary
//! directory, and nothing of the real environment but `PATH`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, umask};
use tempfile::TempDir;

use crate::environment;

/// A temporary world; it goes when dropped.
#[derive(Debug)]
pub struct Home {
    root: TempDir,
}

/// What the tests vary in codex's `config.toml`.
#[derive(Clone, Debug)]
pub struct CodexConfig {
    /// A model codex does not know has sub-agents but no `apply_patch`; see [`crate::model`].
    pub model: String,
    /// `never` asks nothing. To be asked for nearly every command, start the thread with
    /// `"approvalPolicy": "untrusted"`: in the file, 0.169 refuses that value.
    pub approval_policy: String,
    /// `danger-full-access` runs commands without the sandbox helper.
    pub sandbox_mode: String,
    /// HTTP retries before a turn fails; codex's own default when `None`.
    pub request_max_retries: Option<u32>,
    /// Retries of a broken stream before a turn fails; codex's own default when `None`.
    pub stream_max_retries: Option<u32>,
    /// Seconds an idle thread without subscribers stays loaded; codex's own default when `None`.
    pub thread_unload_delay_secs: Option<u32>,
    /// More TOML, put at the end; so it starts with a table.
    pub more: String,
}

impl Default for CodexConfig {
    fn default() -> CodexConfig {
        CodexConfig {
            model: "mock-model".to_owned(),
            approval_policy: "on-request".to_owned(),
            sandbox_mode: "danger-full-access".to_owned(),
            request_max_retries: Some(0),
            stream_max_retries: Some(0),
            thread_unload_delay_secs: None,
            more: String::new(),
        }
    }
}

impl Home {
    /// Makes the directories, all with mode 0700, and gives this process and what it starts the usual mask for new files,
    /// whatever that of its starter is.
    ///
    /// # Errors
    ///
    /// When the temporary directory cannot be written.
    pub fn new() -> io::Result<Home> {
        umask(Mode::from_bits_truncate(0o022));
        // Unique: it is also what marks a process as one of this test, see `crate::process`.
        let root = tempfile::Builder::new()
            .prefix("codexd-t")
            .tempdir_in(environment::temporary_directory(environment::is_short)?)?;
        let home = Home { root };
        for directory in
            [home.home(), home.runtime(), home.state(), home.config(), home.codex_home(), home.project()]
        {
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        }
        fs::set_permissions(home.root(), fs::Permissions::from_mode(0o700))?;
        // Here codex ends its search for the repository of a thread, whatever is in the temporary directory. Its own
        // sandbox leaves one of these in each directory it may write.
        fs::create_dir(home.project().join(".git"))?;
        Ok(home)
    }

    /// The directory all others are in. It has the canonical path, as codex writes paths.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `HOME`.
    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// `XDG_RUNTIME_DIR`.
    pub fn runtime(&self) -> PathBuf {
        self.root().join("run")
    }

    /// `XDG_STATE_HOME`.
    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// `XDG_CONFIG_HOME`.
    pub fn config(&self) -> PathBuf {
        self.root().join("config")
    }

    /// `CODEX_HOME`.
    pub fn codex_home(&self) -> PathBuf {
        self.root().join("codex")
    }

    /// A directory for threads to work in; codex trusts it.
    pub fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    /// Returns the variables of this world, without `PATH`.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("HOME", self.home().into()),
            ("XDG_RUNTIME_DIR", self.runtime().into()),
            ("XDG_STATE_HOME", self.state().into()),
            ("XDG_CONFIG_HOME", self.config().into()),
            ("CODEX_HOME", self.codex_home().into()),
        ]
    }

    /// Returns a command that runs in this world: cleared environment, [`environment::path`], the project
    /// as its working directory.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", environment::path());
        // Written by a program built for coverage; without it the profile lands in the project.
        if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
            command.env("LLVM_PROFILE_FILE", profile);
        }
        command.envs(self.variables()).current_dir(self.project());
        command
    }

    /// Writes codexd's own configuration file, where it looks for it by default.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_config(&self, text: &str) -> io::Result<()> {
        let directory = self.config().join("codexd");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("config.toml"), text)
    }

    /// Writes codex's `config.toml` with the model server at `base_url` as its only provider.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_codex_config(&self, base_url: &str, config: &CodexConfig) -> io::Result<()> {
        let line = |key: &str, value: Option<u32>| {
            value.map(|value| format!("{key} = {value}\n")).unwrap_or_default()
        };
        let text = format!(
            "model = {model:?}\n\
             model_provider = \"mock\"\n\
             approval_policy = {approval:?}\n\
             sandbox_mode = {sandbox:?}\n\
             {unload}\n\
             [model_providers.mock]\n\
             name = \"mock\"\n\
             base_url = {base_url:?}\n\
             wire_api = \"responses\"\n\
             requires_openai_auth = false\n\
             {request_retries}{stream_retries}\n\
             [analytics]\n\
             enabled = false\n\
             \n\
             [projects.{project:?}]\n\
             trust_level = \"trusted\"\n\
             \n\
             {more}\n",
            model = config.model,
            approval = config.approval_policy,
            sandbox = config.sandbox_mode,
            unload = line("thread_unload_delay_secs", config.thread_unload_delay_secs),
            request_retries = line("request_max_retries", config.request_max_retries),
            stream_retries = line("stream_max_retries", config.stream_max_retries),
            project = self.project(),
            more = config.more,
        );
        fs::write(self.codex_home().join("config.toml"), text)
    }
}
