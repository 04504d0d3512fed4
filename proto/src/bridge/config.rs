//! The `config` with which the client has opened its threads, for their resumes with the next daemon.
//!
//! Codex keeps nothing of it but the model, the effort, the summary and the approval policy of a thread that has run
//! (measured with 0.169): MCP servers, the verbosity, web search and the rest are those of the configuration after a resume
//! by id alone. It may hold secrets, so it stays in the memory of the bridge.
//!
//! `experimentalRawEvents` is lost in the same way, and cannot be given again: `thread/resume` has no such parameter, and
//! ignores it (measured with 0.169).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::member::put_if_absent;
use crate::id::ThreadId;
use crate::message::{ClientMessage, Params, Reader};
use crate::routes::REQUESTS;
use crate::thread_book::gives_permissions;

/// Bytes of the longest `config` that is kept.
const CONFIG_BYTES: usize = 64 << 10;
/// Bytes of all that are kept; of more, the one that was given first is forgotten.
const ALL_BYTES: usize = 512 << 10;

/// Keys that codex keeps of a thread that has run. They may have changed since, so they are not given again.
const KEPT_BY_CODEX: [&str; 6] = [
    "model",
    "model_provider",
    "model_reasoning_effort",
    "model_reasoning_summary",
    "approval_policy",
    "approvals_reviewer",
];

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Configs {
    all: BTreeMap<ThreadId, Given>,
    given: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Given {
    config: Box<[u8]>,
    order: u64,
    /// A turn has run since.
    has_run: bool,
}

impl Configs {
    /// Records with which `config` a thread was opened; `None`: with none.
    pub(super) fn opened(&mut self, thread: &ThreadId, config: Option<Box<[u8]>>) {
        self.forget(thread);
        let Some(config) = config else { return };
        self.bytes += config.len();
        self.given += 1;
        self.all.insert(thread.clone(), Given { config, order: self.given, has_run: false });
        while self.bytes > ALL_BYTES {
            let oldest = self.all.iter().min_by_key(|(_, it)| it.order).map(|(thread, _)| thread.clone());
            let Some(oldest) = oldest else { return };
            self.forget(&oldest);
        }
    }

    /// Records that a turn runs on a thread.
    pub(super) fn runs(&mut self, thread: &ThreadId) {
        if let Some(given) = self.all.get_mut(thread) {
            given.has_run = true;
        }
    }

    pub(super) fn forget(&mut self, thread: &ThreadId) {
        if let Some(given) = self.all.remove(thread) {
            self.bytes -= given.config.len();
        }
    }

    /// Returns what a resume of a thread is to give again, as JSON text.
    pub(super) fn again(&self, thread: &ThreadId) -> Option<Vec<u8>> {
        let given = self.all.get(thread)?;
        let mut config: Map<String, Value> = serde_json::from_slice(&given.config).ok()?;
        config.retain(|key, _| !given.has_run || !KEPT_BY_CODEX.contains(&key.as_str()));
        (!config.is_empty()).then(|| Value::Object(config).to_string().into_bytes())
    }

    /// Returns the line of a `thread/resume` of the client with the `config` of its thread; `None` if it says its own, or if
    /// nothing is known.
    pub(super) fn complete(&self, line: &[u8], thread: &ThreadId) -> Option<Vec<u8>> {
        let config = self.again(thread)?;
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { method, params: Some(params), .. })) = reader.read(line) else {
            return None;
        };
        let order = REQUESTS.iter().find(|known| known.method.as_bytes() == &*method)?.order;
        put_if_absent(line, params, "config", order, config)
    }

    /// Returns how many bytes are kept.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Reads the `config` of a request that opens a thread, without what gives permissions: the daemon restores those, as they
/// were last. `None` if there is none, or too much.
pub(super) fn given(line: &[u8], params: &Params, order: &[&str]) -> Option<Box<[u8]>> {
    let text = params.get("config", order)?.of(line);
    if text.len() > CONFIG_BYTES {
        return None;
    }
    let mut config: Map<String, Value> = serde_json::from_slice(text).ok()?;
    config.retain(|key, _| !gives_permissions(key.as_bytes()));
    (!config.is_empty()).then(|| Value::Object(config).to_string().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: usize) -> ThreadId {
        ThreadId::new(id.to_string().as_bytes())
    }

    fn config(bytes: usize) -> Box<[u8]> {
        format!("{{\"x\":\"{}\"}}", "y".repeat(bytes)).into_bytes().into()
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_first_one_given_goes_first() {
        let mut configs = Configs::default();
        let length = config(50_000).len();
        for id in 0..ALL_BYTES / length {
            configs.opened(&thread(id), Some(config(50_000)));
        }
        let all = configs.bytes();
        configs.opened(&thread(0), Some(config(50_000)));
        assert_eq!(configs.bytes(), all);
        configs.opened(&thread(100), Some(config(50_000)));
        assert_eq!(configs.bytes(), all);
        let known = |id| configs.again(&thread(id)).is_some();
        assert!(known(0) && known(100) && known(2) && !known(1));
        configs.opened(&thread(2), None);
        configs.forget(&thread(100));
        assert_eq!(configs.bytes(), all - 2 * length);
    }

    #[test]
    fn what_codex_keeps_is_given_again_only_to_a_thread_that_has_not_run() {
        let mut configs = Configs::default();
        configs.opened(&thread(1), Some(br#"{"model":"m","model_verbosity":"low"}"#.as_slice().into()));
        assert_eq!(configs.again(&thread(1)).unwrap(), br#"{"model":"m","model_verbosity":"low"}"#);
        configs.runs(&thread(1));
        assert_eq!(configs.again(&thread(1)).unwrap(), br#"{"model_verbosity":"low"}"#);
        configs.opened(&thread(1), Some(br#"{"model":"m"}"#.as_slice().into()));
        configs.runs(&thread(1));
        assert_eq!(configs.again(&thread(1)), None);
    }

    #[test]
    fn permissions_and_what_is_too_long_are_not_read() {
        let read = |config: &str| {
            let line = format!(r#"{{"id":1,"method":"thread/start","params":{{"config":{config}}}}}"#);
            let mut reader = Reader::default();
            let Ok(Some(ClientMessage::Request { params, .. })) = reader.read(line.as_bytes()) else {
                panic!("{line}")
            };
            let text = given(line.as_bytes(), params.unwrap(), &[])?;
            Some(String::from_utf8(text.into()).unwrap())
        };
        let mixed = r#"{"sandbox_mode":"read-only","sandbox_workspace_write.network_access":true,"x":1}"#;
        assert_eq!(read(mixed).as_deref(), Some(r#"{"x":1}"#));
        for nothing in ["null", "{}", "[]", "5", r#"{"permissions":{}}"#] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(read(&format!("{{\"x\":\"{}\"}}", "y".repeat(CONFIG_BYTES))), None);
    }
}
