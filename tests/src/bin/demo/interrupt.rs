//! Ctrl-C: what was started ends, and the temporary world goes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use codexd_tests::process;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// How long everything has to end when it is stopped.
const ENDING: Duration = Duration::from_secs(5);

/// What is to be cleaned up.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    root: OnceLock<PathBuf>,
    interrupted: AtomicBool,
}

impl World {
    /// From now on a signal that ends this program ends what runs in the world at `root` first, and removes it.
    ///
    /// To be called before any thread is started: they inherit the mask, and so do programs. `codexd` does
    /// not keep it.
    pub(crate) fn begin(&self, root: &Path) {
        let _ = self.0.root.set(root.to_owned());
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        if signals.thread_block().is_ok() {
            let world = self.clone();
            std::thread::spawn(move || {
                if let Ok(signal) = signals.wait() {
                    world.end_by(signal);
                }
            });
        }
    }

    /// Returns only when nothing is being cleaned up: then the program is about to end by a signal, and what
    /// fails meanwhile is no failure.
    pub(crate) fn wait_while_interrupted(&self) {
        while self.0.interrupted.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }

    fn end_by(&self, signal: Signal) -> ! {
        self.0.interrupted.store(true, Ordering::SeqCst);
        eprintln!("\n\n  {signal}: cleaning up\n");
        // The errors that the rest of the program prints while everything ends are of no interest.
        if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(&null);
            let _ = nix::unistd::dup2_stderr(&null);
        }
        if let Some(root) = self.0.root.get() {
            clean_up(root);
        }
        end(signal)
    }
}

/// Ends this program with the code that a shell gives to one that a signal has ended.
#[expect(clippy::disallowed_methods, reason = "what main would drop is cleaned up already")]
fn end(signal: Signal) -> ! {
    std::process::exit(128 + signal as i32)
}

fn clean_up(root: &Path) {
    // The first time the daemon lets running turns finish, the second time it does not.
    for _ in 0..2 {
        for process in process::marked(root) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGTERM);
        }
    }
    process::sweep(root, ENDING);
    let _ = std::fs::remove_dir_all(root);
}
