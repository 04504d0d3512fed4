//! Skills and hooks.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

const SKILL: &str = "---\nname: greet\ndescription: Greets.\n---\n\nSay hello.\n";

/// Puts a skill into a directory of the project and returns the directory.
fn skill(it: &Stage<'_>) -> String {
    let directory = it.world().home().project().join("more");
    std::fs::create_dir_all(directory.join("greet")).unwrap();
    std::fs::write(directory.join("greet/SKILL.md"), SKILL).unwrap();
    directory.display().to_string()
}

#[test]
fn skills_come_and_go() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let directory = skill(it);
        it.call(b, "skills/extraRoots/set", json!({"extraRoots": [directory]}));
        it.all_see(&[a, b], "skills/changed");
        it.call(a, "skills/list", json!({"cwds": [it.project()], "forceReload": true}));
        let path = format!("{directory}/greet/SKILL.md");
        it.call(a, "skills/config/write", json!({"path": path, "enabled": false}));
        it.call(a, "skills/config/write", json!({"name": "none", "enabled": false}));
        it.call(a, "skills/config/write", json!({"enabled": false}));
        it.call(b, "skills/list", json!({"cwds": [it.project()]}));
        it.call(b, "skills/extraRoots/set", json!({"extraRoots": ["relative"]}));
        it.call(b, "skills/extraRoots/set", json!({"extraRoots": []}));
        it.all_see(&[a, b], "skills/changed");
    });
}

#[test]
fn a_turn_with_a_skill() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let directory = skill(it);
        it.call(b, "skills/extraRoots/set", json!({"extraRoots": [directory]}));
        it.all_see(&[a, b], "skills/changed");
        let thread = it.shared(a, &[b], json!({}));
        let skill = json!({"type": "skill", "name": "greet", "path": format!("{directory}/greet/SKILL.md")});
        let text = json!({"type": "text", "text": "$greet"});
        it.call(a, "turn/start", json!({"threadId": thread, "input": [text, skill]}));
        it.all_see_end(&[a, b], &thread);
    });
}

/// Hooks that a file of the project's configuration would have, in the user's.
fn with_hooks(text: &str) -> Setup {
    let mut setup = Setup::default();
    setup.config.more = text.to_owned();
    setup
}

/// Allows the configured hooks to run: no user has reviewed them yet.
fn trust(it: &mut Stage<'_>, who: Who) {
    let listed = it.call(who, "hooks/list", json!({"cwds": [it.project()]}));
    let hooks = listed["result"]["data"][0]["hooks"].as_array().cloned().unwrap_or_default();
    assert!(!hooks.is_empty(), "no hooks: {listed}");
    let state: Value = hooks
        .iter()
        .map(|hook| (hook["key"].as_str().unwrap().to_owned(), json!({"trusted_hash": hook["currentHash"]})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let edits = json!([{"keyPath": "hooks.state", "value": state, "mergeStrategy": "upsert"}]);
    it.call(who, "config/batchWrite", json!({"edits": edits, "reloadUserConfig": true}));
}

#[test]
fn hooks_of_a_turn() {
    let hooks = "[[hooks.UserPromptSubmit]]\n[[hooks.UserPromptSubmit.hooks]]\ntype = \"command\"\n\
                 command = \"echo context of a hook\"\n\n\
                 [[hooks.Stop]]\n[[hooks.Stop.hooks]]\ntype = \"command\"\ncommand = \"exit 1\"\n";
    differential(&with_hooks(hooks), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        trust(it, b);
        let thread = it.shared(a, &[b], json!({}));
        it.turn(a, &thread, "second");
        it.see_end(b, &thread);
        it.call(b, "hooks/list", json!({"threadId": thread}));
    });
}

#[test]
fn a_hook_that_blocks_a_tool() {
    let hooks = "[[hooks.PreToolUse]]\n[[hooks.PreToolUse.hooks]]\ntype = \"command\"\n\
                 command = \"echo not today >&2; exit 2\"\n";
    differential(&with_hooks(hooks), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        trust(it, a);
        let thread = it.shared(a, &[b], json!({}));
        it.turn(b, &thread, "[[shell:touch made.txt]] go");
        it.see_end(a, &thread);
    });
}

#[test]
fn hooks_that_nobody_has_looked_at() {
    let hooks = "[[hooks.UserPromptSubmit]]\n[[hooks.UserPromptSubmit.hooks]]\ntype = \"command\"\n\
                 command = \"echo unseen\"\n";
    differential(&with_hooks(hooks), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call(b, "hooks/list", json!({"cwds": [it.project(), "relative"]}));
        let thread = it.shared(a, &[b], json!({}));
        it.turn(b, &thread, "second");
        it.see_end(a, &thread);
    });
}
