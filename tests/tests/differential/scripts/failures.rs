//! Turns that fail, and what is sent about it.

use serde_json::json;

use crate::differential;
use crate::stage::Stage;
use crate::world::Setup;

/// Runs one turn for each prompt, with two subscribers, and a good one at the end.
fn turns(it: &mut Stage<'_>, prompts: &[&str]) {
    let (a, b) = (it.join("A"), it.join("B"));
    let thread = it.start(a, json!({}));
    it.turn(a, &thread, "first");
    it.resume(b, &thread);
    for prompt in prompts {
        it.turn(a, &thread, prompt);
        it.see_end(b, &thread);
    }
    it.turn(b, &thread, "still good");
    it.see_end(a, &thread);
}

#[test]
fn refusals_of_the_model() {
    differential(&Setup::default(), |it| {
        turns(it, &["[[http:400]] a", "[[http:429]] b", "[[http:401]] c", "[[http:500]] d"]);
    });
}

#[test]
fn failures_in_the_stream() {
    differential(&Setup::default(), |it| {
        turns(
            it,
            &[
                "[[fail:context_length_exceeded]] a",
                "[[fail:insufficient_quota]] b",
                "[[fail:server_is_overloaded]] c",
                "[[incomplete:max_output_tokens]] d",
                "[[drop:2]] e",
            ],
        );
    });
}

#[test]
fn a_login_that_is_refused_is_tried_again() {
    let mut setup = Setup::default();
    setup.config.stream_max_retries = Some(2);
    differential(&setup, |it| turns(it, &["[[http:401]] a"]));
}

#[test]
fn a_cut_stream_is_tried_again() {
    let mut setup = Setup::default();
    setup.config.stream_max_retries = Some(2);
    differential(&setup, |it| turns(it, &["[[drop:2:1]] a", "[[fail:rate_limit_exceeded:1]] b"]));
}
