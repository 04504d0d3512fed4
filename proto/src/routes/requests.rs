//! The client requests of codex 0.169, one line each.

use super::{GatedValue, Request, RequestEffect, Resource, forward, local, order};

/// All client requests that the routing table knows.
pub static REQUESTS: [Request; 187] = [
    local("initialize"),
    forward("server/diagnostics").experimental(),
    forward("userVerification/status").experimental(),
    forward("userVerification/enroll").experimental().long(),
    forward("userVerification/delete").experimental(),
    forward("userVerification/verify").experimental().long(),
    forward("userVerification/cancel").order(&["requestId"]).translates("requestId").experimental(),
    forward("thread/start")
        .order(order::THREAD_START)
        .fields(&[
            "allowProviderModelFallback",
            "runtimeWorkspaceRoots",
            "permissions",
            "multiAgentMode",
            "historyMode",
            "projectId",
            "daybreakEnabled",
            "environments",
            "dynamicTools",
            "selectedCapabilityRoots",
            "mockExperimentalField",
            "experimentalRawEvents",
        ])
        .value(GatedValue::GranularApproval)
        .effect(RequestEffect::Start)
        .work(),
    forward("thread/resume")
        .order(order::THREAD_RESUME)
        .thread("threadId")
        .fields(&["history", "path", "runtimeWorkspaceRoots", "permissions", "initialTurnsPage"])
        .value(GatedValue::GranularApproval)
        .effect(RequestEffect::Resume),
    forward("thread/fork")
        .order(order::THREAD_FORK)
        .thread("threadId")
        .fields(&[
            "experimentalPredictionMode",
            "experimentalDisablePredictionMcp",
            "beforeTurnId",
            "path",
            "runtimeWorkspaceRoots",
            "permissions",
            "attachToSource",
            "deferGoalContinuation",
        ])
        .value(GatedValue::GranularApproval)
        .effect(RequestEffect::Fork)
        .work(),
    forward("thread/sample").thread("threadId").experimental().work().long(),
    forward("thread/sample/cancel").order(&["requestId"]).translates("requestId").experimental(),
    forward("thread/archive")
        .order(&["threadId"])
        .thread("threadId")
        .effect(RequestEffect::DropSubscriptions),
    forward("thread/delete").order(&["threadId"]).thread("threadId").effect(RequestEffect::DropSubscriptions),
    forward("thread/unsubscribe").order(&["threadId"]).unsubscribes().thread("threadId"),
    forward("thread/increment_elicitation").thread("threadId").experimental(),
    forward("thread/decrement_elicitation").thread("threadId").experimental(),
    forward("thread/name/set").thread("threadId"),
    forward("thread/prediction/request").thread("threadId").experimental(),
    forward("thread/goal/set").thread("threadId"),
    forward("thread/goal/get").thread("threadId"),
    forward("thread/goal/clear").thread("threadId"),
    forward("thread/queue/add").thread("threadId").experimental().work(),
    forward("thread/queue/list").thread("threadId").experimental(),
    forward("thread/queue/update").thread("threadId").experimental(),
    forward("thread/queue/delete").thread("threadId").experimental(),
    forward("thread/queue/reorder").thread("threadId").experimental(),
    forward("thread/queue/start").thread("threadId").experimental().work(),
    forward("thread/metadata/update")
        .order(&["threadId", "projectId", "gitInfo", "daybreakEnabled"])
        .thread("threadId")
        .fields(&["projectId", "daybreakEnabled"]),
    forward("thread/attachment/add").thread("threadId"),
    forward("thread/attachment/list").thread("threadId"),
    forward("thread/attachmentOwner/list"),
    forward("thread/attachment/remove").thread("threadId"),
    forward("thread/section/move").thread("threadId"),
    forward("thread/settings/update")
        .order(order::THREAD_SETTINGS_UPDATE)
        .thread("threadId")
        .experimental()
        .value(GatedValue::GranularApproval),
    forward("thread/memoryMode/set").thread("threadId").experimental(),
    forward("thread/memory/read").thread("threadId").experimental(),
    forward("memory/status").experimental(),
    forward("memory/reset").experimental(),
    forward("rollout/compress").experimental(),
    forward("thread/unarchive").thread("threadId"),
    forward("thread/compact/start").thread("threadId").work(),
    forward("thread/shellCommand").thread("threadId").work(),
    forward("thread/approveGuardianDeniedAction").thread("threadId"),
    forward("thread/backgroundTerminals/clean").thread("threadId").experimental(),
    forward("thread/backgroundTerminals/list").thread("threadId").experimental(),
    forward("thread/backgroundTerminals/terminate").thread("threadId").experimental(),
    forward("thread/revert").order(&["threadId", "beforeTurnId"]).thread("threadId"),
    forward("thread/list").order(order::THREAD_LIST).fields(&[
        "includeAttachedThreads",
        "projectId",
        "parentThreadId",
        "ancestorThreadId",
        "attachedToThreadId",
    ]),
    forward("project/list").experimental(),
    forward("project/read").experimental(),
    forward("project/create").experimental(),
    forward("project/import").experimental(),
    forward("project/update").experimental(),
    forward("project/move").experimental(),
    forward("project/delete").experimental(),
    forward("threadSection/list"),
    forward("threadSection/create"),
    forward("threadSection/update"),
    forward("threadSection/delete"),
    forward("thread/search").experimental(),
    forward("thread/searchOccurrences").thread("threadId").experimental(),
    forward("thread/loaded/list"),
    forward("thread/read")
        .order(&["threadId", "includeTurns"])
        .thread("threadId")
        .effect(RequestEffect::Read),
    forward("thread/readState/update").thread("threadId").experimental(),
    forward("thread/turns/list").thread("threadId"),
    forward("thread/items/list").thread("threadId"),
    forward("thread/items/read").thread("threadId").experimental(),
    forward("thread/guardianReview").order(&["threadId"]).thread("threadId").experimental(),
    forward("thread/inject_items").thread("threadId"),
    forward("thread/prepareApprovedPlan").thread("threadId").experimental(),
    forward("skills/list"),
    forward("skills/extraRoots/set"),
    forward("hooks/list").thread("threadId"),
    forward("marketplace/add").work().long(),
    forward("marketplace/remove"),
    forward("marketplace/upgrade").work().long(),
    forward("plugin/list"),
    forward("plugin/search").experimental().long(),
    forward("plugin/installed"),
    forward("plugin/reconcile"),
    forward("plugin/read"),
    forward("plugin/skill/read"),
    forward("plugin/share/save").long(),
    forward("plugin/share/updateTargets"),
    forward("plugin/share/list"),
    forward("plugin/share/checkout").long(),
    forward("plugin/share/delete"),
    forward("app/read").thread("threadId"),
    forward("app/list").thread("threadId"),
    forward("app/installed").thread("threadId"),
    forward("fs/readFile"),
    forward("fs/writeFile"),
    forward("fs/createDirectory"),
    forward("fs/getMetadata"),
    forward("fs/readDirectory"),
    forward("fs/remove"),
    forward("fs/copy"),
    forward("fs/watch").order(&["watchId", "path"]).namespaced(Resource::Watch, "watchId").opens().work(),
    forward("fs/unwatch").order(&["watchId"]).namespaced(Resource::Watch, "watchId"),
    forward("skills/config/write"),
    forward("plugin/install").work().long(),
    forward("plugin/uninstall"),
    forward("turn/start")
        .order(order::TURN_START)
        .thread("threadId")
        .fields(&[
            "responsesapiClientMetadata",
            "responsesapiClientMetadataPatch",
            "additionalContext",
            "environments",
            "runtimeWorkspaceRoots",
            "permissions",
            "collaborationMode",
            "multiAgentMode",
            "cyberAccessProgram",
        ])
        .value(GatedValue::GranularApproval)
        .effect(RequestEffect::StartTurn)
        .work(),
    forward("turn/settings/update").thread("threadId").experimental(),
    forward("turn/steer").order(order::TURN_STEER).thread("threadId").fields(&[
        "responsesapiClientMetadata",
        "responsesapiClientMetadataPatch",
        "additionalContext",
    ]),
    forward("turn/interrupt").thread("threadId"),
    forward("thread/realtime/start")
        .order(order::THREAD_REALTIME_START)
        .thread("threadId")
        .experimental()
        .work(),
    forward("thread/realtime/appendAudio").order(&["threadId", "audio"]).thread("threadId").experimental(),
    forward("thread/realtime/appendText")
        .order(&["threadId", "text", "role"])
        .thread("threadId")
        .experimental(),
    forward("thread/realtime/appendSpeech").order(&["threadId", "text"]).thread("threadId").experimental(),
    forward("thread/realtime/stop").order(&["threadId"]).thread("threadId").experimental(),
    forward("thread/timeline/list").thread("threadId").experimental(),
    forward("thread/realtime/listVoices").experimental(),
    forward("review/start")
        .order(&["threadId", "target", "delivery"])
        .thread("threadId")
        .effect(RequestEffect::StartTurn)
        .work(),
    forward("model/list"),
    forward("account/gatewayOAuth/read"),
    forward("account/gatewayOAuth/login").work().long(),
    forward("account/gatewayOAuth/cancel"),
    forward("modelProvider/list"),
    forward("modelProvider/config/write"),
    forward("modelProvider/capabilities/read"),
    forward("experimentalFeature/list").thread("threadId"),
    forward("permissionProfile/list"),
    forward("experimentalFeature/enablement/set"),
    forward("remoteControl/enable").experimental(),
    forward("remoteControl/disable").experimental(),
    forward("remoteControl/status/read").experimental(),
    forward("remoteControl/pairing/start").experimental(),
    forward("remoteControl/pairing/status").experimental(),
    forward("remoteControl/client/list").experimental(),
    forward("remoteControl/client/revoke").experimental(),
    forward("collaborationMode/list").experimental(),
    forward("mock/experimentalMethod").experimental(),
    forward("environment/add").experimental(),
    forward("environment/info").experimental(),
    forward("environment/status").experimental(),
    forward("mcpServer/oauth/login").thread("threadId").long(),
    forward("config/mcpServer/reload"),
    forward("mcpServerStatus/list").thread("threadId"),
    forward("mcpServer/resource/read").thread("threadId"),
    forward("mcpServer/event/stream/start")
        .order(&["threadId", "server", "subscriptionId", "name", "arguments", "_meta"])
        .namespaced(Resource::EventStream, "subscriptionId")
        .opens()
        .thread("threadId")
        .experimental()
        .work()
        .long(),
    forward("mcpServer/event/stream/stop")
        .order(&["subscriptionId"])
        .namespaced(Resource::EventStream, "subscriptionId")
        .experimental(),
    forward("mcpServer/tool/call").thread("threadId").work().long(),
    forward("windowsSandbox/setupStart").effect(RequestEffect::WindowsSetup).long(),
    forward("windowsSandbox/readiness"),
    forward("account/login/start").order(&["type"]).value(GatedValue::ChatgptAuthTokens).work(),
    forward("account/bedrock/discover").experimental().long(),
    forward("account/bedrock/setup").experimental().long(),
    forward("account/gcp/setup").experimental().long(),
    forward("account/bedrock/checkGovCloudRequirements").experimental(),
    forward("account/login/cancel"),
    forward("accountSession/list").experimental(),
    forward("accountSession/switch").experimental().long(),
    forward("account/logout"),
    forward("account/securitySetup/read"),
    forward("account/rateLimits/read"),
    forward("account/rateLimitResetCredit/consume"),
    forward("account/usage/read"),
    forward("account/workspaceMessages/read"),
    forward("account/sendAddCreditsNudgeEmail"),
    forward("feedback/upload").thread("threadId").long(),
    forward("feedback/save").thread("threadId"),
    forward("command/exec")
        .order(order::COMMAND_EXEC)
        .namespaced(Resource::Exec, "processId")
        .opens()
        .fields(&["permissionProfile"])
        .work()
        .long(),
    forward("command/exec/write")
        .order(&["processId", "deltaBase64", "closeStdin"])
        .namespaced(Resource::Exec, "processId"),
    forward("command/exec/terminate").order(&["processId"]).namespaced(Resource::Exec, "processId"),
    forward("command/exec/resize").order(&["processId", "size"]).namespaced(Resource::Exec, "processId"),
    forward("process/spawn")
        .order(order::PROCESS_SPAWN)
        .namespaced(Resource::Process, "processHandle")
        .opens()
        .experimental()
        .work(),
    forward("process/writeStdin")
        .order(&["processHandle", "deltaBase64", "closeStdin"])
        .namespaced(Resource::Process, "processHandle")
        .experimental(),
    forward("process/kill")
        .order(&["processHandle"])
        .namespaced(Resource::Process, "processHandle")
        .experimental(),
    forward("process/resizePty")
        .order(&["processHandle", "size"])
        .namespaced(Resource::Process, "processHandle")
        .experimental(),
    forward("config/read"),
    forward("externalAgentConfig/detect").long(),
    forward("externalAgentConfig/import").work().long(),
    forward("externalAgentConfig/import/recordHistory"),
    forward("externalAgentConfig/import/readHistories"),
    forward("config/value/write"),
    forward("config/batchWrite"),
    forward("configRequirements/read"),
    forward("account/read"),
    forward("getConversationSummary"),
    forward("gitDiffToRemote").long(),
    forward("getAuthStatus"),
    forward("fuzzyFileSearch").long(),
    forward("fuzzyFileSearch/sessionStart").experimental().work(),
    forward("fuzzyFileSearch/sessionUpdate").experimental(),
    forward("fuzzyFileSearch/sessionStop").experimental(),
];
