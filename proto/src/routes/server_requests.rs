//! The server requests of codex 0.169, one line each.

use super::{AskAudience, ServerRequest, ask};

/// All server requests that the routing table knows.
pub static SERVER_REQUESTS: [ServerRequest; 11] = [
    ask("item/commandExecution/requestApproval", AskAudience::Thread)
        .resolved()
        .strips("additionalPermissions"),
    ask("item/fileChange/requestApproval", AskAudience::Thread).resolved(),
    ask("item/permissions/requestApproval", AskAudience::Thread).resolved(),
    ask("item/tool/requestUserInput", AskAudience::Thread).resolved(),
    ask("mcpServer/elicitation/request", AskAudience::Thread).resolved(),
    ask("item/tool/call", AskAudience::Thread),
    ask("account/chatgptAuthTokens/refresh", AskAudience::Broadcast).within_ms(10_000),
    ask("attestation/generate", AskAudience::Attestation).within_ms(100),
    ask("currentTime/read", AskAudience::OnlySubscriber),
    ask("applyPatchApproval", AskAudience::Thread).thread("conversationId"),
    ask("execCommandApproval", AskAudience::Thread).thread("conversationId"),
];
