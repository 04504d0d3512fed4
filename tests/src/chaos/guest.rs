//! Clients that come for one fault: they misbehave, or bring the turn that ends the upstream.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::accounting::{Fate, Purpose};
use super::plan::LinkKind;
use super::random::Random;
use super::shared::Shared;
use super::talk::Talk;
use super::violation::{Violation, ViolationKind};
use super::worker::Story;
use crate::client::TestClient;

impl<'a> Talk<'a> {
    /// Connects a guest and introduces it.
    fn guest(name: &str, socket: &Path, shared: &'a Shared, seed: u64) -> Talk<'a> {
        let client = TestClient::connect(name, socket);
        let mut talk = Talk::new(name, client, LinkKind::Lines, shared, seed);
        talk.introduce();
        talk
    }

    /// Closes the connection and gives the story out of hand.
    pub(crate) fn into_story(self, fate: Option<Fate>) -> Story {
        let past = self.client.past(25).to_vec();
        Story { accounting: self.accounting, fate, past }
    }
}

/// Runs a turn that does something to the upstream, and receives what follows.
pub(crate) fn bomber(name: &str, socket: &Path, shared: &Shared, marker: &str) -> Story {
    let mut talk = Talk::guest(name, socket, shared, 0);
    if let Some(thread) = talk.start_thread() {
        let word = format!("{name}n0w");
        // What has its final answer counts as completed: the deltas before it are all there are.
        talk.start_turn(&thread, &word, 5, &format!("[[deltas:5:1:{word}]][[{marker}]][[hang]]"));
    }
    talk.pump("the end of the daemon", |_| false);
    talk.into_story(None)
}

/// Fills the input of an upstream that does not read.
pub(crate) fn filler(name: &str, socket: &Path, shared: &Shared) -> Story {
    let mut talk = Talk::guest(name, socket, shared, 0);
    let padding = "x".repeat(20_000);
    for _ in 0..80 {
        talk.ask("model/list", json!({"padding": padding}), Purpose::Any);
    }
    talk.ask("broker/status", json!({}), Purpose::Any);
    talk.pump("the end of the daemon", |_| false);
    talk.into_story(None)
}

/// Sends 5,000 requests at once: each is answered or refused.
pub(crate) fn flood(name: &str, socket: &Path, shared: &Shared) -> Story {
    let mut talk = Talk::guest(name, socket, shared, 0);
    let mut lines = String::new();
    for _ in 0..FLOOD {
        lines.push_str(&talk.enter("model/list", json!({}), Purpose::Flood).1);
    }
    talk.write(lines.as_bytes());
    let served = talk.pump("the answers to its flood", |talk| talk.accounting.is_answered());
    talk.into_story(served.then_some(Fate::Served))
}

/// Sends many requests at once, and receives until the daemon ends.
pub(crate) fn flood_to_the_end(name: &str, socket: &Path, shared: &Shared) -> Story {
    let mut talk = Talk::guest(name, socket, shared, 0);
    let mut lines = String::new();
    for _ in 0..SMALL_FLOOD {
        lines.push_str(&talk.enter("model/list", json!({}), Purpose::Flood).1);
    }
    talk.write(lines.as_bytes());
    talk.ask("broker/status", json!({}), Purpose::Any);
    shared.set_flooded();
    talk.pump("the end of the daemon", |_| false);
    talk.into_story(None)
}

/// Sends its lines one byte at a time: they are answered like any others.
pub(crate) fn byte_by_byte(name: &str, socket: &Path, shared: &Shared) -> Story {
    let client = TestClient::connect(name, socket);
    let mut talk = Talk::new(name, client, LinkKind::Lines, shared, 0);
    let info = json!({"clientInfo": {"name": name, "version": "1"}});
    let lines = [("initialize", info), ("model/list", json!({})), ("thread/loaded/list", json!({}))];
    for (method, params) in lines {
        let (_, line) = talk.enter(method, params, Purpose::Any);
        for byte in line.as_bytes() {
            talk.write(std::slice::from_ref(byte));
        }
    }
    let served = talk.pump("the answers to its bytes", |talk| talk.accounting.is_answered());
    talk.into_story(served.then_some(Fate::Served))
}

/// Asks for `broker/shutdown` and reads to the end.
pub(crate) fn shutdown(name: &str, socket: &Path, shared: &Shared) -> Story {
    let mut talk = Talk::guest(name, socket, shared, 0);
    let id = talk.ask("broker/shutdown", json!({}), Purpose::Any);
    talk.pump("the end after its shutdown", |_| false);
    if talk.accounting.is_done(id) != Some(true) {
        talk.break_promise(ViolationKind::Unanswered, "broker/shutdown");
    }
    talk.into_story(Some(Fate::Hit))
}

/// Connects while the daemon drains. It may be refused by the listener; once it is accepted, it gets its answer.
pub(crate) fn late(name: &str, socket: &Path, shared: &Shared) -> Option<Story> {
    let stream = UnixStream::connect(socket).ok()?;
    let client = TestClient::over(name, stream);
    let mut talk = Talk::new(name, client, LinkKind::Lines, shared, 0);
    talk.introduce();
    talk.pump("the end of the daemon", |_| false);
    Some(talk.into_story(Some(Fate::Late)))
}

/// Waits for a handshake that will not come.
pub(crate) fn early<'a>(name: &str, socket: &Path, shared: &'a Shared) -> Option<Talk<'a>> {
    let stream = UnixStream::connect(socket).ok()?;
    let client = TestClient::over(name, stream);
    let mut talk = Talk::new(name, client, LinkKind::Lines, shared, 0);
    talk.ask("initialize", json!({"clientInfo": {"name": name, "version": "1"}}), Purpose::Any);
    Some(talk)
}

/// Asks for 20 MB and does not read them; returns what is to be kept open until the end.
pub(crate) fn never_reads(socket: &Path) -> Result<UnixStream, Violation> {
    let broken =
        |error: std::io::Error| Violation::new(ViolationKind::Disturbed, format!("never reads: {error}"));
    let mut stream = UnixStream::connect(socket).map_err(broken)?;
    stream.set_read_timeout(Some(TIME)).map_err(broken)?;
    stream.set_write_timeout(Some(TIME)).map_err(broken)?;
    let info = json!({"clientInfo": {"name": "never reads", "version": "1"}});
    let mut say = |id: u64, method: &str, params: Value| {
        stream.write_all(format!("{}\n", json!({"id": id, "method": method, "params": params})).as_bytes())
    };
    say(1, "initialize", info).and_then(|()| say(2, "thread/start", json!({}))).map_err(broken)?;
    // So much is read that it knows its thread.
    let mut seen = Vec::new();
    let thread = loop {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).map_err(broken)?;
        if length == 0 {
            return Err(Violation::new(
                ViolationKind::WithoutNotice,
                "never reads: closed before its thread",
            ));
        }
        seen.extend_from_slice(&buffer[..length]);
        let found = seen.split(|byte| *byte == b'\n').find_map(|line| {
            let message: Value = serde_json::from_slice(line).ok()?;
            (message["id"] == 2).then(|| message["result"]["thread"]["id"].as_str().map(str::to_owned))?
        });
        if let Some(thread) = found {
            break thread;
        }
    };
    let input = json!([{"type": "text", "text": "[[flood:2000:10000]]"}]);
    let params = json!({"threadId": thread, "input": input});
    let line = format!("{}\n", json!({"id": 3, "method": "turn/start", "params": params}));
    stream.write_all(line.as_bytes()).map_err(broken)?;
    Ok(stream)
}

/// Sends what no client should, and expects that the connection still ends as it ought to.
pub(crate) fn garbage(socket: &Path, random: &mut Random) -> Option<Violation> {
    let bytes: Vec<u8> = match random.below(7) {
        0 => (0..1 + random.index(3000)).map(|_| random.below(256).to_le_bytes()[0]).collect(),
        1 => b"{\"id\":1,\"method\":\"initialize\",\"params\":{\"clientInfo\":\xff\xfe}}\n".repeat(50),
        2 => {
            b"{\n[]\n1\nnull\n{\"id\":null,\"method\":\"x\"}\n{\"id\":1.5,\"method\":\"x\"}\n{}\n".repeat(100)
        }
        6 => b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        3 => b"GET / HTTP/9.9\r\nnonsense\r\n\r\n".to_vec(),
        4 => format!("{}{}\n", "[".repeat(50_000), "]".repeat(50_000)).into_bytes(),
        _ => format!("{{\"id\":1,\"method\":\"{}\"}}\n", "m".repeat(1_000_000)).into_bytes(),
    };
    let sent = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIME))?;
        stream.set_write_timeout(Some(TIME))?;
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // A reset is an end as well.
        match stream.read_to_end(&mut answer) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => Err(error),
            _ => Ok(()),
        }
    });
    let text = |error| format!("a client that sent garbage ({} bytes): {error}", bytes.len());
    sent.err().map(|error| Violation::new(ViolationKind::Hang, text(error)))
}

/// Sends the control socket what it does not understand; returns connections that are to be kept open.
pub(crate) fn control_garbage(socket: &Path, random: &mut Random) -> Result<Vec<UnixStream>, Violation> {
    let connect = |bytes: Vec<u8>| {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(TIME))?;
        // It may be closed before all of it is written.
        let _ = stream.write_all(&bytes);
        Ok(stream)
    };
    let noise = (0..1 + random.index(3000)).map(|_| random.below(256).to_le_bytes()[0]).collect();
    let pieces = [noise, b"GET / HTTP/1.1\r\n".to_vec(), b"{\"jsonrpc\":\"2.0\"}\n".to_vec(), Vec::new()];
    let streams: std::io::Result<Vec<UnixStream>> = pieces.into_iter().map(connect).collect();
    streams.map_err(|error| Violation::new(ViolationKind::Disturbed, format!("the control socket: {error}")))
}

/// Sends half a line and goes.
pub(crate) fn torn_line(socket: &Path, random: &mut Random) -> Option<Violation> {
    let line = b"{\"id\":1,\"method\":\"initialize\",\"params\":{\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}\n";
    let length = 1 + random.index(line.len() - 1);
    let sent = UnixStream::connect(socket).and_then(|mut stream| stream.write_all(&line[..length]));
    sent.err().map(|error| Violation::new(ViolationKind::Disturbed, format!("torn line: {error}")))
}

const FLOOD: usize = 5000;

/// More than may wait for one client, and few enough that all answers are read at once.
const SMALL_FLOOD: usize = 1500;

/// Longer than anything takes on a busy machine.
const TIME: Duration = Duration::from_secs(30);
