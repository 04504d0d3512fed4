//! The handshakes: one with the upstream, and one with each client, which codexd answers from the first.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Delivered, ErrorAnswer, INVALID_REQUEST, OVERLOADED};
use super::delivery::{OptOuts, Topic};
use super::pacing::PendingKind;
use super::session::{Declared, SessionState};
use super::{Action, OrphanedTurns, Phase, Router};
use crate::id::{ClientId, RequestId};
use crate::json::Span;
use crate::json::edit::{Edits, read_string, write_string};
use crate::json::scan::{has_members, member, member_at, skip_space};
use crate::stderr::printable;

/// Bytes of the parameters of a client's `initialize`. They are parsed into a tree, which takes many times their
/// size in memory, and time in which no other client is served.
const MAX_PARAMS_BYTES: usize = 1 << 20;

/// Bytes of either part of a `configWarning` that are shown.
const CONFIG_WARNING_BYTES: usize = 400;

/// The response to an `initialize` that is too long.
const LONG_PARAMS: ErrorAnswer<'static> = ErrorAnswer {
    code: INVALID_REQUEST,
    message: "Invalid request: the parameters of `initialize` are longer than 1 MiB",
    reason: "invalidRequest",
    delivered: Delivered::No,
    retryable: false,
};

/// The upstream's response to `initialize`.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// The result object.
    pub(super) result: Box<[u8]>,
    pub(super) user_agent: Option<String>,
    /// The `configWarning`s of the start, then the last `remoteControl/status/changed`. Each client gets a copy.
    sticky: Vec<Sticky>,
    /// Whether the upstream has reported everything that it reports at its start.
    started: bool,
}

/// A notification that each client gets after its initialize.
#[derive(Debug)]
struct Sticky {
    method: Box<[u8]>,
    line: Box<[u8]>,
}

impl Handshake {
    /// Keeps a notification for clients that initialize later, in place of an earlier one with the same method.
    pub(super) fn keep(&mut self, method: &[u8], line: &[u8]) {
        self.started = true;
        self.sticky.retain(|kept| *kept.method != *method);
        self.sticky.push(Sticky { method: method.into(), line: line.into() });
    }

    /// Keeps a notification of the upstream's start for clients that initialize later. Returns whether it is one.
    ///
    /// The upstream writes those right after its response to `initialize`, before its first
    /// `remoteControl/status/changed` and any other response (measured).
    pub(super) fn keep_at_start(&mut self, method: &[u8], line: &[u8]) -> bool {
        if !self.started {
            self.sticky.push(Sticky { method: method.into(), line: line.into() });
        }
        !self.started
    }

    /// Records that the upstream has answered another request than `initialize`.
    pub(super) fn has_started(&mut self) {
        self.started = true;
    }

    /// Returns the upstream's warnings of a particular setting, as it words them: those with details. The others
    /// are advice that it gives at every start, for instance to install a sandbox.
    pub(super) fn config_warnings(&self) -> impl Iterator<Item = String> {
        let particular = |kept: &&Sticky| {
            member_at(&kept.line, 0, &["params", "details"])
                .is_some_and(|d| d.of(&kept.line).starts_with(b"\""))
        };
        self.sticky.iter().filter(particular).filter_map(|kept| config_warning(&kept.method, &kept.line))
    }

    /// Returns the version in the upstream's user agent.
    pub(super) fn version(&self) -> Option<&str> {
        version_of(self.user_agent.as_deref()?)
    }
}

/// Returns the version in a user agent of the upstream: `NAME/VERSION (...)`.
pub fn version_of(user_agent: &str) -> Option<&str> {
    let (_, rest) = user_agent.split_once('/')?;
    rest.split([' ', '(']).next().filter(|v| !v.is_empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeParams {
    client_info: ClientInfo,
    capabilities: Option<InitializeCapabilities>,
}

/// The parameters of `initialize`, with all members of the upstream's schema in its order: they can be given by
/// position, and a wrong type is refused.
#[derive(Deserialize)]
struct ClientInfo {
    name: String,
    #[serde(rename = "title")]
    _title: Option<String>,
    version: String,
}

/// See [`ClientInfo`].
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeCapabilities {
    #[serde(default, rename = "requiredHumanApproval")]
    _required_human_approval: bool,
    #[serde(default, rename = "explicitGatewayOauth")]
    _explicit_gateway_oauth: bool,
    #[serde(default)]
    experimental_api: bool,
    #[serde(default)]
    request_attestation: bool,
    #[serde(default, rename = "mcpServerOpenaiFormElicitation")]
    _mcp_server_openai_form_elicitation: bool,
    opt_out_notification_methods: Option<Vec<String>>,
    #[serde(rename = "extensions")]
    _extensions: Option<BTreeMap<String, Value>>,
}

impl Router {
    /// Sends codexd's own `initialize`, with the experimental interface and without opt-outs, so that codexd gets
    /// everything that any client can get.
    pub(super) fn begin_handshake(&mut self) {
        let name = self.config.originator.clone();
        let version = self.config.identity.version.clone();
        self.send_own("initialize", PendingKind::Initialize, |out| {
            out.extend_from_slice(b"{\"clientInfo\":{\"name\":");
            write_string(out, &name);
            out.extend_from_slice(b",\"title\":\"codexd\",\"version\":");
            write_string(out, &version);
            out.extend_from_slice(b"},\"capabilities\":{\"experimentalApi\":true}}");
        });
    }

    /// Handles the upstream's response to `initialize`.
    pub(super) fn handshake_answered(&mut self, line: &[u8], failed: bool, body: Span) {
        if failed {
            let message = member(line, body.start, b"message")
                .and_then(|text| read_string(text.of(line)))
                .unwrap_or_else(|| String::from_utf8_lossy(body.of(line)).into_owned());
            self.actions.push_back(Action::UpstreamRefused { message });
            return;
        }
        if !body.of(line).starts_with(b"{") {
            let message = "its answer to `initialize` is not an object".to_owned();
            self.actions.push_back(Action::UpstreamRefused { message });
            return;
        }
        self.handshake.result = body.of(line).into();
        self.handshake.user_agent =
            member(line, body.start, b"userAgent").and_then(|text| read_string(text.of(line)));
        self.pacing.send_own_notification(b"{\"method\":\"initialized\"}");
        if self.phase == Phase::Starting {
            self.phase = Phase::Serving;
        }
        self.actions.push_back(Action::UpstreamReady);
        self.replay_early();
    }

    /// Handles what clients sent while the upstream was starting, in the order in which the clients connected.
    pub(super) fn replay_early(&mut self) {
        for (client, lines) in self.sessions.take_early() {
            for line in lines {
                self.client_line(self.now(), client, &line);
            }
        }
    }

    /// Answers a client's `initialize`.
    pub(super) fn initialize_client(
        &mut self,
        client: ClientId,
        id: &RequestId,
        line: &[u8],
        params: Option<Span>,
    ) {
        if params.is_some_and(|span| span.end - span.start > MAX_PARAMS_BYTES) {
            return self.refuse(client, Some(id), &LONG_PARAMS);
        }
        let (params, own) = match read_params(line, params) {
            Ok(read) => read,
            Err(message) => return self.refuse_native(client, id, &message),
        };
        if self.sessions.get(client).is_none_or(|s| s.state() != SessionState::AwaitingInitialize) {
            return self.refuse_native(client, id, "Already initialized");
        }
        if !is_header_value(&params.client_info.name) {
            let message = format!(
                "Invalid clientInfo.name: '{}'. Must be a valid HTTP header value.",
                params.client_info.name
            );
            return self.refuse_native(client, id, &message);
        }
        if self.phase == Phase::Draining {
            return self.refuse(
                client,
                Some(id),
                &ErrorAnswer {
                    code: OVERLOADED,
                    message: "codexd is stopping and takes no new clients; connect again later",
                    reason: "draining",
                    delivered: Delivered::No,
                    retryable: true,
                },
            );
        }
        let capabilities = params.capabilities.unwrap_or_default();
        let mut opt_outs = OptOuts::default();
        if !capabilities.experimental_api {
            opt_outs.known = self.routes.experimental;
        }
        for method in capabilities.opt_out_notification_methods.unwrap_or_default() {
            match self.routes.notification(method.as_bytes()) {
                Some((_, bit)) => opt_outs.known |= bit,
                None => drop(opt_outs.unknown.insert(method.into_bytes().into())),
            }
        }
        let result = self.client_result(&params.client_info);
        let declared = Declared {
            name: params.client_info.name,
            version: params.client_info.version,
            experimental: capabilities.experimental_api,
            attestation: capabilities.request_attestation,
            orphaned_turns: own.orphaned_turns,
            ends_with_daemon: own.ends_with_daemon,
        };
        self.sessions.initialized(client, declared);
        self.note_connected(client);
        self.delivery.initialized(client, opt_outs);
        self.delivery.reply_with(client, |out| {
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"result\":");
            out.extend_from_slice(&result);
            out.push(b'}');
        });
        for Sticky { method, line } in &self.handshake.sticky {
            let topic = match self.routes.notification(method) {
                Some((_, bit)) => Topic::Known(bit),
                None => Topic::Unknown(method),
            };
            self.delivery.notify(client, topic, line);
        }
    }

    /// Returns the upstream's result, with the client's own name and version in the user agent and with the member
    /// `codexd`.
    fn client_result(&self, info: &ClientInfo) -> Vec<u8> {
        let result = &self.handshake.result;
        let identity = &self.config.identity;
        let mut edits = Edits::new();
        let suffix = format!(" ({}; {})", self.config.originator, identity.version);
        if let Some(agent) = &self.handshake.user_agent
            && let Some(base) = agent.strip_suffix(&suffix)
            && let Some(span) = member(result, 0, b"userAgent")
        {
            let mut text = Vec::new();
            let suffix = format!("{}; {}", info.name, info.version);
            let mut agent = format!("{base} ({})", suffix.trim());
            if !is_header_value(&agent) {
                agent = agent.chars().map(|c| if matches!(c, ' '..='~') { c } else { '_' }).collect();
            }
            write_string(&mut text, &agent);
            edits.replace_owned(span, text);
        }
        let mut mark = b"\"codexd\":{\"version\":".to_vec();
        write_string(&mut mark, &identity.version);
        mark.extend_from_slice(b",\"instance\":");
        write_string(&mut mark, &identity.instance);
        mark.extend_from_slice(b",\"generation\":");
        crate::id::write_u64(&mut mark, identity.generation);
        mark.push(b'}');
        if has_members(result, 0) {
            mark.push(b',');
        }
        let open = skip_space(result, 0) + 1;
        edits.replace_owned(Span { start: open, end: open }, mark);
        let mut out = Vec::new();
        edits.write(result, &mut out);
        out
    }
}

/// Returns the text of a `configWarning` in one line; `None` for another method.
pub fn config_warning(method: &[u8], line: &[u8]) -> Option<String> {
    if method != b"configWarning" {
        return None;
    }
    let text = |name| member_at(line, 0, &["params", name]).and_then(|text| read_string(text.of(line)));
    let parts = [text("summary"), text("details")].into_iter().flatten();
    let parts: Vec<String> =
        parts.map(|part| printable(part.replace('\n', " ").as_bytes(), CONFIG_WARNING_BYTES)).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// What a client declares to codexd: the parameter `codexd`.
#[derive(Debug)]
struct OwnParams {
    orphaned_turns: Option<OrphanedTurns>,
    ends_with_daemon: bool,
}

/// Parses the parameters, with the upstream's error messages. Also reads `codexd`, which is codexd's own: unknown values
/// in it are ignored.
fn read_params(line: &[u8], params: Option<Span>) -> Result<(InitializeParams, OwnParams), String> {
    let value: Value = match params {
        Some(span) => serde_json::from_slice(span.of(line)).map_err(|e| format!("Invalid request: {e}"))?,
        None => Value::Null,
    };
    if value.is_null() {
        return Err("Invalid request: missing field `params`".to_owned());
    }
    let declared = |name| value.get("codexd").and_then(|own: &Value| own.get(name));
    let own = OwnParams {
        orphaned_turns: declared("orphanedTurns").and_then(|policy| OrphanedTurns::deserialize(policy).ok()),
        ends_with_daemon: declared("endsWithDaemon") == Some(&Value::Bool(true)),
    };
    let params = InitializeParams::deserialize(value).map_err(|e| format!("Invalid request: {e}"))?;
    Ok((params, own))
}

/// Returns whether a text is a valid HTTP header value, as the upstream requires: it has no control characters but
/// tabs.
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
