//! Whether a daemon that lost codex, or is upgraded, starts the next one itself.

use super::Restart;
use crate::lifecycle::{Intent, LifecycleEvent};

/// What decides whether a daemon has a successor.
///
/// A terminal interface connects again by itself, but starts no daemon. So where no supervisor and no socket unit starts
/// the next one, the daemon that ends does, if it lost codex while clients were connected that use the next one, and after an
/// upgrade in any case. Jobs and `codexd run` do not use it: they end with their turn. A daemon that somebody asked to stop
/// has no successor, even after the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Succession {
    /// Clients that were connected when codex was lost and use the next daemon; `None` while it is not.
    clients_at_loss: Option<usize>,
    stop_requested: bool,
    is_upgrade: bool,
}

impl Succession {
    /// Records a step of the lifecycle: the event, the intent after it, and how many clients are
    /// connected that use the next daemon.
    pub(super) fn observe(
        &mut self,
        event: LifecycleEvent,
        intent: Option<&Intent>,
        clients: impl FnOnce() -> usize,
    ) {
        self.stop_requested |= matches!(
            event,
            LifecycleEvent::StopRequested(_)
                | LifecycleEvent::InterruptRequested(_)
                | LifecycleEvent::KillRequested(_)
        );
        self.is_upgrade = intent == Some(&Intent::Upgrade);
        if matches!(intent, Some(Intent::UpstreamLost(_))) && self.clients_at_loss.is_none() {
            self.clients_at_loss = Some(clients());
        }
    }

    /// Whether this daemon starts the next one when it has ended.
    pub(super) fn is_due(self, restart: Restart) -> bool {
        restart == Restart::BySuccessor
            && (self.is_upgrade
                || self.clients_at_loss.is_some_and(|clients| clients > 0) && !self.stop_requested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{ChildStatus, LossKind, StopSource};

    const LOST: Intent = Intent::UpstreamLost(LossKind::Exited);
    const EXIT: LifecycleEvent = LifecycleEvent::UpstreamExited(ChildStatus::Signal(9));

    fn due(restart: Restart, steps: &[(LifecycleEvent, Option<&Intent>, usize)]) -> bool {
        let mut succession = Succession::default();
        for (event, intent, clients) in steps {
            succession.observe(*event, *intent, || *clients);
        }
        succession.is_due(restart)
    }

    #[test]
    fn a_loss_with_clients_has_a_successor_where_nobody_else_starts_one() {
        let steps = [(LifecycleEvent::HandshakeDone, None, 3), (EXIT, Some(&LOST), 2)];
        assert!(due(Restart::BySuccessor, &steps));
        for other in [Restart::Never, Restart::OnFailure, Restart::OnDemand] {
            assert!(!due(other, &steps), "{other:?}");
        }
    }

    #[test]
    fn the_clients_at_the_loss_count_and_not_those_at_the_end() {
        let left = [(EXIT, Some(&LOST), 1), (LifecycleEvent::Flushed, Some(&LOST), 0)];
        assert!(due(Restart::BySuccessor, &left));
        let none = [(EXIT, Some(&LOST), 0), (LifecycleEvent::Flushed, Some(&LOST), 1)];
        assert!(!due(Restart::BySuccessor, &none));
    }

    #[test]
    fn an_upgrade_has_a_successor_also_without_clients_unless_a_stop_follows() {
        let upgrade = Intent::Upgrade;
        let over = (LifecycleEvent::Quiet, Some(&upgrade), 0);
        assert!(due(Restart::BySuccessor, &[over]));
        assert!(!due(Restart::OnFailure, &[over]), "its supervisor starts the next one");
        let stop = Intent::Stop(StopSource::Control);
        let stopped = (LifecycleEvent::StopRequested(StopSource::Control), Some(&stop), 0);
        assert!(!due(Restart::BySuccessor, &[over, stopped]));
    }

    #[test]
    fn an_end_that_was_asked_for_has_no_successor() {
        for event in [
            LifecycleEvent::StopRequested(StopSource::Control),
            LifecycleEvent::InterruptRequested(StopSource::Control),
            LifecycleEvent::KillRequested(StopSource::Terminate),
        ] {
            let stop = Intent::Stop(StopSource::Control);
            assert!(!due(Restart::BySuccessor, &[(event, Some(&stop), 2), (EXIT, Some(&stop), 2)]));
            // Nor if the request came after the loss.
            assert!(!due(Restart::BySuccessor, &[(EXIT, Some(&LOST), 2), (event, Some(&LOST), 2)]));
        }
        let refused = Intent::HandshakeRefused;
        let steps = [(LifecycleEvent::HandshakeRefused, Some(&refused), 2), (EXIT, Some(&refused), 2)];
        assert!(!due(Restart::BySuccessor, &steps));
    }
}
