//! Commands run for clients: `command/exec` and `process/spawn`, and detached grandchildren.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

use codexd_tests::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getsid};
use serde_json::Value;

use crate::input::InputEvent;
use crate::rpc::Refusal;

/// First argument with which this program runs itself as a detached grandchild.
pub(crate) const HOLD: &str = "hold";

/// The commands that run.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    running: BTreeMap<Key, Pid>,
    anonymous: u64,
}

/// Which command: ids of `command/exec` and handles of `process/spawn` are two name spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A `processId`.
    Exec(String),
    /// A `command/exec` without an id.
    Anonymous(u64),
    /// A `processHandle`.
    Spawned(String),
}

/// Output of a command that streams.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) key: Key,
    pub(crate) stream: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Exited {
    pub(crate) key: Key,
    /// The request to answer; of `command/exec`.
    pub(crate) request: Option<Value>,
    pub(crate) code: i32,
    /// Empty when it was streamed.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Commands {
    pub(crate) fn unnamed(&mut self) -> Key {
        self.anonymous += 1;
        Key::Anonymous(self.anonymous)
    }

    /// Starts a command; its output and its end come as events.
    pub(crate) fn start(
        &mut self,
        key: Key,
        request: Option<Value>,
        params: &Value,
        events: &Sender<InputEvent>,
    ) -> Result<(), Refusal> {
        if self.running.contains_key(&key) {
            return Err(Refusal::new(match &key {
                Key::Exec(id) => format!("duplicate active command/exec process id: {id:?}"),
                Key::Spawned(handle) => format!("duplicate active process handle: {handle:?}"),
                Key::Anonymous(_) => "duplicate".to_owned(),
            }));
        }
        let words: Vec<&str> =
            params["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let Some((program, arguments)) = words.split_first() else {
            return Err(Refusal::new("Invalid request: missing field `command`"));
        };
        let mut command = Command::new(program);
        // The real one gives each command a session; a group is enough to end it as a whole.
        command.args(arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = params["cwd"].as_str() {
            command.current_dir(directory);
        }
        let child = command.spawn().map_err(|error| Refusal {
            code: -32603,
            message: format!("failed to spawn command: {error}"),
        })?;
        self.running.insert(key.clone(), Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)));
        let streams = params["streamStdoutStderr"].as_bool().unwrap_or(false);
        let events = events.clone();
        std::thread::spawn(move || follow(child, key, request, streams, &events));
        Ok(())
    }

    /// Kills a command with all it has started; its end comes as an event.
    pub(crate) fn kill(&self, key: &Key) -> Result<(), Refusal> {
        match self.running.get(key) {
            Some(pid) => {
                let _ = killpg(*pid, Signal::SIGKILL);
                Ok(())
            }
            None => Err(Refusal::new(match key {
                Key::Spawned(handle) => format!("no active process for process handle {handle:?}"),
                Key::Exec(id) => format!("no active command/exec for process id {id:?}"),
                Key::Anonymous(_) => "no active command/exec".to_owned(),
            })),
        }
    }

    pub(crate) fn kill_all(&self) {
        for pid in self.running.values() {
            let _ = killpg(*pid, Signal::SIGKILL);
        }
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.running.remove(key);
    }
}

/// Reads a command to its end and then reports it, so that all output comes before.
fn follow(mut child: Child, key: Key, request: Option<Value>, streams: bool, events: &Sender<InputEvent>) {
    let read = |pipe: Option<Box<dyn Read + Send>>, stream: &'static str| {
        let (key, events) = (key.clone(), events.clone());
        std::thread::spawn(move || {
            let mut whole = Vec::new();
            let mut buffer = vec![0; 8192];
            let Some(mut pipe) = pipe else { return whole };
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                if streams {
                    let bytes = buffer[..length].to_vec();
                    let _ = events.send(InputEvent::Output(Output { key: key.clone(), stream, bytes }));
                } else {
                    whole.extend_from_slice(&buffer[..length]);
                }
            }
            whole
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), "stdout");
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), "stderr");
    let text = |bytes: std::thread::Result<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout.join()), text(stderr.join()));
    let code = match child.wait() {
        // As a shell says it, and as the real one does.
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(_) => -1,
    };
    let _ = events.send(InputEvent::Exited(Exited { key, request, code, stdout, stderr }));
}

/// Starts a grandchild that detaches itself into a session of its own and sleeps; with `hold_stdout` it
/// keeps the server's standard output open.
///
/// Returns when it is detached: from then on a signal to the server's group does not reach it.
pub(crate) fn detach(hold_stdout: bool) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own);
    command.arg(HOLD).stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(if hold_stdout { Stdio::inherit() } else { Stdio::null() });
    let child = command.spawn().map_err(|error| error.to_string())?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|error| error.to_string())?);
    match wait::poll(Duration::from_secs(10), || (getsid(Some(pid)) == Ok(pid)).then_some(())) {
        Some(()) => Ok(()),
        None => Err("the grandchild did not detach".to_owned()),
    }
}

/// Encodes bytes in base64 (RFC 4648, with padding): the protocol carries output so.
///
/// By hand, because only this fake needs it and only in one direction.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - u32::try_from(chunk.len()).unwrap_or(3)));
        for position in 0..4 {
            let index = (group >> (18 - 6 * position) & 63) as usize;
            let _ = match position <= chunk.len() as u32 {
                true => text.write_char(char::from(ALPHABET[index])),
                false => text.write_char('='),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_as_in_the_rfc() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
