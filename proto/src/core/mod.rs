//! The core: every decision of the daemon in one value.
//!
//! # Theory of operation
//! [`Core`] combines the [`Router`], the [`Lifecycle`], the [health check](crate::health), the connections and the idle
//! exit. Facts go in as [`Event`]s with the time at which they happened. Bytes come out in one outbox per peer, and
//! everything else that is to be done comes out as [`Effect`]s. The shell (the daemon's hub, or a simulation) decides
//! nothing. It repeats three steps:
//!
//! 1. Report what happened ([`Core::handle`], [`Core::handle_timeout`]).
//! 2. Write to the clients that [`Core::poll_dirty`] names and to the upstream, and report what was written.
//! 3. Carry out the next effect ([`Core::poll_effect`]) and go back to step 2, until there is no effect left.
//!
//! The effects of one event come in order, and the core decides on none before the shell has reported the result of the
//! one before: after [`Effect::FinalRead`], everything that clients had sent is known before their pending requests are
//! resolved.
//!
//! # What is not here
//! No runtime, socket, clock or process: `codexd-proto` cannot reach any.

mod connection;
mod diagnosis;
mod effect;
mod event;
mod idle;
mod refusal;
mod report;
mod succession;
mod timer;
mod upgrade;

use std::collections::VecDeque;

use crate::exit::ExitCode;
use crate::health::Health;
use crate::id::ClientId;
use crate::json::text_check::TextCheck;
use crate::lifecycle::{
    ChildStatus, Intent, Lifecycle, LifecycleEffect, LifecycleEvent, State, StopSource, Timeouts, end_reason,
};
use crate::message::Reader;
use crate::rate_limit::RateLimit;
#[doc(hidden)]
pub use crate::router::Accounting;
use crate::router::{
    Action, Activity, CannotInterrupt, ClientShutdown, CloseReason, Config, Interrupting, Limits,
    OrphanedTurns, Router, ShutdownNotice,
};
use crate::secrets::Secrets;
use crate::thread_book::{Entry, ThreadBook};
use crate::time::Time;

pub use effect::{Effect, Fact};
pub use event::{Event, Framing};
pub use refusal::Refusal;
pub use timer::Timer;
pub use upgrade::{CannotUpgrade, UpgradeOutcome};

use connection::{Connections, Stage};
use diagnosis::Diagnosis;
use idle::Idle;
use succession::Succession;

/// Bytes queued for the upstream above which no client is read. The rest of one read, or of a message that has
/// begun, is queued all the same.
const BACKLOG_BYTES: usize = 16 << 20;

/// Slow clients that are logged without a pause, and milliseconds after which another one is.
const SLOW_REPORTS: u32 = 5;
const SLOW_REPORT_EVERY_MS: u64 = 60_000;

/// What starts codexd again after it has exited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Nothing: it was started by hand.
    #[default]
    Never,
    /// A supervisor, unless the exit was intended.
    OnFailure,
    /// The next client, by socket activation.
    OnDemand,
    /// The next client, because it starts a daemon when it finds none; or this daemon, if it loses its upstream while
    /// clients are connected, and for an upgrade.
    BySuccessor,
}

/// Settings that can change while clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSettings {
    /// Limits of the router.
    pub limits: Limits,
    /// What `broker/shutdown` does.
    pub client_shutdown: ClientShutdown,
    /// What happens to turns whose last subscriber disconnects, unless that client declared it.
    pub orphaned_turns: OrphanedTurns,
    /// Milliseconds that running turns get when the daemon stops; `None`: no limit.
    pub drain_ms: Option<u64>,
    /// Milliseconds without output of the upstream after which a health check is sent; `None`: never.
    pub health_interval_ms: Option<u64>,
    /// Milliseconds without an answer to a health check after which the upstream is lost; `None`: never.
    pub health_timeout_ms: Option<u64>,
    /// Milliseconds without clients and work after which the daemon exits; `None`: never.
    pub idle_exit_ms: Option<u64>,
}

/// Settings that do not change while clients are served.
#[derive(Clone, Debug, Default)]
pub struct CoreConfig {
    /// Settings of the router.
    pub router: Config,
    /// Limits on the steps of the lifecycle. That on the drain is in [`CoreSettings`].
    pub timeouts: Timeouts,
    /// What starts codexd again.
    pub restart: Restart,
    /// Clients for which the limit on open files has room.
    pub clients_with_files: usize,
    /// What is masked in the upstream's output.
    pub secrets: Secrets,
}

/// Whether another client can be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Free,
    /// The limit on open files is reached: it is refused.
    NoFiles,
    /// The limit on clients is reached: it is refused.
    Full,
}

/// An effect, or something that the core does itself in the same order.
#[derive(Debug)]
enum Step {
    Effect(Effect),
    RefuseNewWork,
    AcceptNewWork,
    SendShutdownNotice,
    InterruptTurns,
    Resolve,
}

impl From<Effect> for Step {
    fn from(effect: Effect) -> Step {
        Step::Effect(effect)
    }
}

/// Every decision of the daemon. See the [module's documentation](self).
#[derive(Debug)]
pub struct Core {
    router: Router,
    lifecycle: Lifecycle,
    health: Health,
    connections: Connections,
    idle: Idle,
    restart: Restart,
    succession: Succession,
    limits: Limits,
    clients_with_files: usize,
    /// Whether the upstream's input can be written to.
    input_open: bool,
    /// Effects and steps to come, in order.
    steps: VecDeque<Step>,
    /// Events to come for the lifecycle.
    events: VecDeque<LifecycleEvent>,
    /// How the upstream ended, as text.
    ended: Option<String>,
    /// What it wrote about the reason.
    diagnosis: Diagnosis,
    /// Whether clients have ever been served.
    served: bool,
    /// Limits how often slow clients are logged.
    slow_reports: RateLimit,
}

impl Core {
    /// Creates the core of a daemon that starts now; its first line is in the upstream's outbox.
    pub fn new(config: CoreConfig, settings: CoreSettings, now: Time) -> Core {
        let router = Config {
            limits: settings.limits,
            client_shutdown: settings.client_shutdown,
            orphaned_turns: settings.orphaned_turns,
            ..config.router
        };
        let timeouts = Timeouts { drain_ms: settings.drain_ms, ..config.timeouts };
        Core {
            router: Router::new(router, now),
            lifecycle: Lifecycle::new(timeouts, now),
            health: Health::new(settings.health_interval_ms, settings.health_timeout_ms, now),
            connections: Connections::default(),
            idle: Idle::new(settings.idle_exit_ms),
            restart: config.restart,
            succession: Succession::default(),
            limits: settings.limits,
            clients_with_files: config.clients_with_files,
            input_open: true,
            steps: VecDeque::new(),
            events: VecDeque::new(),
            ended: None,
            diagnosis: Diagnosis::new(config.secrets),
            served: false,
            slow_reports: RateLimit::new(SLOW_REPORTS, SLOW_REPORT_EVERY_MS),
        }
    }

    /// Sets the permissions of threads that earlier daemons have recorded.
    pub fn remember_earlier(&mut self, book: ThreadBook) {
        self.router.remember_earlier(book);
    }

    /// Applies new settings.
    pub fn reconfigure(&mut self, settings: CoreSettings) {
        self.router.reconfigure(settings.limits, settings.client_shutdown, settings.orphaned_turns);
        self.lifecycle.set_drain_ms(settings.drain_ms);
        self.health.set_limits(settings.health_interval_ms, settings.health_timeout_ms);
        self.idle.set_exit_ms(settings.idle_exit_ms);
        // Connections began with the old limit on messages.
        self.limits = Limits { max_message_bytes: self.limits.max_message_bytes, ..settings.limits };
    }

    /// Adds a connection whose peer was checked.
    pub fn connect(&mut self, now: Time) -> ClientId {
        let client = self.router.client_connected(now);
        self.connections.add(client, self.idle.take_since());
        client
    }

    /// Handles an event.
    #[inline]
    pub fn handle(&mut self, now: Time, event: Event<'_>) {
        match event {
            Event::UpstreamLine(line) => {
                if !self.served {
                    self.diagnosis.record_early_line(line);
                }
                self.router.upstream_line(now, line);
            }
            Event::UpstreamOutput => self.health.record_output(now),
            Event::ClientLine { client, line } => self.router.client_line(now, client, line),
            Event::ClientWritten { client, bytes, full, framing_waits } => {
                self.router.client_written(client, bytes, full);
                self.client_written(client, framing_waits);
            }
            Event::UpstreamWritten { bytes, full } => self.router.upstream_outbox().advance(bytes, full),
            other => self.handle_rare(now, other),
        }
    }

    /// Handles a long message of a client that was read in slices to its end. As [`Event::ClientLine`], but it
    /// takes the line, so that it need not be copied.
    pub fn client_line_read(&mut self, now: Time, client: ClientId, line: Vec<u8>, reader: Reader) {
        self.router.client_line_read(now, client, line, reader);
    }

    /// Handles a long line of the upstream whose text was checked in slices to its end. As [`Event::UpstreamLine`],
    /// but it takes the line, so that it need not be copied.
    pub fn upstream_line_read(&mut self, now: Time, line: Vec<u8>, text: &TextCheck) {
        if !self.served {
            self.diagnosis.record_early_line(&line);
        }
        self.router.upstream_line_read(now, line, text);
    }

    fn handle_rare(&mut self, now: Time, event: Event<'_>) {
        match event {
            Event::ClientFraming { client, framing } => {
                let stage = if framing == Framing::Http { Stage::Head } else { Stage::Open(framing) };
                self.connections.enter(now, client, stage);
            }
            Event::ClientLineTooLong { client } => {
                self.router.client_line_too_long(now, client, self.limits.max_message_bytes);
            }
            Event::ClientEof { client, hung_up, framing_waits } => {
                self.client_eof(now, client, hung_up, framing_waits);
            }
            Event::HttpRequest { client } => {
                // The connection is not one of the clients in the response, and has not used the daemon.
                self.router.client_gone(now, client);
                let unused = self.connections.unused_before(client).filter(|_| self.router.is_unused());
                self.idle.restore(unused);
                self.connections.enter(now, client, Stage::Ending);
            }
            Event::ClientEnding { client } => {
                self.router.client_gone(now, client);
                self.connections.enter(now, client, Stage::Ending);
            }
            Event::ClientDisconnected { client } => {
                if self.connections.remove(client) {
                    self.router.client_gone(now, client);
                }
            }
            Event::UpstreamInputBroken => self.input_open = false,
            Event::UpstreamSpawned => self.events.push_back(LifecycleEvent::Spawned),
            Event::SpawnFailed(code) => self.events.push_back(LifecycleEvent::SpawnFailed(code)),
            Event::UpstreamLineTooLong => {
                self.steps.push_back(Effect::Log(Fact::UpstreamLineTooLong).into());
                self.events.push_back(LifecycleEvent::UpstreamMalformed);
            }
            Event::UpstreamStderr(lines) => self.diagnosis.set_stderr(lines),
            Event::UpstreamEof => self.events.push_back(LifecycleEvent::UpstreamEof),
            Event::UpstreamExited(status) => {
                self.ended = Some(status.to_string());
                self.events.push_back(LifecycleEvent::UpstreamExited(status));
            }
            Event::StopRequested(by) => self.events.push_back(LifecycleEvent::StopRequested(by)),
            Event::InterruptRequested(by) => {
                self.events.push_back(LifecycleEvent::InterruptRequested(by));
            }
            Event::KillRequested(by) => self.events.push_back(LifecycleEvent::KillRequested(by)),
            Event::UpgradeRequested { within_ms } => {
                self.events.push_back(LifecycleEvent::UpgradeRequested(within_ms));
            }
            Event::UpgradeCalledOff => self.events.push_back(LifecycleEvent::UpgradeCalledOff),
            Event::SocketLost => {
                if self.idle.is_idle() {
                    self.steps.push_back(Effect::Log(Fact::SocketLost).into());
                    self.stop_unused();
                }
            }
            Event::MemoryHigh { bytes } => {
                if self.is_unused() {
                    self.steps.push_back(Effect::Log(Fact::MemoryHigh(bytes)).into());
                    self.stop_unused();
                }
            }
            Event::UpstreamLine(_)
            | Event::UpstreamOutput
            | Event::ClientLine { .. }
            | Event::ClientWritten { .. }
            | Event::UpstreamWritten { .. } => self.handle(now, event),
        }
    }

    /// Returns the next effect; `None` if there is nothing to do until the next event.
    pub fn poll_effect(&mut self, now: Time) -> Option<Effect> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                if let Some(effect) = self.carry_out(now, step) {
                    return Some(effect);
                }
            } else if let Some(action) = self.router.poll_action() {
                self.act(now, action);
            } else if let Some(event) = self.events.pop_front().or_else(|| self.reached()) {
                let from = self.lifecycle.state();
                let effects = self.lifecycle.handle(now, event);
                let (connections, router) = (&self.connections, &self.router);
                self.succession.observe(event, self.lifecycle.intent(), || {
                    connections.attached().filter(|client| router.uses_next_daemon(*client)).count()
                });
                self.observe_upgrade(from, Some(event));
                self.follow(from, effects);
            } else {
                let unused = self.lifecycle.state() == State::Serving && self.router.is_unused();
                self.idle.observe(now, unused);
                return None;
            }
        }
    }

    // ---- the lifecycle -------------------------------------------------------------------------

    /// Returns the event that the current state waits for, if it has occurred.
    fn reached(&self) -> Option<LifecycleEvent> {
        match self.lifecycle.state() {
            State::Upgrading | State::Draining | State::Interrupting if self.router.is_quiet() => {
                Some(LifecycleEvent::Quiet)
            }
            State::Flushing if !self.has_unwritten() => Some(LifecycleEvent::Flushed),
            _ => None,
        }
    }

    fn has_unwritten(&self) -> bool {
        self.connections.len() > 0 && self.router.has_unwritten()
    }

    /// Queues the effects of a step of the lifecycle, in order.
    fn follow(&mut self, from: State, effects: Vec<LifecycleEffect>) {
        for effect in effects {
            let step = match effect {
                LifecycleEffect::Arm(_) | LifecycleEffect::Disarm => continue,
                LifecycleEffect::Ready => Effect::NotifyReady.into(),
                LifecycleEffect::NotifyStopping => Effect::NotifyStopping.into(),
                LifecycleEffect::StopListening => Effect::StopListening.into(),
                LifecycleEffect::RefuseNewWork => Step::RefuseNewWork,
                LifecycleEffect::AcceptNewWork => Step::AcceptNewWork,
                LifecycleEffect::SendShutdownNotice => Step::SendShutdownNotice,
                LifecycleEffect::InterruptTurns => Step::InterruptTurns,
                LifecycleEffect::ResolveClients => {
                    self.steps.push_back(Effect::FinalRead.into());
                    Step::Resolve
                }
                LifecycleEffect::CloseClients => {
                    // Requests that came since get a response, too.
                    self.steps.push_back(Effect::FinalRead.into());
                    Effect::CloseAll.into()
                }
                LifecycleEffect::CloseInput => Effect::CloseInput.into(),
                LifecycleEffect::Terminate => Effect::Terminate.into(),
                LifecycleEffect::Kill => Effect::Kill.into(),
                LifecycleEffect::Sweep => Effect::Sweep.into(),
            };
            self.steps.push_back(step);
        }
        let to = self.lifecycle.state();
        if from != to {
            self.steps.push_back(Effect::StateChanged { from, to }.into());
        }
    }

    fn carry_out(&mut self, now: Time, step: Step) -> Option<Effect> {
        match step {
            Step::Effect(effect) => {
                match effect {
                    Effect::NotifyReady => {
                        self.served = true;
                        self.router.request_methods(now);
                    }
                    Effect::CloseInput => self.input_open = false,
                    _ => {}
                }
                return Some(effect);
            }
            Step::RefuseNewWork => {
                let left_ms = self.lifecycle.poll_timeout().map(|at| at.since(now));
                self.router.refuse_new_work(now, left_ms);
            }
            Step::AcceptNewWork => self.router.accept_new_work(now),
            Step::SendShutdownNotice => {
                let reason = self.reason();
                // For an upgrade, nothing runs any more.
                let waits = self.lifecycle.state() == State::Draining && !self.is_upgrade();
                let deadline_ms = if waits { self.lifecycle.drain_ms() } else { Some(0) };
                let retry_after_ms = self.retry_after_ms();
                let intended = !self.is_upgrade();
                let notice = ShutdownNotice { reason: &reason, deadline_ms, retry_after_ms, intended };
                self.router.begin_drain(now, &notice);
            }
            Step::InterruptTurns => self.router.interrupt_turns(now),
            Step::Resolve => {
                let mut loss = end_reason::loss(self.lifecycle.intent(), self.lifecycle.child());
                loss.message = self.explain(loss.message);
                let reason = self.reason();
                let retry_after_ms = self.retry_after_ms();
                let intended = matches!(self.lifecycle.intent(), Some(Intent::Stop(_)));
                let notice =
                    ShutdownNotice { reason: &reason, deadline_ms: Some(0), retry_after_ms, intended };
                self.router.upstream_lost(now, loss, &notice);
            }
        }
        None
    }

    /// Returns whether the daemon ends for an upgrade.
    fn is_upgrade(&self) -> bool {
        self.lifecycle.intent() == Some(&Intent::Upgrade)
    }

    /// Returns the milliseconds after which a client can connect again; `None` if nothing starts codexd again.
    fn retry_after_ms(&self) -> Option<u64> {
        let intended = matches!(self.lifecycle.intent(), Some(Intent::Stop(_)));
        let restarts = match self.restart {
            Restart::Never => false,
            Restart::OnFailure => !intended,
            Restart::OnDemand | Restart::BySuccessor => true,
        };
        restarts.then_some(end_reason::RETRY_AFTER_MS)
    }

    fn act(&mut self, now: Time, action: Action) {
        match action {
            Action::Close { client, reason } => self.close(now, client, reason),
            Action::UpstreamReady => {
                // Some half-closed clients have sent nothing that needs a reply.
                for client in self.connections.half_closed() {
                    if !self.router.has_pending_replies(client) {
                        self.steps.push_back(Effect::CloseClient { client, reason: None }.into());
                    }
                }
                self.events.push_back(LifecycleEvent::HandshakeDone);
            }
            Action::UpstreamRefused { message } => {
                let message = self.diagnosis.refused(&message);
                self.steps.push_back(Effect::Log(Fact::HandshakeRefused(message)).into());
                self.events.push_back(LifecycleEvent::HandshakeRefused);
            }
            // Any message shows that the upstream is alive: it was recorded when it came.
            Action::PingAnswered => {}
            Action::ShutdownRequested { client } => {
                self.steps.push_back(Effect::Log(Fact::ShutdownRequested(client)).into());
                self.events.push_back(LifecycleEvent::StopRequested(StopSource::Client));
            }
            Action::Remember { thread, permissions } => {
                self.steps
                    .push_back(Effect::Remember(Entry { thread_id: thread.to_string(), permissions }).into());
            }
            Action::PermissionsNotRestored { thread, reason } => {
                self.steps.push_back(Effect::Log(Fact::PermissionsNotRestored { thread, reason }).into());
            }
            Action::UpstreamMalformed => {
                self.steps.push_back(Effect::Log(Fact::UpstreamMalformed).into());
                self.events.push_back(LifecycleEvent::UpstreamMalformed);
            }
        }
    }

    // ---- connections ---------------------------------------------------------------------------

    /// Closes a connection on behalf of the router.
    fn close(&mut self, now: Time, client: ClientId, reason: CloseReason) {
        if reason == CloseReason::TooSlow
            && let Some(suppressed) = self.slow_reports.pass(now)
        {
            let name = self.router.client_name(client).map(str::to_owned);
            let queued_bytes = self.router.queued_bytes(client);
            self.steps.push_back(
                Effect::Log(Fact::ClientTooSlow { client, name, queued_bytes, suppressed }).into(),
            );
        }
        if reason.flushes() && !self.pending(client).is_empty() {
            self.connections.enter(now, client, Stage::Flushing(reason));
        } else {
            self.steps.push_back(Effect::CloseClient { client, reason: Some(reason) }.into());
        }
    }

    fn client_written(&mut self, client: ClientId, framing_waits: bool) {
        let reason = match self.connections.stage(client) {
            Some(Stage::Flushing(reason)) => Some(reason),
            Some(Stage::HalfClosed(_)) => None,
            _ => return,
        };
        let replied = reason.is_some() || !self.router.has_pending_replies(client);
        if replied && !framing_waits && self.pending(client).is_empty() {
            self.steps.push_back(Effect::CloseClient { client, reason }.into());
        }
    }

    /// Handles the end of a client's input. A client that closed only its sending half gets its pending replies first.
    fn client_eof(&mut self, now: Time, client: ClientId, hung_up: bool, framing_waits: bool) {
        let Some(stage) = self.connections.stage(client) else { return };
        let effect = match stage {
            _ if hung_up => Effect::DropClient { client },
            Stage::New | Stage::Head => Effect::DropClient { client },
            Stage::Open(framing) => {
                if self.router.has_pending_replies(client) {
                    return self.connections.enter(now, client, Stage::HalfClosed(framing));
                }
                Effect::CloseClient { client, reason: None }
            }
            Stage::Ending if !framing_waits => Effect::DropClient { client },
            Stage::HalfClosed(_) | Stage::Flushing(_) | Stage::Ending => return,
        };
        self.steps.push_back(effect.into());
    }

    /// Returns whether another client can be accepted.
    pub fn room(&self) -> Room {
        // A connection that gets a page or its last bytes is not a client.
        if self.router.clients() >= self.limits.max_clients {
            Room::Full
        } else if self.connections.len() >= self.clients_with_files {
            Room::NoFiles
        } else {
            Room::Free
        }
    }

    /// Returns whether a client can be read: not while too much is queued for the upstream.
    pub fn may_read(&mut self, client: ClientId) -> bool {
        let sends = matches!(
            self.connections.stage(client),
            Some(Stage::Open(_) | Stage::HalfClosed(_) | Stage::Flushing(_))
        );
        let backlogged = sends && self.is_upstream_backlogged();
        !backlogged && !self.router.is_reading_paused(client)
    }

    /// Returns whether so much is queued for the upstream that no client is read. No other limit applies to messages
    /// without a response.
    pub fn is_upstream_backlogged(&mut self) -> bool {
        self.input_open && self.router.upstream_outbox().len() > BACKLOG_BYTES
    }

    // ---- bytes ---------------------------------------------------------------------------------

    /// Removes the next client with new bytes in its outbox.
    pub fn poll_dirty(&mut self) -> Option<ClientId> {
        self.router.poll_dirty()
    }

    /// Returns the bytes queued for a client: whole lines, except for the rest of a partly written one.
    pub fn pending(&mut self, client: ClientId) -> &[u8] {
        self.router.outbox(client).map_or(&[], |outbox| outbox.pending())
    }

    /// Returns how many messages were queued for a client since it connected; `None` if [`pending`](Core::pending) does not
    /// return all that wait.
    pub fn queued_messages(&mut self, client: ClientId) -> Option<u64> {
        self.router.queued_messages(client)
    }

    /// Returns the last bytes of a connection that speaks lines, see [`Router::last_lines`].
    pub fn last_lines(&mut self, client: ClientId, reason: CloseReason) -> Vec<u8> {
        self.router.last_lines(client, reason)
    }

    /// Returns the reason for which a client's connection is closed, as a text for people.
    pub fn describe(&self, client: ClientId, reason: CloseReason) -> String {
        reason.describe(self.router.queued_bytes(client))
    }

    /// Returns the name in a client's `initialize`, shortened as in an [`Activity`].
    pub fn client_name(&self, client: ClientId) -> Option<String> {
        self.router.name_of(client)
    }

    /// Interrupts a turn on behalf of an operator, see [`Router::interrupt`].
    ///
    /// # Errors
    ///
    /// If there is no such turn.
    pub fn interrupt(&mut self, now: Time, target: &str) -> Result<Interrupting, CannotInterrupt> {
        self.router.interrupt(now, target)
    }

    /// Closes a client's connection on behalf of an operator. Returns whether there is such a client.
    pub fn kill_client(&mut self, now: Time, client: ClientId) -> bool {
        self.router.kill_client(now, client)
    }

    /// Removes the next activity for the log. It must be polled as effects are, since activities are kept until then.
    pub fn poll_activity(&mut self) -> Option<Activity> {
        self.router.poll_activity().map(|activity| match activity {
            Activity::ConfigWarning { text } => Activity::ConfigWarning { text: self.diagnosis.mask(&text) },
            Activity::InterruptRefused { thread, message } => {
                Activity::InterruptRefused { thread, message: self.diagnosis.mask(&message) }
            }
            other => other,
        })
    }

    /// Returns the bytes to write to the upstream next: not always all that are queued, and empty only if nothing is.
    pub fn upstream_pending(&mut self) -> &[u8] {
        self.router.upstream_outbox().pending()
    }

    // ---- queries ------------------------------------------------------------------------------

    /// Returns the state of the lifecycle.
    pub fn state(&self) -> State {
        self.lifecycle.state()
    }

    /// Returns why the daemon ends; `None` before it does.
    pub fn intent(&self) -> Option<&Intent> {
        self.lifecycle.intent()
    }

    /// Returns how the upstream process ended; `None` before it has.
    pub fn child(&self) -> Option<ChildStatus> {
        self.lifecycle.child()
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns how the upstream ended or failed to start, as text.
    pub fn upstream_end(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Returns the exit code of the process; `None` before it is to exit.
    pub fn exit_code(&self) -> Option<ExitCode> {
        self.lifecycle.exit_code()
    }

    /// Returns whether the daemon that ends starts the next one itself.
    pub fn has_successor(&self) -> bool {
        self.succession.is_due(self.restart)
    }

    /// Returns the milliseconds until running turns are interrupted; `None` without a drain or without a deadline.
    pub fn drain_left_ms(&self, now: Time) -> Option<u64> {
        let draining = self.lifecycle.state() == State::Draining;
        self.lifecycle.poll_timeout().filter(|_| draining).map(|at| at.since(now))
    }

    /// Returns the most milliseconds that a drain and the stop after it can take; `None` without a limit.
    pub fn longest_stop_ms(&self) -> Option<u64> {
        self.lifecycle.longest_stop_ms()
    }

    /// Returns whether the daemon has started and the watchdog can be notified.
    ///
    /// The call itself proves that the core loop runs. The upstream counts as alive until a health check fails.
    /// Then the daemon stops, and each step to its end has a timer of its own.
    pub fn is_alive(&self) -> bool {
        self.lifecycle.state() != State::Starting
    }

    /// Returns whether the daemon is stopping and has not exited.
    pub fn is_stopping(&self) -> bool {
        !matches!(
            self.lifecycle.state(),
            State::Starting | State::Handshaking | State::Serving | State::Upgrading | State::Exited
        )
    }

    /// Returns whether a client has pending replies.
    pub fn has_pending_replies(&self, client: ClientId) -> bool {
        self.router.has_pending_replies(client)
    }

    /// Returns whether the daemon serves, no client is connected and nothing runs.
    pub fn is_unused(&self) -> bool {
        self.lifecycle.state() == State::Serving && self.router.is_unused()
    }

    /// Returns whether nothing runs that a drain would wait for.
    pub fn is_quiet(&self) -> bool {
        self.router.is_quiet()
    }

    /// Counts what the router keeps, for tests that look for leaks.
    #[doc(hidden)]
    pub fn accounting(&self) -> Accounting {
        self.router.accounting()
    }
}
