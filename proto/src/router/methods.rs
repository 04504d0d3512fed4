//! Which methods the running codex has that the routing table does not know.
//!
//! The upstream has no request that lists its methods, but it names all of them when it refuses an unknown one
//! (`` unknown variant `x`, expected one of `initialize`, ... ``, measured; the wording is serde's). A method that is
//! missing in the table is passed on by the default rule of [`routes`](crate::routes), and the status shows it.

use super::Router;
use super::pacing::PendingKind;
use crate::json::Span;
use crate::json::edit::read_string;
use crate::json::scan::member;
use crate::time::Time;

/// A method that no codex has.
const NO_METHOD: &str = "codexd/whichMethodsAreThere";

/// Methods that are kept. The list comes from the upstream, and the status has to fit on one screen.
const MAX_UNKNOWN: usize = 64;

impl Router {
    /// Sends the request that the upstream refuses with the names of its methods. Call it once, when the upstream
    /// is ready.
    ///
    /// The result is in [`UpstreamStatus::unknown_methods`](crate::status::UpstreamStatus). It stays empty if the
    /// upstream words its refusal differently.
    pub fn request_methods(&mut self, now: Time) {
        self.delivery.at(now);
        self.send_own(NO_METHOD, PendingKind::ListMethods, |out| out.extend_from_slice(b"{}"));
    }

    /// Handles the refusal.
    pub(super) fn methods_listed(&mut self, line: &[u8], body: Span) {
        let Some(text) = member(line, body.start, b"message").and_then(|text| read_string(text.of(line)))
        else {
            return;
        };
        let unknown = |method: &&str| self.routes.request(method.as_bytes()).is_none();
        self.unknown_methods = named(&text).filter(unknown).take(MAX_UNKNOWN).map(str::to_owned).collect();
    }
}

/// Returns the words in backticks that follow `expected`.
fn named(message: &str) -> impl Iterator<Item = &str> {
    let list = message.split_once(", expected ").map_or("", |(_, list)| list);
    list.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn the_names_are_those_that_are_expected() {
        let one = "Invalid request: unknown variant `x`, expected `initialize`";
        assert_eq!(named(one).collect::<Vec<_>>(), ["initialize"]);
        let many = "unknown variant `x`, expected one of `initialize`, `thread/start`, `a/b` at line 1";
        assert_eq!(named(many).collect::<Vec<_>>(), ["initialize", "thread/start", "a/b"]);
        for other in ["", "method `x` not found", "unknown variant `x`, there are no variants"] {
            assert_eq!(named(other).count(), 0, "{other}");
        }
    }
}
