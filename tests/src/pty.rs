//! A program whose standard streams are a terminal. Of what it draws there, only the bytes are known; a screen is in
//! [`terminal`](crate::terminal).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::pty::{Winsize, openpty};
use parking_lot::Mutex;

use crate::wait;

/// A program whose standard streams are a terminal.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Pty {
    /// Starts a program on a terminal that is so many columns wide.
    ///
    /// # Errors
    ///
    /// When the system has no terminal to give, or the program cannot be started.
    pub fn start(command: &mut Command, columns: u16) -> io::Result<Pty> {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(Some(&size), None)?;
        let stream = || ends.slave.try_clone().map(Stdio::from);
        let child = command.stdin(stream()?).stdout(stream()?).stderr(stream()?).spawn()?;
        // The command keeps its copies; without them and this end, the end of the program is that of its output.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(ends.slave);
        let keyboard = File::from(ends.master);
        let mut output = keyboard.try_clone()?;
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Linux ends the output of a terminal with an error (EIO).
            while let Ok(length @ 1..) = output.read(&mut chunk) {
                shown.lock().extend_from_slice(&chunk[..length]);
            }
        });
        Ok(Pty { child, keyboard, screen, reader: Some(reader) })
    }

    /// Returns everything that has been shown, with what was typed where the terminal echoes it.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock()).replace("\r\n", "\n")
    }

    /// Types something. Ctrl-D is `\u{4}`.
    ///
    /// # Errors
    ///
    /// When no process has the terminal open any more.
    pub fn type_in(&mut self, text: &str) -> io::Result<()> {
        self.keyboard.write_all(text.as_bytes())
    }

    /// Waits for the end of the program; then everything it wrote has been shown.
    ///
    /// # Panics
    ///
    /// When it does not end in [`wait::PATIENCE`]; it is killed then.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait::poll(wait::PATIENCE, || child.try_wait().ok().flatten());
        let Some(status) = status else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            panic!("the program did not end; shown:\n{}", self.shown());
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        status
    }
}
