//! The tasks of the core, and what happens when one of them panics.

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Starts tasks on the core's thread. A panic in one of them ends the daemon: half a core is none.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    panicked: mpsc::UnboundedSender<()>,
}

impl Tasks {
    /// Creates an empty set, and the end at which panics are reported.
    pub(super) fn new() -> (Tasks, mpsc::UnboundedReceiver<()>) {
        let (panicked, panics) = mpsc::unbounded_channel();
        (Tasks { tracker: TaskTracker::new(), panicked }, panics)
    }

    /// Starts a task.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let guard = PanicGuard(self.panicked.clone());
        self.tracker.spawn_local(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Waits until all of them have ended.
    pub(super) async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Reports a panic of the task that holds it.
struct PanicGuard(mpsc::UnboundedSender<()>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody listens any more: the core loop has ended.
            let _ = self.0.send(());
        }
    }
}
