//! Which limits make sense together.

use codexd_proto::router::Limits;

use crate::error::Error;

/// Checks limits that were set by hand.
///
/// # Errors
///
/// With exit code 78, naming the key, its value and what it may be.
pub(super) fn check(limits: &Limits) -> Result<(), Error> {
    for (name, value, least) in [
        ("max_message_bytes", limits.max_message_bytes, 64 << 10),
        ("client_queue_soft_bytes", limits.client_queue_soft_bytes, 1 << 10),
        ("max_clients", limits.max_clients, 1),
        ("max_queued_requests_per_client", limits.queued_requests_per_client, 1),
        ("window", limits.window, 1),
    ] {
        if value < least {
            return Err(Error::config(format!("`limits.{name}` is {value} and must be {least} or more")));
        }
    }
    // The upstream's own queue holds 128; further messages are lost without a response.
    if limits.window > 100 {
        return Err(Error::config(format!("`limits.window` is {} and must be 100 or less", limits.window)));
    }
    if limits.client_queue_hard_bytes < limits.client_queue_soft_bytes {
        return Err(Error::config(
            "`limits.client_queue_hard_bytes` is less than `limits.client_queue_soft_bytes`",
        ));
    }
    if limits.client_queue_max_bytes < limits.client_queue_hard_bytes {
        return Err(Error::config(
            "`limits.client_queue_max_bytes` is less than `limits.client_queue_hard_bytes`",
        ));
    }
    Ok(())
}
