//! The ground under the other tests: the real codex and the scripted model, without the daemon.

use std::process::Stdio;

use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::model::MockModel;
use codexd_tests::output::Output;
use serde_json::json;

/// Dropped in this order: codex ends before its home goes.
struct Upstream {
    client: TestClient,
    model: MockModel,
    home: Home,
}

fn upstream(codex: &Codex, config: &CodexConfig) -> Upstream {
    let home = Home::new().unwrap();
    let model = MockModel::start().unwrap();
    home.write_codex_config(&model.base_url(), config).unwrap();
    let mut command = home.command(&codex.native);
    let mut client = TestClient::spawn("direct", command.arg("app-server").stderr(Stdio::null()));
    client.initialize();
    Upstream { client, model, home }
}

#[test]
fn a_turn_of_the_real_codex_runs_on_the_scripted_model() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let turn = it.client.turn(&thread, "[[deltas:5]] hello");
    assert_eq!(turn.status, "completed");
    assert_eq!(turn.deltas, ["tok0 ", "tok1 ", "tok2 ", "tok3 ", "tok4 ", "| echo:  hello"]);
    assert_eq!(turn.answer, Some(turn.deltas.concat()));
    assert_eq!(it.model.requests().len(), 1);

    it.client.finish_sending();
    assert!(it.client.wait_exit().success());
}

#[test]
fn a_command_is_approved_and_its_output_goes_back_to_the_model() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    it.client.answer_approvals("accept");
    let thread = it.client.start_thread(json!({"cwd": it.home.project(), "approvalPolicy": "untrusted"}));
    let turn = it.client.turn(&thread, "[[shell:echo it > made.txt; cat made.txt]] go");
    assert_eq!(turn.status, "completed");
    assert!(turn.methods().contains(&"item/commandExecution/requestApproval"));
    assert!(turn.methods().contains(&"serverRequest/resolved"));
    assert_eq!(std::fs::read_to_string(it.home.project().join("made.txt")).unwrap(), "it\n");
    let last = it.model.requests().pop().unwrap();
    let output = last.body["input"].as_array().unwrap().last().unwrap();
    assert_eq!(output["type"], "function_call_output");
    assert!(output["output"].to_string().contains("it"), "{output}");
}

#[test]
fn an_interrupted_turn_ends_as_interrupted() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let turn = it.client.start_turn(&thread, "[[hang]] for ever");
    it.model.wait_for_prompt("for ever");
    it.client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    let turn = it.client.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), turn.answer), ("interrupted", None));
    // The thread is as good as before.
    assert_eq!(it.client.turn(&thread, "again").status, "completed");
}

#[test]
fn a_cut_stream_is_tried_again_and_a_refusal_fails_the_turn() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let config = CodexConfig { stream_max_retries: Some(2), ..CodexConfig::default() };
    let mut it = upstream(&codex, &config);
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let cut = it.client.turn(&thread, "[[drop:2:1]] cut");
    assert_eq!(cut.status, "completed");
    assert_eq!(cut.deltas, ["tok0 ", "tok1 ", "tok0 ", "tok1 ", "tok2 ", "| echo:  cut"]);
    assert_eq!(it.model.requests().len(), 2);
    let refused = it.client.turn(&thread, "[[http:400]] no");
    assert_eq!(refused.status, "failed");
    assert!(!refused.error.is_null());
}

#[test]
fn a_sub_agent_runs_its_own_turn() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let turn = it.client.turn(&thread, "[[spawn:a task {{deltas:2}}]] go");
    assert_eq!(turn.status, "completed");
    let other = it.client.take("the end of the sub-agent's turn", |message| {
        message.method() == Some("turn/completed") && message["params"]["threadId"] != thread.as_str()
    });
    assert_eq!(other["params"]["turn"]["status"], "completed");
}

#[test]
fn the_old_codex_runs_a_turn_too() {
    let Some(codex) = Codex::for_test(Version::Old) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let turn = it.client.turn(&thread, "[[deltas:1]] hello");
    assert_eq!((turn.status.as_str(), turn.answer.as_deref()), ("completed", Some("tok0 | echo:  hello")));
}

#[test]
fn the_wrapper_of_npm_is_a_codex_as_well() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let output = Output::of(Home::new().unwrap().command(&codex.wrapper).arg("--version")).expect_code(0);
    assert_eq!(output.stdout.trim(), format!("codex-cli {}", Version::Current.number()));
}

#[test]
fn each_marker_has_its_effect_on_the_real_codex() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut it = upstream(&codex, &CodexConfig::default());
    it.client.answer_approvals("accept");
    let thread = it.client.start_thread(json!({"cwd": it.home.project(), "approvalPolicy": "never"}));
    // The prompt, how its turn ends, and a word that only its messages have.
    let cases = [
        ("[[reasoning:2]] a", "completed", "item/reasoning/summaryTextDelta"),
        ("[[commentary:looking]] b", "completed", "\"phase\":\"commentary\""),
        ("[[say:0:so it is]] c", "completed", "\"text\":\"so it is\""),
        ("[[bytes:5000]] d", "completed", "xxxxxxxxxxxxxxxxxxxx"),
        ("[[stall:0.05]] e", "completed", "| echo:  e"),
        ("[[usage:777]] f", "completed", "\"totalTokens\":777"),
        ("[[parallel]][[shell:echo p1]][[shell:echo p2]] g", "completed", "p2"),
        ("[[fail:context_length_exceeded]] h", "failed", "contextWindowExceeded"),
        ("[[fail:insufficient_quota]] i", "failed", "usageLimitExceeded"),
        ("[[incomplete:max_output_tokens]] j", "failed", "max_output_tokens"),
        ("[[http:429]] k", "failed", "responseTooManyFailedAttempts"),
        ("[[call:no_such_tool:{}]] l", "completed", "| echo:  l"),
    ];
    for (prompt, status, word) in cases {
        let turn = it.client.turn(&thread, prompt);
        assert_eq!(turn.status, status, "{prompt}: {}", turn.error);
        assert!(turn.seen.iter().any(|message| message.raw.contains(word)), "{prompt}: no {word}");
    }
}

#[test]
fn a_model_that_codex_knows_has_a_tool_for_patches() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let config = CodexConfig { model: "gpt-5.5".to_owned(), ..CodexConfig::default() };
    let mut it = upstream(&codex, &config);
    let thread = it.client.start_thread(json!({"cwd": it.home.project()}));
    let turn = it.client.turn(&thread, "[[write:made.txt:a line]] go");
    assert_eq!(turn.status, "completed");
    assert!(turn.methods().contains(&"turn/diff/updated"), "{:?}", turn.methods());
    assert_eq!(std::fs::read_to_string(it.home.project().join("made.txt")).unwrap(), "a line\n");
}
