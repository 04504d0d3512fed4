//! Requests that do not wait for each other's answers.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Asked, turn};
use crate::world::Setup;

#[test]
fn a_start_and_what_depends_on_nothing() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        let one = it.ask(a, "thread/start", json!({"cwd": project}));
        let reads: Vec<Asked> = (0..10).map(|_| it.ask(a, "model/list", json!({"limit": 1}))).collect();
        let two = it.ask(a, "thread/start", json!({"cwd": project}));
        let three = it.ask(b, "thread/start", json!({"cwd": project, "ephemeral": true}));
        for asked in reads {
            it.answer_to(&asked);
        }
        let threads: Vec<String> = [&one, &two, &three]
            .into_iter()
            .map(|asked| {
                let answer = it.answer_to(asked);
                it.note_thread(&answer)
            })
            .collect();
        it.turn(a, &threads[0], "one");
        it.turn(a, &threads[1], "two");
        it.turn(b, &threads[2], "three");
        it.see_status(b, &threads[1], "idle");
        it.see_status(a, &threads[2], "idle");
    });
}

#[test]
fn resume_unsubscribe_and_turn_at_once() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let of = json!({"threadId": thread});
        let asked = [
            it.ask(b, "thread/resume", of.clone()),
            it.ask(b, "thread/unsubscribe", of.clone()),
            it.ask(b, "thread/resume", of.clone()),
            it.ask(b, "thread/read", of.clone()),
        ];
        for asked in &asked {
            it.answer_to(asked);
        }
        it.see(b, "thread/goal/cleared");
        it.see(b, "thread/goal/cleared");
        it.turn(a, &thread, "for both");
        it.see_end(b, &thread);
        let asked = [
            it.ask(b, "thread/resume", of.clone()),
            it.ask(b, "thread/unsubscribe", of.clone()),
            it.ask(b, "thread/unsubscribe", of.clone()),
        ];
        for asked in &asked {
            it.answer_to(asked);
        }
        it.see(b, "thread/goal/cleared");
        it.turn(a, &thread, "for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn many_requests_of_three_clients() {
    differential(&Setup::default(), |it| {
        let clients = [it.join("A"), it.join("B"), it.join("C")];
        let thread = it.shared(clients[0], &clients[1..], json!({}));
        let mut asked = Vec::new();
        for round in 0..10 {
            for who in clients {
                asked.push(it.ask(who, "thread/read", json!({"threadId": thread})));
                asked.push(it.ask(who, "fs/getMetadata", json!({"path": format!("/none/{round}")})));
                asked.push(it.ask(who, "no/such", json!({"round": round})));
                asked.push(it.ask(who, "config/read", Value::Null));
                let echo = json!({"command": ["echo", round.to_string()], "processId": round.to_string()});
                asked.push(it.ask(who, "command/exec", echo));
            }
        }
        for asked in &asked {
            it.answer_to(asked);
        }
        it.turn(clients[1], &thread, "still there");
        it.see_end(clients[0], &thread);
        it.see_end(clients[2], &thread);
    });
}

#[test]
fn a_command_and_what_is_written_to_it_at_once() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        for who in [a, b] {
            let run = json!({"command": ["cat"], "processId": "p", "streamStdin": true, "streamStdoutStderr": true});
            let write =
                |text: &str, close: bool| json!({"processId": "p", "deltaBase64": text, "closeStdin": close});
            let asked = [
                it.ask(who, "command/exec", run),
                it.ask(who, "command/exec/write", write("b25lCg==", false)),
                it.ask(who, "command/exec/write", write("dHdvCg==", true)),
            ];
            for asked in &asked {
                it.answer_to(asked);
            }
        }
    });
}

#[test]
fn two_turns_at_once_on_one_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let running = it.hang(a, &thread, "long");
        let asked = [
            it.ask(b, "turn/interrupt", json!({"threadId": thread, "turnId": running})),
            it.ask(b, "turn/start", turn(&thread, "next")),
        ];
        for asked in &asked {
            it.answer_to(asked);
        }
        it.all_see_end(&[a, b], &thread);
        it.all_see_end(&[a, b], &thread);
    });
}

#[test]
fn two_resumes_at_once() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[], json!({}));
        let of = json!({"threadId": thread});
        let asked = [
            it.ask(b, "thread/resume", of.clone()),
            it.ask(c, "thread/resume", json!({"threadId": thread, "excludeTurns": true})),
            it.ask(c, "thread/resume", of.clone()),
            it.ask(b, "thread/resume", json!({"threadId": "nonsense"})),
        ];
        for asked in &asked {
            it.answer_to(asked);
        }
        for _ in 0..3 {
            it.all_see(&[a, b, c], "thread/goal/cleared");
        }
        it.turn(c, &thread, "for three");
        it.all_see_end(&[a, b], &thread);
    });
}
