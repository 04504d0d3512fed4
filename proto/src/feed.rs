//! What happens, as it happens: events of the daemon, and frames of its data plane. Plain data.
//!
//! The JSON form is camelCase and stable, as that of the [status](crate::status) is. No prompt, answer or argument is in
//! it, but for the bodies of frames, where somebody asks for these.

use serde::{Deserialize, Serialize};

use crate::listing::ClientName;
use crate::status::Warning;

/// One thing that happened. Members that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FeedEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// `stateChanged`, `clientConnected`, `clientLeft`, `turnStarted`, `turnEnded`, `turnSilent`,
    /// `silentTurnInterrupted`, `approvalRequested`, `approvalAnswered`, `approvalWithdrawn`, `interruptRefused`, `warningRaised`, `warningCleared`,
    /// `upgradeWaiting`, `upgradeCalledOff`, `upgradeRefused`, `upgrading`, or `missed`.
    pub kind: String,
    /// The state that was entered, in the words of the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The client: of an approval that was answered the one that did, of a turn the one that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
    /// The process of a client that has connected or left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<String>,
    /// The turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// The server request, as `ctl requests` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The method of the server request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The clients that can answer it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen_by: Vec<ClientName>,
    /// How a turn ended: `completed`, `failed`, `interrupted`, `lost` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// How long a client was connected, a turn ran, an approval waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<Warning>,
    /// How many events were not sent because the subscriber did not read them in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// Why, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Which frames a monitor gets. An empty list lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrameFilter {
    /// Numbers of clients; frames between codexd and codex are of none.
    pub clients: Vec<u64>,
    /// Methods, or how they begin.
    pub methods: Vec<String>,
    /// Directions.
    pub directions: Vec<Direction>,
    /// Whether frames carry their bodies, with secrets masked.
    pub bodies: bool,
}

impl FrameFilter {
    /// Returns whether a frame passes.
    pub fn passes(&self, frame: &Frame) -> bool {
        let client =
            self.clients.is_empty() || frame.client.is_some_and(|client| self.clients.contains(&client));
        let named = |method: &String| self.methods.iter().any(|prefix| method.starts_with(prefix.as_str()));
        let method = self.methods.is_empty() || frame.method.as_ref().is_some_and(named);
        client && method && (self.directions.is_empty() || self.directions.contains(&frame.direction))
    }
}

/// On which way a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From a client to codexd.
    #[default]
    FromClient,
    /// From codexd to codex.
    ToCodex,
    /// From codex to codexd.
    FromCodex,
    /// From codexd to a client.
    ToClient,
}

impl Direction {
    /// Returns the word used in JSON and on the terminal.
    pub const fn word(self) -> &'static str {
        match self {
            Direction::FromClient => "fromClient",
            Direction::ToCodex => "toCodex",
            Direction::FromCodex => "fromCodex",
            Direction::ToClient => "toClient",
        }
    }
}

/// One message on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Frame {
    /// When codexd read or wrote it, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// On which way.
    pub direction: Direction,
    /// The client, unless it is between codexd and codex.
    pub client: Option<u64>,
    /// `request`, `notification`, `response`, `error`, or `other`.
    pub kind: String,
    /// The method; of a response, that of its request, if the monitor has seen it.
    pub method: Option<String>,
    /// The id as it stands in the message.
    pub id: Option<String>,
    /// Its length, without what framing adds.
    pub bytes: u64,
    /// Of a response, the time since its request passed the same place, in microseconds.
    pub latency_us: Option<u64>,
    /// The message, with secrets masked, where somebody asked for it; absent if it has more than 4 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// Some frames, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Frames {
    /// The frames.
    pub frames: Vec<Frame>,
    /// How many messages before these are left out because they came faster than a monitor reads. Whether they would have
    /// passed the filter's methods is not known.
    pub missed: u64,
    /// Whether this is the last one because the monitor did not read them fast enough.
    pub dropped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_pass_what_it_names() {
        let frame = Frame {
            direction: Direction::ToClient,
            client: Some(3),
            method: Some("turn/start".to_owned()),
            ..Frame::default()
        };
        let all = FrameFilter::default();
        assert!(all.passes(&frame) && all.passes(&Frame::default()));
        for (filter, passes) in [
            (FrameFilter { clients: vec![3, 4], ..FrameFilter::default() }, true),
            (FrameFilter { clients: vec![4], ..FrameFilter::default() }, false),
            (FrameFilter { methods: vec!["turn/".to_owned()], ..FrameFilter::default() }, true),
            (FrameFilter { methods: vec!["thread/".to_owned()], ..FrameFilter::default() }, false),
            (FrameFilter { directions: vec![Direction::ToClient], ..FrameFilter::default() }, true),
            (FrameFilter { directions: vec![Direction::FromCodex], ..FrameFilter::default() }, false),
        ] {
            assert_eq!(filter.passes(&frame), passes, "{filter:?}");
            assert!(!filter.passes(&Frame::default()), "{filter:?}");
        }
    }
}
