//! The Python SDK of codex as a client of the tests.

/// Runs what the lines on its input ask for with the SDK, and writes what that returns. A line is a request as in the
/// protocol of codex:
///
/// - `thread/start`, `turn/start` and `thread/goal/set` are calls of the SDK's own methods, and all others of the one by
///   which it sends requests.
/// - A turn is run as `Thread.run` does it. What that returns or raises is `sdk/ended`.
/// - An approval is decided by an answer on the input. As the SDK reads nothing meanwhile, neither does the program.
/// - What codexd sends is repeated: notifications as they are, answers as `sdk/answered` with their ids.
pub(super) const SCRIPT: &str = r#"
import json, queue, sys, threading
from openai_codex import api
from openai_codex.client import CodexClient, CodexConfig
from openai_codex.errors import JsonRpcError
from openai_codex.generated.v2_all import ThreadGoalStatus

lock = threading.Lock()
approvals = {}

def say(message):
    with lock:
        print(json.dumps(message), flush=True)

class Client(CodexClient):
    def _read_message(self):
        message = super()._read_message()
        if "method" not in message:
            say({"method": "sdk/answered", "params": {"id": message["id"]}})
        elif "id" not in message:
            say(message)
        return message

def decide(method, params):
    name, decision = f"approval {len(approvals)}", queue.Queue()
    approvals[name] = decision
    say({"id": name, "method": method, "params": params})
    return decision.get()

def ended(turn):
    try:
        result = turn.run()
        return {"turnId": turn.id, "status": result.status.value, "answer": result.final_response}
    except Exception as error:
        return {"turnId": turn.id, "error": str(error)}

def carry_out(codex, method, params):
    client = codex._client
    if method == "initialize":
        return codex.metadata.model_dump(mode="json", by_alias=True)
    if method == "thread/start":
        return client.thread_start(params).model_dump(mode="json", by_alias=True)
    if method == "thread/goal/set":
        status = ThreadGoalStatus(params["status"])
        goal = client.thread_goal_set(params["threadId"], objective=params.get("objective"), status=status)
        return goal.model_dump(mode="json", by_alias=True)
    return client._request_raw(method, params)

def run(codex, request):
    turn = None
    try:
        method, params = request["method"], request.get("params")
        if method == "turn/start":
            turn = api.Thread(codex._client, params["threadId"]).turn(params["input"][0]["text"])
            result = {"turn": {"id": turn.id}}
        else:
            result = carry_out(codex, method, params)
        say({"id": request["id"], "result": result})
    except JsonRpcError as error:
        say({"id": request["id"], "error": {"code": error.code, "message": error.message, "data": error.data}})
    except Exception as error:
        say({"id": request["id"], "error": {"code": 0, "message": repr(error)}})
    if turn is not None:
        say({"method": "sdk/ended", "params": ended(turn)})

api.CodexClient = Client
with api.Codex(CodexConfig(launch_args_override=(sys.argv[1], "app-server", "--listen", "stdio://"))) as codex:
    codex._client._approval_handler = decide
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message:
            approvals[message["id"]].put(message["result"])
        elif "id" in message:
            threading.Thread(target=run, args=(codex, message), daemon=True).start()
"#;
