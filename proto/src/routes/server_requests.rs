//! The server requests of codex 0.169, one line each.

use super::{ServerRequest, ServerRequestAudience, ask};

/// All server requests that the routing table knows.
pub static SERVER_REQUESTS: [ServerRequest; 11] = [
    ask("item/commandExecution/requestApproval", ServerRequestAudience::Thread)
        .resolved()
        .of_command()
        .strips("additionalPermissions"),
    ask("item/fileChange/requestApproval", ServerRequestAudience::Thread).resolved(),
    ask("item/permissions/requestApproval", ServerRequestAudience::Thread).resolved(),
    ask("item/tool/requestUserInput", ServerRequestAudience::Thread).resolved(),
    ask("mcpServer/elicitation/request", ServerRequestAudience::Thread).resolved(),
    ask("item/tool/call", ServerRequestAudience::Thread),
    ask("account/chatgptAuthTokens/refresh", ServerRequestAudience::Broadcast).within_ms(10_000),
    ask("attestation/generate", ServerRequestAudience::Attestation).within_ms(100),
    ask("currentTime/read", ServerRequestAudience::OnlySubscriber),
    ask("applyPatchApproval", ServerRequestAudience::Thread).thread("conversationId"),
    ask("execCommandApproval", ServerRequestAudience::Thread).thread("conversationId"),
];
