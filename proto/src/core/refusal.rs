//! The refusal of connections above the number of clients.

use super::{Core, Room};
use crate::message::{ClientMessage, Reader, Rejection};
use crate::router::{Delivered, ErrorAnswer, OVERLOADED};
use crate::status::{StatusReport, Warning};

/// Why a connection cannot become a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    message: String,
    /// Number of the life of the daemon.
    generation: u64,
}

impl Refusal {
    /// Returns the reason as a text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Appends the response to a line, with its line feed. Returns whether there is one.
    ///
    /// A request gets -32001 with its id. A line that is not a message gets the same with a null id.
    pub fn answer(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let id = match Reader::default().read(line) {
            Ok(Some(ClientMessage::Request { id, .. })) => Some(id),
            Ok(_) | Err(Rejection::BadAnswer) => return false,
            Err(Rejection::NotAMessage { id, .. }) => id,
            Err(Rejection::NotJson(_)) => None,
        };
        let error = ErrorAnswer {
            code: OVERLOADED,
            message: &self.message,
            reason: "tooManyClients",
            delivered: Delivered::No,
            retryable: true,
        };
        error.write(out, id.as_ref(), self.generation);
        out.push(b'\n');
        true
    }
}

/// Returns the number of clients as the beginning of a sentence.
fn connected(clients: usize) -> String {
    match clients {
        1 => "1 client is connected".to_owned(),
        n => format!("{n} clients are connected"),
    }
}

impl Core {
    /// Returns how many clients can be connected at the same time.
    pub(super) fn max_clients(&self) -> usize {
        self.limits.max_clients.min(self.clients_with_files)
    }

    /// Returns why a new connection cannot become a client; `None` when it can.
    pub fn refusal(&self, generation: u64) -> Option<Refusal> {
        let connected = connected(self.router.clients());
        let why = match self.room() {
            Room::Free => return None,
            Room::Full => "as many as `limits.max_clients` allows",
            Room::NoFiles => "as many as the limit on open files leaves room for",
        };
        Some(Refusal { message: format!("{connected}, {why}; connect again later"), generation })
    }

    /// Warns before new clients have to be refused.
    fn near_full_warning(&self) -> Option<Warning> {
        let (clients, most) = (self.router.clients(), self.max_clients());
        (clients > 1 && clients * 10 >= most * 9).then(|| Warning {
            code: "nearLimit".to_owned(),
            message: format!("{} of {most} possible", connected(clients)),
            hint:
                "end clients that are not needed, or set `limits.max_clients` to more and `codexd ctl reload`"
                    .to_owned(),
        })
    }

    /// Warns while new clients are refused or soon will be.
    pub(super) fn full_warning(&self, report: &StatusReport) -> Option<Warning> {
        let connected = connected(self.router.clients());
        let (why, hint) = match self.room() {
            Room::Free => return self.near_full_warning(),
            Room::Full => (
                "as many as `limits.max_clients` allows".to_owned(),
                "end clients that are not needed, or set `limits.max_clients` to more and `codexd ctl reload`",
            ),
            Room::NoFiles => (
                format!("as many as the limit on open files, {}, leaves room for", report.open_files_limit),
                "end clients that are not needed, or raise the hard limit (`LimitNOFILE=` of the unit, or \
                 `ulimit -Hn`) and start the daemon again",
            ),
        };
        Some(Warning {
            code: "tooManyClients".to_owned(),
            message: format!("new clients are refused: {connected}, {why}"),
            hint: hint.to_owned(),
        })
    }
}
