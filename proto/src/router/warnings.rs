//! Warnings about clients, turns and approvals, each with the next step.

use std::collections::BTreeMap;

use super::Router;
use super::pacing::PendingKind;
use super::silent_turns::INTERRUPT_WITHIN_MS;
use crate::listing::ClientName;
use crate::status::Warning;
use crate::time::Time;

/// Warnings of one kind that are shown. The last one gives the number of the others.
const MAX_OF_A_KIND: usize = 3;

/// Percent of a limit above which there is a warning.
const NEAR_PERCENT: usize = 80;

impl Router {
    /// Returns all warnings of the router.
    pub(super) fn warnings(&self, now: Time) -> Vec<Warning> {
        let kinds = [
            self.unassigned_warnings(now),
            self.silent_turn_warnings(now),
            self.slow_client_warnings(now),
            self.near_limit_warnings(),
            self.unanswered_warnings(now),
            self.interrupt_warnings(now),
        ];
        kinds.into_iter().flat_map(shortened).collect()
    }

    /// Warns of unassigned approvals.
    fn unassigned_warnings(&self, now: Time) -> Vec<Warning> {
        let unassigned = self.server_request_statuses(now).into_iter().filter(|r| r.state == "unassigned");
        unassigned
            .map(|request| Warning {
                code: "unassignedApproval".to_owned(),
                message: format!(
                    "`{}` on thread {} has waited for {} s, and no connected client can answer it",
                    request.method.as_deref().unwrap_or("a server request"),
                    request.thread_id.as_deref().unwrap_or("(unknown)"),
                    request.age_ms / 1_000
                ),
                hint: match &request.thread_id {
                    Some(thread) => format!(
                        "resume the thread with a client, which is asked then, or end its turn: `codexd ctl interrupt \
                         {thread}`"
                    ),
                    None => "connect a client".to_owned(),
                },
            })
            .collect()
    }

    /// Warns of turns about which codex has sent nothing for long, see [`silent_turns`](super::silent_turns).
    fn silent_turn_warnings(&self, now: Time) -> Vec<Warning> {
        let turns = self.turn_statuses(now).into_iter().filter(|turn| turn.silent);
        turns
            .map(|turn| Warning {
                code: "silentTurn".to_owned(),
                message: format!(
                    "codex has sent nothing about turn {} for {} s (phase {}, {})",
                    turn.id.as_deref().unwrap_or("(unknown)"),
                    turn.last_event_ms.unwrap_or_default() / 1_000,
                    turn.phase,
                    turn.by.as_ref().map_or_else(|| "started by an unknown client".to_owned(), by)
                ),
                hint: format!(
                    "a long command also sends nothing; `codexd ctl interrupt {}` ends the turn",
                    turn.id.as_ref().unwrap_or(&turn.thread_id)
                ),
            })
            .collect()
    }

    /// Warns of clients that read too slowly.
    fn slow_client_warnings(&self, now: Time) -> Vec<Warning> {
        let mut slow: Vec<_> = self.delivery.slow().collect();
        slow.sort_unstable();
        slow.into_iter()
            .map(|(client, bytes, since)| {
                let name = ClientName { id: u64::from(client.0), name: self.name_of(client) };
                Warning {
                    code: "slowClient".to_owned(),
                    message: format!(
                        "{} does not read fast enough: {} KiB are queued, above the limit for {} s",
                        named(&name),
                        bytes / 1024,
                        now.since(since) / 1_000
                    ),
                    hint: format!(
                        "it is closed after {} s of that; `codexd ctl kill {client}` does so now",
                        self.config.limits.client_queue_soft_ms / 1_000
                    ),
                }
            })
            .collect()
    }

    /// Warns of clients whose requests will soon be refused.
    fn near_limit_warnings(&self) -> Vec<Warning> {
        let most = self.config.limits.queued_requests_per_client;
        let mut near: Vec<_> = self
            .sessions
            .iter()
            .map(|(client, _)| (client, self.pacing.queued_of(client)))
            .filter(|(_, queued)| queued * 100 >= most.max(1) * NEAR_PERCENT)
            .collect();
        near.sort_unstable();
        near.into_iter()
            .map(|(client, queued)| {
                let name = ClientName { id: u64::from(client.0), name: self.name_of(client) };
                Warning {
                    code: "nearLimit".to_owned(),
                    message: format!("{queued} of {most} requests of {} wait for codex", named(&name)),
                    hint:
                        "further ones will be refused; `codexd ctl requests` shows what codex is working on"
                            .to_owned(),
                }
            })
            .collect()
    }

    /// Warns of turns that codexd has interrupted and that codex does not end.
    fn interrupt_warnings(&self, now: Time) -> Vec<Warning> {
        let own = self.pacing.own();
        let late = own.filter_map(|pending| match &pending.kind {
            PendingKind::Interrupt { thread, .. } => {
                Some((thread, now.since(pending.since))).filter(|(_, age)| *age >= INTERRUPT_WITHIN_MS)
            }
            _ => None,
        });
        let mut late: Vec<_> = late.collect();
        late.sort_unstable();
        late.into_iter()
            .map(|(thread, age)| Warning {
                code: "interruptUnanswered".to_owned(),
                message: format!(
                    "codex was told {} s ago to interrupt the turn of thread {thread} and has not answered",
                    age / 1_000
                ),
                hint: "if it does not end, restart codex when the other turns are over: `codexd ctl drain`, then \
                       `codexd ctl stop`"
                    .to_owned(),
            })
            .collect()
    }

    /// Warns of each method that should be answered at once and has unanswered requests: how many, and the age of
    /// the oldest.
    ///
    /// A slow request does not mean that the upstream is dead; the health check decides that.
    fn unanswered_warnings(&self, now: Time) -> Vec<Warning> {
        let mut late: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for (_, pending) in self.pacing.of_clients() {
            let Some(known) = pending.known.filter(|known| known.answers_soon()) else { continue };
            let age = now.since(pending.since);
            if age >= self.config.limits.unanswered_warning_ms && pending.offset().is_some() {
                let (count, oldest) = late.entry(known.method).or_default();
                *count += 1;
                *oldest = age.max(*oldest);
            }
        }
        late.into_iter()
            .map(|(method, (count, oldest))| Warning {
                code: "requestUnanswered".to_owned(),
                message: match count {
                    1 => format!("`{method}` has had no answer for {} s", oldest / 1_000),
                    n => {
                        format!("{n} requests `{method}` have no answer, the oldest for {} s", oldest / 1_000)
                    }
                },
                hint: "other requests are not affected; its client can give it up and send it again"
                    .to_owned(),
            })
            .collect()
    }
}

fn named(client: &ClientName) -> String {
    format!("client {} ({})", client.id, client.name.as_deref().unwrap_or("not initialized"))
}

fn by(client: &ClientName) -> String {
    format!("started by {}", named(client))
}

/// Keeps the first warnings of a kind, and adds the number of the others to the last.
fn shortened(mut warnings: Vec<Warning>) -> Vec<Warning> {
    let more = warnings.len().saturating_sub(MAX_OF_A_KIND);
    warnings.truncate(MAX_OF_A_KIND);
    if let Some(last) = warnings.last_mut().filter(|_| more > 0) {
        last.message.push_str(&format!("; and {more} more like this"));
    }
    warnings
}
