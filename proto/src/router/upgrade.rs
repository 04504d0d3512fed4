//! The wait before an upgrade: no new work, which can end without an upgrade.
//!
//! Clients stay, and others can connect: to follow what runs, and to answer its approvals. A client that keeps refused
//! requests, as `codexd connect` does, sends them again when the wait was called off.

use super::answer::{Delivered, ErrorAnswer, OVERLOADED};
use super::delivery::Topic;
use super::{Phase, Router};
use crate::id::write_u64;
use crate::time::Time;

/// Name of the notification that new work is refused.
const WAITS: &[u8] = b"notifications/broker/upgradeWaiting";

/// Name of the notification that new work is accepted again.
pub const UPGRADE_CALLED_OFF: &[u8] = b"notifications/broker/upgradeCalledOff";

/// For programs: why a request is refused that starts something before an upgrade.
pub const UPGRADING_REASON: &str = "upgrading";

/// The response to a request that starts something before an upgrade.
pub(super) const UPGRADING: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "codexd waits for running turns to end, to be upgraded then, and takes no new work; retry later",
    reason: UPGRADING_REASON,
    delivered: Delivered::No,
    retryable: true,
};

impl Router {
    /// Refuses new work, and notifies every client. `left_ms` is the time until that ends at the latest; `None`: no limit.
    pub fn refuse_new_work(&mut self, now: Time, left_ms: Option<u64>) {
        self.delivery.at(now);
        if self.phase == Phase::Serving {
            self.phase = Phase::Upgrading;
            self.notify_of_upgrade(WAITS, |params| {
                params.extend_from_slice(b"\"deadlineMs\":");
                match left_ms {
                    Some(ms) => write_u64(params, ms),
                    None => params.extend_from_slice(b"null"),
                }
                params.push(b',');
            });
        }
    }

    /// Accepts new work again, and notifies every client.
    pub fn accept_new_work(&mut self, now: Time) {
        self.delivery.at(now);
        if self.phase == Phase::Upgrading {
            self.phase = Phase::Serving;
            self.notify_of_upgrade(UPGRADE_CALLED_OFF, |_| {});
        }
    }

    fn notify_of_upgrade(&mut self, method: &'static [u8], params: impl FnOnce(&mut Vec<u8>)) {
        let mut line = b"{\"method\":\"".to_vec();
        line.extend_from_slice(method);
        line.extend_from_slice(b"\",\"params\":{");
        params(&mut line);
        line.extend_from_slice(b"\"generation\":");
        write_u64(&mut line, self.config.identity.generation);
        line.extend_from_slice(b"}}");
        self.delivery.notify_all(Topic::Unknown(method), &line);
        self.close_overflowed();
    }
}
