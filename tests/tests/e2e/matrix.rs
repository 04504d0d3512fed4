//! What goes on after each kind of end, on each way to the daemon, with the real codex. Each cell of the table says its
//! name on stderr.

use std::fmt;
use std::ops::{Deref, DerefMut};

use codexd_tests::client::{Message, TestClient};
use codexd_tests::process;
use codexd_tests::wait;
use serde_json::{Value, json};

use crate::going_on::{DEATHS, Death};
use crate::world::{Bridge, World};

/// How a client reaches the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Connect,
    Lines,
    WebSocket,
}

/// What there is when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A turn that runs, and a prompt that waits for its end.
    Queued,
    /// A goal that is paused.
    Goal,
    /// A sub-agent whose turn runs.
    SubAgent,
    /// A thread that codex keeps in memory only, and another one.
    Ephemeral,
    /// A thread without a prompt.
    NeverRan,
    /// A command of a turn.
    Command,
}

const SCENES: [Scene; 6] =
    [Scene::Queued, Scene::Goal, Scene::SubAgent, Scene::Ephemeral, Scene::NeverRan, Scene::Command];

struct Cell {
    world: World,
    way: Way,
    scene: Scene,
    death: Death,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cell: {:?} x {:?} x {:?}", self.death, self.scene, self.way)
    }
}

enum Talker {
    Bridge(Bridge),
    Plain(TestClient),
}

impl Deref for Talker {
    type Target = TestClient;

    fn deref(&self) -> &TestClient {
        match self {
            Talker::Bridge(bridge) => bridge,
            Talker::Plain(client) => client,
        }
    }
}

impl DerefMut for Talker {
    fn deref_mut(&mut self) -> &mut TestClient {
        match self {
            Talker::Bridge(bridge) => bridge,
            Talker::Plain(client) => client,
        }
    }
}

fn is_end(message: &Message, turn: &str) -> bool {
    message.method() == Some("turn/completed") && message["params"]["turn"]["id"] == turn
}

/// The prompt that waits in the queue.
const WAITING: &str = "the one that waited";

impl Cell {
    fn talker(&self) -> Talker {
        if self.way == Way::Connect {
            return Talker::Bridge(self.world.client("client"));
        }
        // Somebody starts the daemon.
        let starter = self.world.client("starter");
        let socket = self.world.run(&["ctl", "get-socket"]).expect_code(0).stdout;
        let mut client = match self.way {
            Way::WebSocket => TestClient::connect_websocket("client", socket.trim().as_ref()),
            _ => TestClient::connect("client", socket.trim().as_ref()),
        };
        client.initialize();
        assert_eq!(starter.finish(), 0);
        Talker::Plain(client)
    }

    fn thread(&self, client: &mut TestClient) -> String {
        client.start_thread(json!({"cwd": self.world.home().project()}))
    }

    /// How often the model was asked the prompt that waited.
    fn waiting_asked(&self) -> usize {
        self.world.model().requests().iter().filter(|it| it.prompt().contains(WAITING)).count()
    }

    /// The daemon ends. Returns the client of the next one, and what this one got of it.
    fn end(&self, mut client: Talker, turns: &[(&str, &str)]) -> Talker {
        self.death.happens(&self.world);
        let (client, seen) = match client {
            Talker::Bridge(_) => {
                // It says how it went before it answers.
                let seen = client.recv_to_barrier();
                (client, seen)
            }
            Talker::Plain(_) => {
                let seen = client.recv_to_end();
                (self.talker(), seen)
            }
        };
        for (thread, turn) in turns {
            let ends: Vec<_> = seen.iter().filter(|message| is_end(message, turn)).collect();
            let status = match self.death {
                Death::Stop => "interrupted",
                Death::Codex | Death::Codexd => "failed",
            };
            if self.death == Death::Codexd && self.way != Way::Connect {
                assert_eq!(ends.len(), 0, "nobody is there to say so: {ends:?}");
                continue;
            }
            assert_eq!(ends.len(), 1, "{self}: the end of {turn} in {seen:#?}");
            assert_eq!(
                (&ends[0]["params"]["threadId"], &ends[0]["params"]["turn"]["status"]),
                (&json!(thread), &json!(status))
            );
        }
        client
    }

    /// The thread is subscribed again: by `connect`, or by the client itself.
    fn resume(&self, client: &mut TestClient, thread: &str) {
        if self.way != Way::Connect {
            client.request("thread/resume", json!({"threadId": thread}));
        }
    }

    fn goes_on(&self, client: &mut TestClient, thread: &str) {
        assert_eq!(client.turn(thread, "[[deltas:3]] and next").status, "completed", "{self}");
    }

    fn run(&self) {
        eprintln!("{self}");
        let mut client = self.talker();
        match self.scene {
            Scene::Queued => self.queued(client),
            Scene::Goal => {
                let thread = self.thread(&mut client);
                self.goes_on(&mut client, &thread);
                let params = json!({"threadId": thread, "objective": "later", "status": "paused"});
                client.request("thread/goal/set", params);
                let mut client = self.end(client, &[]);
                self.resume(&mut client, &thread);
                let kept = client.request("thread/goal/get", json!({"threadId": thread}));
                assert_eq!(
                    (&kept["goal"]["objective"], &kept["goal"]["status"]),
                    (&json!("later"), &json!("paused"))
                );
                self.goes_on(&mut client, &thread);
            }
            Scene::SubAgent => self.sub_agent(client),
            Scene::Ephemeral => {
                let params = json!({"cwd": self.world.home().project(), "ephemeral": true});
                let gone = client.start_thread(params);
                let kept = self.thread(&mut client);
                self.goes_on(&mut client, &gone);
                self.goes_on(&mut client, &kept);
                let mut client = self.end(client, &[]);
                self.resume(&mut client, &kept);
                let input = json!([{"type": "text", "text": "hello?"}]);
                let refused = client.try_request("turn/start", json!({"threadId": gone, "input": input}));
                let error = refused.expect_err("codex does not know it any more");
                assert!(error.code == -32600 && error.data["codexd"].is_null(), "codex's own: {error:?}");
                self.goes_on(&mut client, &kept);
            }
            Scene::NeverRan => {
                let thread = self.thread(&mut client);
                if self.death != Death::Stop {
                    let home = self.world.home().codex_home();
                    wait::until("codex keeps it", || crate::never_ran::is_kept(&home, &thread));
                }
                let mut client = self.end(client, &[]);
                self.resume(&mut client, &thread);
                self.goes_on(&mut client, &thread);
            }
            Scene::Command => {
                let thread = self.thread(&mut client);
                let turn =
                    client.start_turn(&thread, "[[shell:echo here; exec sleep 987;;yield_time_ms=60000]] go");
                let runs =
                    || process::marked(self.world.home().root()).iter().any(|it| it.command == "sleep 987");
                wait::until("the command runs", runs);
                let mut client = self.end(client, &[(&thread, &turn)]);
                wait::until("the command has ended", || !runs());
                self.resume(&mut client, &thread);
                self.goes_on(&mut client, &thread);
            }
        }
    }

    /// A prompt in the queue is run once, or still there.
    fn queued(&self, mut client: Talker) {
        let thread = self.thread(&mut client);
        let turn = client.start_turn(&thread, "[[hang]] the first");
        self.world.model().wait_for_prompt("the first");
        let input = json!([{"type": "text", "text": WAITING, "text_elements": []}]);
        let params = json!({"threadId": thread, "input": input, "clientUserMessageId": "waits"});
        client.request("thread/queue/add", params);
        let mut client = self.end(client, &[(&thread, &turn)]);
        self.resume(&mut client, &thread);
        let list = |client: &mut TestClient| {
            let queue = client.request("thread/queue/list", json!({"threadId": thread}));
            queue["data"].as_array().map_or(0, Vec::len)
        };
        // Codex runs it by itself where the thread is resumed after a turn that was killed, and not after one that was
        // interrupted.
        if list(&mut client) == 1 {
            let _ = client.try_request("thread/queue/start", json!({"threadId": thread}));
        }
        client.take("the end of the turn of the one that waited", |message| {
            message.method() == Some("turn/completed") && message["params"]["turn"]["id"] != turn.as_str()
        });
        assert_eq!((list(&mut client), self.waiting_asked()), (0, 1), "{self}");
        self.goes_on(&mut client, &thread);
        assert_eq!(self.waiting_asked(), 1, "{self}");
    }

    fn sub_agent(&self, mut client: Talker) {
        let thread = self.thread(&mut client);
        let turn = client.start_turn(&thread, "[[spawn:{{stall:600}} the child]][[stall:600]] the parent");
        self.world.model().wait_for_prompt("the child");
        let started = client.take("the turn of the child", |message| {
            message.method() == Some("turn/started") && message["params"]["threadId"] != thread.as_str()
        });
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (child, its) = (text(&started["params"]["threadId"]), text(&started["params"]["turn"]["id"]));
        wait::until("the parent waits", || self.world.model().requests().len() >= 3);
        let mut client = self.end(client, &[(&child, &its), (&thread, &turn)]);
        self.resume(&mut client, &thread);
        self.goes_on(&mut client, &thread);
        let resumed = client.request("thread/resume", json!({"threadId": child}));
        assert_eq!(resumed["thread"]["turns"][0]["status"], "interrupted");
    }
}

fn all_cells(way: Way) {
    for scene in SCENES {
        for death in DEATHS {
            let Some(world) = World::real() else { return };
            Cell { world, way, scene, death }.run();
        }
    }
}

#[test]
fn what_is_open_goes_on_through_connect() {
    all_cells(Way::Connect);
}

#[test]
fn what_is_open_goes_on_over_lines() {
    all_cells(Way::Lines);
}

#[test]
fn what_is_open_goes_on_over_websocket() {
    all_cells(Way::WebSocket);
}
