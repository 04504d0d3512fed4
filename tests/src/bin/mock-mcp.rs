//! An MCP server for tests, on standard input and output.
//!
//! Its tools: `echo` returns its text, `elicit` asks the user for a name and returns what came back.
#![allow(clippy::print_stdout, reason = "its output is its interface")]

use std::io::{BufRead, Lines, StdinLock, Write};

use serde_json::{Value, json};

fn main() {
    let mut lines = std::io::stdin().lock().lines();
    while let Some(message) = next(&mut lines) {
        let (id, method) = (&message["id"], message["method"].as_str().unwrap_or_default());
        if id.is_null() {
            continue;
        }
        let result = match method {
            "initialize" => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "mock-mcp", "version": "1.0.0"},
            }),
            "tools/list" => {
                let tool = |name: &str| {
                    json!({"name": name, "description": name,
                           "inputSchema": {"type": "object", "properties": {}}})
                };
                json!({"tools": [tool("echo"), tool("elicit")]})
            }
            "tools/call" => call(&message["params"], &mut lines),
            "ping" => json!({}),
            _ => {
                let error = json!({"code": -32601, "message": "no such method"});
                send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
                continue;
            }
        };
        send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }
}

fn call(params: &Value, lines: &mut Lines<StdinLock<'_>>) -> Value {
    let text = if params["name"] == "elicit" {
        let schema =
            json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
        send(&json!({
            "jsonrpc": "2.0", "id": "ask", "method": "elicitation/create",
            "params": {"message": "Your name?", "requestedSchema": schema},
        }));
        loop {
            let Some(answer) = next(lines) else { return Value::Null };
            if answer["id"] == "ask" {
                break answer["result"].to_string();
            }
        }
    } else {
        params["arguments"].to_string()
    };
    json!({"content": [{"type": "text", "text": text}]})
}

fn next(lines: &mut Lines<StdinLock<'_>>) -> Option<Value> {
    serde_json::from_str(&lines.next()?.ok()?).ok()
}

fn send(message: &Value) {
    println!("{message}");
    let _ = std::io::stdout().flush();
}
