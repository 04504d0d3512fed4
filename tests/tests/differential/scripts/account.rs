//! Logins.

use serde_json::{Value, json};

use crate::differential;
use crate::world::Setup;

#[test]
fn a_login_with_a_key() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({"optOutNotificationMethods": ["account/updated"]}));
        it.call(b, "account/login/start", json!({"type": "apiKey", "apiKey": "sk-one"}));
        it.all_see(&[a, b, c], "account/login/completed");
        it.all_see(&[a, b], "account/updated");
        it.call(a, "account/read", json!({}));
        it.call(a, "getAuthStatus", json!({"includeToken": true}));
        it.call(c, "account/login/start", json!({"type": "apiKey", "apiKey": "sk-two"}));
        it.all_see(&[a, b, c], "account/login/completed");
        it.all_see(&[a, b], "account/updated");
        it.call(a, "account/logout", Value::Null);
        it.all_see(&[a, b], "account/updated");
        it.call(b, "account/logout", json!({}));
        it.all_see(&[a, b], "account/updated");
        it.call(c, "account/read", json!({"refreshToken": true}));
    });
}

#[test]
fn logins_that_come_to_nothing() {
    differential(&Setup::default(), |it| {
        let a = it.join("A");
        let b = it.join_with("B", json!({}));
        it.call(b, "account/login/start", json!({"type": "apiKey"}));
        it.call(b, "account/login/start", json!({"type": "none"}));
        it.call(b, "account/login/start", json!({}));
        let tokens = json!({"type": "chatgptAuthTokens", "accessToken": "no token", "chatgptAccountId": "y"});
        it.call(a, "account/login/start", tokens.clone());
        it.call(b, "account/login/start", tokens);
        it.call(b, "account/login/cancel", json!({"loginId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(b, "account/login/cancel", json!({"loginId": "nonsense"}));
        it.call(b, "account/login/cancel", json!({}));
        it.call(b, "account/rateLimits/read", Value::Null);
        it.call(b, "account/usage/read", Value::Null);
        it.call(a, "accountSession/list", json!({}));
        it.call(b, "accountSession/list", json!({}));
    });
}
