//! A shell without sockets: it remembers the effects and empties the outboxes.

use codexd_proto::core::{Core, CoreConfig, CoreSettings, Effect, Event, Framing, Restart};
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::State;
use codexd_proto::router::{ClientShutdown, Limits, OrphanedTurns};
use codexd_proto::time::Time;
use serde_json::{Value, json};

pub(crate) struct Shell {
    pub(crate) core: Core,
    pub(crate) now: Time,
}

pub(crate) fn settings() -> CoreSettings {
    CoreSettings {
        limits: Limits::default(),
        client_shutdown: ClientShutdown::WhenUnused,
        orphaned_turns: OrphanedTurns::Keep,
        drain_ms: Some(30_000),
        health_interval_ms: None,
        health_timeout_ms: None,
        idle_exit_ms: None,
    }
}

impl Shell {
    /// A daemon that serves.
    pub(crate) fn serving(settings: CoreSettings, restart: Restart) -> Shell {
        Shell::with(CoreConfig { restart, clients_with_files: 3, ..CoreConfig::default() }, settings)
    }

    /// A daemon with this configuration that serves.
    pub(crate) fn with(config: CoreConfig, settings: CoreSettings) -> Shell {
        let now = Time::from_millis(1_000);
        let mut shell = Shell { core: Core::new(config, settings, now), now };
        shell.report(Event::UpstreamSpawned);
        shell.upstream(&json!({"id": 0, "result": {"userAgent": "x/0.169.0 (y)"}}));
        assert_eq!(shell.core.state(), State::Serving);
        shell
    }

    /// Reports something and returns the effects that follow.
    pub(crate) fn report(&mut self, event: Event<'_>) -> Vec<Effect> {
        self.core.handle(self.now, event);
        self.effects()
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.core.poll_effect(self.now)).collect()
    }

    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now + ms;
        self.core.handle_timeout(self.now);
        self.effects()
    }

    /// A client that speaks lines and has initialized.
    pub(crate) fn join(&mut self) -> ClientId {
        self.join_declaring(&json!({}))
    }

    /// A client that declares this to codexd.
    pub(crate) fn join_declaring(&mut self, own: &Value) -> ClientId {
        let client = self.core.connect(self.now);
        self.report(Event::ClientFraming { client, framing: Framing::Lines });
        let params = json!({"clientInfo": {"name": "c", "version": "1"}, "codexd": own});
        self.send(client, &json!({"id": 0, "method": "initialize", "params": params}));
        assert_eq!(self.got(client).len(), 1);
        client
    }

    pub(crate) fn send(&mut self, client: ClientId, message: &Value) -> Vec<Effect> {
        self.report(Event::ClientLine { client, line: message.to_string().as_bytes() })
    }

    pub(crate) fn upstream(&mut self, message: &Value) -> Vec<Effect> {
        self.report(Event::UpstreamLine(message.to_string().as_bytes()))
    }

    /// What a client gets; its socket is never full.
    pub(crate) fn got(&mut self, client: ClientId) -> Vec<Value> {
        let text = String::from_utf8(self.core.pending(client).to_vec()).unwrap();
        let bytes = text.len();
        self.core.handle(self.now, Event::ClientWritten { client, bytes, full: false, framing_waits: false });
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The ids of the requests that went to the upstream; its pipe is never full.
    pub(crate) fn sent(&mut self) -> Vec<Value> {
        let text = String::from_utf8(self.core.upstream_pending().to_vec()).unwrap();
        self.core.handle(self.now, Event::UpstreamWritten { bytes: text.len(), full: false });
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
