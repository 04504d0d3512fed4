//! Ctrl-C: what was started ends, and the temporary world goes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use codexd_tests::process;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// The folder of the temporary world, once there is one.
pub(crate) type World = Arc<OnceLock<PathBuf>>;

/// How long everything may take to end when it is told to.
const ENDING: Duration = Duration::from_secs(5);

/// From now on a signal that ends this program cleans up first.
///
/// To be called before any thread is started: they inherit the mask. Programs started later do not.
pub(crate) fn clean_up_afterwards() -> World {
    let world = World::default();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_ok() {
        let world = Arc::clone(&world);
        std::thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            if let Some(root) = world.get() {
                clean_up(root);
            }
            eprintln!("\n\n  {signal}: ended, and cleaned up\n");
            end(signal);
        });
    }
    world
}

/// Ends this program with the code that a shell gives to one that a signal has ended.
#[expect(
    clippy::disallowed_methods,
    reason = "main waits for what has just been ended; what it would drop is cleaned up"
)]
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
