//! The adapter by which editors use codex over the Agent Client Protocol (ACP, agentclientprotocol.com).

use codexd_tests::client::Message;
use codexd_tests::{binary, clients, skip};
use serde_json::{Value, json};

use super::{KILLED, MEETING, answer};
use crate::world::{Bridge, World};

/// An editor with one session.
struct Editor {
    adapter: Bridge,
    session: String,
    last_id: i64,
}

impl Editor {
    /// Starts the adapter and a session in it, with this version of the protocol; `None` when the test is skipped.
    fn open(world: &World, name: &str, version: u32) -> Option<Editor> {
        let modules = skip::unless_found(clients::node_modules())?;
        let mut node = world.program("node");
        node.arg(modules.join("@agentclientprotocol/codex-acp/dist/index.js"));
        let adapter = world.spawn(name, node.env("CODEX_PATH", binary::codexd()));
        let mut editor = Editor { adapter, session: String::new(), last_id: 0 };
        let greeting = match version {
            1 => json!({"protocolVersion": 1, "clientCapabilities": {}}),
            _ => json!({"protocolVersion": 2, "info": {"name": name, "version": "1"}, "capabilities": {}}),
        };
        assert_eq!(editor.request("initialize", greeting)["protocolVersion"], version);
        let cwd = world.home().project();
        let new = editor.request("session/new", json!({"cwd": cwd, "mcpServers": []}));
        new["sessionId"].as_str().unwrap().clone_into(&mut editor.session);
        Some(editor)
    }

    fn send(&mut self, method: &str, params: Value) -> i64 {
        self.last_id += 1;
        let id = self.last_id;
        self.adapter.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    #[track_caller]
    fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        self.adapter.response(id).unwrap()
    }

    fn prompt(&mut self, text: &str) -> i64 {
        let prompt = json!([{"type": "text", "text": text}]);
        self.send("session/prompt", json!({"sessionId": self.session, "prompt": prompt}))
    }

    /// Waits for the answer to a prompt and returns it with all that was shown until then.
    #[track_caller]
    fn answered(&mut self, prompt: i64) -> (Value, Vec<Message>) {
        let shown = self.adapter.recv_until(|message| message.is_answer_to(prompt));
        (shown.last().unwrap()["result"].clone(), shown)
    }

    /// Waits until this text is shown.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        self.adapter.take(text, |message| shown_text(message) == Some(text));
    }

    /// Ends the editor; the adapter ends with it.
    #[track_caller]
    fn close(self) {
        assert_eq!(self.adapter.finish(), 0);
    }
}

/// Returns the text that a message shows as said by the agent.
fn shown_text(message: &Message) -> Option<&str> {
    let update = &message["params"]["update"];
    (update["sessionUpdate"] == "agent_message_chunk").then(|| update["content"]["text"].as_str())?
}

/// Returns the status of the thread that was shown last.
fn thread_status(shown: &[Message]) -> &Value {
    let mut statuses =
        shown.iter().map(|it| &it["params"]["update"]["_meta"]["codex"]["threadStatus"]["type"]);
    statuses.rfind(|status| !status.is_null()).unwrap()
}

#[test]
fn two_editors_over_acp_run_turns_at_once_on_one_codex() {
    let Some(world) = World::real() else { return };
    let Some(mut one) = Editor::open(&world, "one", 1) else { return };
    let Some(mut two) = Editor::open(&world, "two", 1) else { return };
    assert_eq!((world.daemons().len(), world.status("clients").as_deref()), (1, Some("2")));
    let prompts = [one.prompt(&format!("{MEETING} of one")), two.prompt(&format!("{MEETING} of two"))];
    for (editor, prompt, text) in [(&mut one, prompts[0], " of one"), (&mut two, prompts[1], " of two")] {
        let (result, shown) = editor.answered(prompt);
        assert_eq!(result["stopReason"], "end_turn");
        let said: String = shown.iter().filter_map(shown_text).collect();
        assert!(said.ends_with(&answer(text)), "{said}");
        assert_eq!(thread_status(&shown), "idle");
    }
    one.close();
    two.close();
}

#[test]
fn editors_over_acp_show_why_their_turns_were_lost_with_codex() {
    let Some(world) = World::real() else { return };
    let Some(mut one) = Editor::open(&world, "version 1", 1) else { return };
    let Some(mut two) = Editor::open(&world, "version 2", 2) else { return };
    // How a turn that codex itself ends as failed is shown.
    let refused = one.prompt("[[http:400]] refused");
    let (refused, _) = one.answered(refused);
    let prompt = one.prompt("[[deltas:100000:20]] of one");
    two.prompt("[[deltas:100000:20]] of two");
    one.wait_for("tok1 ");
    two.wait_for("tok1 ");
    world.kill9_codex();

    let (result, shown) = one.answered(prompt);
    let said: Vec<&str> = shown.iter().filter_map(shown_text).collect();
    assert_eq!(said.last().unwrap().trim(), KILLED, "{said:?}");
    assert_eq!(thread_status(&shown), "systemError");
    // Version 1 has no stop reason that is more precise.
    assert_eq!(result["stopReason"], refused["stopReason"]);

    let ended = |message: &Message| {
        let update = &message["params"]["update"];
        update["sessionUpdate"] == "state_update" && update["state"] == "idle"
    };
    let shown = two.adapter.recv_until(ended);
    let said: Vec<&str> = shown.iter().filter_map(shown_text).collect();
    assert_eq!(said.last().unwrap().trim(), KILLED, "{said:?}");
    assert_eq!(thread_status(&shown), "systemError");
    let end = &shown.last().unwrap()["params"]["update"];
    assert_eq!((&end["stopReason"], &end["error"]["message"]), (&json!("error"), &json!(KILLED)));
    one.close();
    two.close();
}
