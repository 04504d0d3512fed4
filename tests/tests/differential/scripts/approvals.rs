//! Questions of the server: who is asked, who answers, and what is told about it.

use serde_json::json;

use crate::differential;
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

#[test]
fn approval_answered_by_the_other_client() {
    differential("approval_answered_by_the_other_client", &Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        let question = it.see(b, APPROVAL);
        it.reply(b, &question, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
        // Too late, and of no effect.
        it.reply(a, &question, json!({"decision": "decline"}));
        it.turn(a, &thread, "last");
        it.see_end(b, &thread);
    });
}
