//! A program in a terminal, driven by tmux: keys go in, the screen is read.

use std::path::PathBuf;
use std::process::Command;

use crate::home::Home;
use crate::output::Output;
use crate::{environment, skip, wait};

/// A terminal in which a program runs; it ends with it.
///
/// It belongs to the world of a [`Home`] and is to be dropped before that.
#[derive(Debug)]
pub struct Terminal {
    /// Of a tmux server of its own.
    socket: PathBuf,
}

impl Terminal {
    /// Returns whether tmux is there; if not, the test is skipped, see [`skip::unless_found`].
    ///
    /// # Panics
    ///
    /// When it is not there and `CI` is set: there, that is a failure.
    pub fn is_available() -> bool {
        let runs = tmux().arg("-V").output().is_ok_and(|output| output.status.success());
        skip::unless_found(if runs { Ok(()) } else { Err("no tmux".to_owned()) }).is_some()
    }

    /// Runs a command line of the shell in a terminal of 120 columns and 50 lines, in the world `home`.
    ///
    /// # Panics
    ///
    /// When tmux does not start it.
    #[track_caller]
    pub fn run(home: &Home, command: &str) -> Terminal {
        let terminal = Terminal { socket: home.root().join("tmux") };
        let mut tmux = home.command("tmux".as_ref());
        tmux.args(["-u", "-f", "/dev/null", "-S"]).arg(&terminal.socket);
        tmux.args(["new-session", "-d", "-x", "120", "-y", "50"]).env("LC_ALL", "C.UTF-8");
        // The account's shell may be one that refuses logins.
        tmux.env("SHELL", "/bin/sh");
        // What the program leaves on the screen at its end stays readable.
        let lasting = format!("{command}; echo; echo \"ended: $?\"; exec sleep 600");
        let _ = Output::of(tmux.arg(lasting)).expect_code(0);
        terminal
    }

    /// Returns the text on the screen.
    #[track_caller]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J"]).stdout
    }

    /// Types text as it is.
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        let _ = self.tmux(&["send-keys", "-l", text]);
    }

    /// Presses a key by its name in tmux, for instance `Enter`, `Escape` or `y`.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let _ = self.tmux(&["send-keys", key]);
    }

    /// Waits until `text` is on the screen, which is returned.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`], with the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let found = wait::poll(wait::PATIENCE, || {
            let screen = self.screen();
            screen.contains(text).then_some(screen)
        });
        match found {
            Some(screen) => screen,
            None => panic!("waited in vain for `{text}`; the screen:\n{}", self.screen()),
        }
    }

    /// Waits until `text` is not on the screen.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`], with the screen.
    #[track_caller]
    pub fn wait_without(&self, text: &str) {
        if wait::poll(wait::PATIENCE, || (!self.screen().contains(text)).then_some(())).is_none() {
            panic!("`{text}` stays on the screen:\n{}", self.screen());
        }
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> Output {
        Output::of(tmux().arg("-S").arg(&self.socket).args(arguments)).expect_code(0)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The server hangs up on the programs in it and ends.
        let _ = tmux().arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

/// A client of tmux, which writes all letters as they are and does not run in another tmux.
fn tmux() -> Command {
    let mut tmux = Command::new("tmux");
    tmux.env_clear().env("PATH", environment::path()).env("LC_ALL", "C.UTF-8");
    tmux
}
