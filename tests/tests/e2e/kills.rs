//! codex or codexd is killed at about the time at which a prompt is sent, with the real codex: the prompt runs once, or
//! its client learns that it did not or may not have. The scripted model counts how often it is asked.
//!
//! `CODEXD_KILLS=200` kills more often, `CODEXD_KILLS_SEED=42` has other moments.

use std::fmt;
use std::time::Duration;

use codexd_tests::chaos::random::Random;
use codexd_tests::client::{Message, RpcError, TestClient};
use codexd_tests::model::MockModel;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::reason;
use crate::world::World;

/// Milliseconds between the kill and the prompt, at most.
const APART_MS: u64 = 50;

/// The same, of one kill in three: by then the model was asked, or the turn has ended.
const FAR_APART_MS: u64 = 300;

/// One kill and one prompt.
#[derive(Debug)]
struct Round {
    number: u64,
    /// codexd is killed, and not codex.
    daemon: bool,
    /// The prompt is sent after the kill.
    late: bool,
    apart: Duration,
    /// The prompt has an id of its client.
    named: bool,
}

/// What became of the prompts.
#[derive(Debug, Default)]
struct Tally {
    completed: u64,
    failed: u64,
    /// Refused, and not carried out.
    refused: u64,
    /// Refused, and perhaps carried out.
    unsure: u64,
    /// The connection ended without a word.
    nothing: u64,
    /// Prompts that the model was asked, whatever their client was told.
    asked: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { completed, failed, refused, unsure, nothing, asked } = self;
        write!(f, "completed {completed}, failed {failed}, refused {refused}, ")?;
        write!(f, "perhaps carried out {unsure}, no word {nothing}; the model was asked {asked}")
    }
}

impl Round {
    fn plan(number: u64, random: &mut Random) -> Round {
        let most = if random.one_in(3) { FAR_APART_MS } else { APART_MS };
        Round {
            number,
            // In turn: codex that dies right after its start again and again is not started at once.
            daemon: number % 2 == 1,
            late: random.one_in(4),
            apart: Duration::from_millis(random.below(most + 1)),
            named: random.one_in(2),
        }
    }

    /// The prompt: no other one has these words.
    fn prompt(&self) -> String {
        format!("round <{}>", self.number)
    }

    fn params(&self, thread: &str) -> Value {
        let mut params = json!({"threadId": thread, "input": [{"type": "text", "text": self.prompt(), "text_elements": []}]});
        if self.named {
            params["clientUserMessageId"] = json!(format!("message-{}", self.number));
        }
        params
    }

    /// How often the model was asked this prompt.
    fn asked(&self, model: &MockModel) -> u64 {
        let prompt = self.prompt();
        let is_it = |request: &codexd_tests::model::ModelRequest| request.prompt().contains(&prompt);
        model.requests().iter().filter(|request| is_it(request)).count() as u64
    }

    /// Sends the prompt and kills. Returns the id of the request; `None` if the connection had ended.
    fn happens(&self, world: &World, client: &mut TestClient, thread: &str) -> Option<i64> {
        let pid = |field: &str| -> i32 { world.status(field).unwrap().parse().unwrap() };
        let (codex, codexd) = (pid("upstream.pid"), pid("pid"));
        let kill_it = || {
            let victim = if self.daemon { codexd } else { codex };
            kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        };
        let id = i64::try_from(self.number).unwrap() + 1_000_000;
        let line = json!({"id": id, "method": "turn/start", "params": self.params(thread)});
        let mut send = || client.send_bytes(format!("{line}\n").as_bytes()).is_ok();
        let sent = if self.late {
            kill_it();
            wait::pause(self.apart);
            send()
        } else {
            let sent = send();
            wait::pause(self.apart);
            kill_it();
            sent
        };
        process::wait_dead(codexd);
        sent.then_some(id)
    }

    /// Checks what the client of a prompt was told against what the model was asked.
    fn is_true(&self, told: &Told, asked: u64, tally: &mut Tally) {
        let fits = match told {
            Told::Ended(status) if status == "completed" => asked == 1,
            Told::Refused(error) if delivered(error) == "no" => asked == 0,
            Told::Ended(_) | Told::Refused(_) | Told::Nothing => asked <= 1,
        };
        assert!(fits, "{self:?}: the client was told {told:?}, and the model was asked {asked} times");
        tally.asked += asked;
        *match told {
            Told::Ended(status) if status == "completed" => &mut tally.completed,
            Told::Ended(_) => &mut tally.failed,
            Told::Refused(error) if delivered(error) == "no" => &mut tally.refused,
            Told::Refused(_) => &mut tally.unsure,
            Told::Nothing => &mut tally.nothing,
        } += 1;
    }
}

/// What a client was told of its prompt.
#[derive(Debug)]
enum Told {
    /// Its turn has ended so.
    Ended(String),
    Refused(RpcError),
    Nothing,
}

fn delivered(error: &RpcError) -> &str {
    error.data["codexd"]["delivered"].as_str().unwrap_or_else(|| panic!("not an error of codexd: {error:?}"))
}

fn is_end(message: &Message, turn: &str) -> bool {
    message.method() == Some("turn/completed") && message["params"]["turn"]["id"] == turn
}

/// The rounds, from the environment.
fn rounds(usual: u64) -> impl Iterator<Item = Round> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("CODEXD_KILLS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = number("CODEXD_KILLS").map_or(usual, |kills| kills / 2);
    eprintln!("CODEXD_KILLS_SEED={seed}, {kills} kills");
    let mut random = Random::new(seed);
    (0..kills).map(move |number| Round::plan(number, &mut random))
}

/// After a stop on request, a codex that dies at once is the first one again.
fn stop(world: &World) {
    drop(world.run(&["ctl", "stop"]).expect_code(0));
}

fn ask_next(client: &mut TestClient, thread: &str) {
    assert_eq!(client.turn(thread, "[[deltas:3]] and next").status, "completed");
}

#[test]
fn a_prompt_through_connect_runs_once_or_its_client_knows() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    ask_next(&mut client, &thread);
    let mut tally = Tally::default();
    for round in rounds(5) {
        let id = round.happens(&world, &mut client, &thread).expect("the bridge stays");
        let told = match client.response(id) {
            Ok(result) => {
                let turn = result["turn"]["id"].as_str().unwrap().to_owned();
                let end = client.take("the end of the turn", |message| is_end(message, &turn));
                let more = client.recv_to_barrier();
                assert!(!more.iter().any(|message| is_end(message, &turn)), "{round:?}: two ends");
                Told::Ended(end["params"]["turn"]["status"].as_str().unwrap().to_owned())
            }
            Err(error) => {
                assert!(!round.named, "{round:?}: its history can decide: {error:?}");
                assert_eq!(reason(&error), "daemonLost", "{error:?}");
                Told::Refused(error)
            }
        };
        client.forget();
        // The next prompt is answered, after everything that the daemon did of itself.
        ask_next(&mut client, &thread);
        round.is_true(&told, round.asked(world.model()), &mut tally);
        if round.daemon {
            stop(&world);
            // It starts the next one.
            client.recv_to_barrier();
        }
    }
    eprintln!("through connect: {tally}");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_prompt_over_the_socket_runs_once_at_most_and_its_client_knows() {
    let Some(world) = World::real() else { return };
    let connect = || {
        // Somebody starts the daemon.
        let starter = world.client("starter");
        let socket = world.run(&["ctl", "get-socket"]).expect_code(0).stdout;
        let mut client = TestClient::connect("client", socket.trim().as_ref());
        client.initialize();
        assert_eq!(starter.finish(), 0);
        client
    };
    let mut client = connect();
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    ask_next(&mut client, &thread);
    let mut tally = Tally::default();
    for round in rounds(5) {
        let id = round.happens(&world, &mut client, &thread);
        let seen = client.recv_to_end();
        let answer = seen.iter().find(|message| id.is_some_and(|id| message.is_answer_to(id)));
        let told = match answer.map(Message::outcome) {
            Some(Err(error)) => Told::Refused(error),
            Some(Ok(result)) => {
                let turn = result["turn"]["id"].as_str().unwrap();
                let ends: Vec<_> = seen.iter().filter(|message| is_end(message, turn)).collect();
                match ends[..] {
                    [end] => Told::Ended(end["params"]["turn"]["status"].as_str().unwrap().to_owned()),
                    // Only a daemon that was killed itself says nothing.
                    [] if round.daemon => Told::Nothing,
                    _ => panic!("{round:?}: {} ends", ends.len()),
                }
            }
            None if round.daemon || id.is_none() || round.late => Told::Nothing,
            None => panic!("{round:?}: no answer in {seen:#?}"),
        };
        client = connect();
        client.request("thread/resume", json!({"threadId": thread}));
        ask_next(&mut client, &thread);
        round.is_true(&told, round.asked(world.model()), &mut tally);
        // What was certainly not carried out can be sent again.
        if let Told::Refused(error) = &told
            && delivered(error) == "no"
        {
            let again = client.request("turn/start", round.params(&thread));
            let end = client.finish_turn(&thread, again["turn"]["id"].as_str().unwrap());
            assert_eq!((end.status.as_str(), round.asked(world.model())), ("completed", 1));
        }
        client.forget();
        if round.daemon {
            drop(client);
            stop(&world);
            client = connect();
            client.request("thread/resume", json!({"threadId": thread}));
        }
    }
    eprintln!("over the socket: {tally}");
    drop(client);
}
