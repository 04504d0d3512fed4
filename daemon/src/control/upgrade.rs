//! The subscription by which `codexd ctl upgrade` has a daemon replaced: the candidate is tried, then the core waits until
//! nothing runs, and ends.
//!
//! The subscription is what keeps the wait: if it ends, because `ctl` was interrupted, killed or disconnected, the upgrade
//! is called off.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codexd_proto::control::{UpgradeRequest, UpgradeStep, Versions};
use codexd_proto::core::{CannotUpgrade, UpgradeOutcome};
use codexd_proto::feed::FeedEvent;
use codexd_proto::listing::{RequestStatus, TurnStatus};
use jsonrpsee::server::SubscriptionSink;
use tokio::sync::oneshot;

use super::Command;
use super::candidate::Refused;
use super::events::item;
use super::server::Service;
use super::surroundings::Candidate;
use crate::os::unix_time::unix_ms;

/// Time between looks at what is waited for, and at the candidate.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sends the steps of an upgrade until it is decided, or the subscriber is gone.
pub(super) async fn send(service: &Service, request: UpgradeRequest, sink: &SubscriptionSink) {
    // The last step; without one, the subscriber or the daemon is gone.
    if let Some(step) = run(service, request, sink).await {
        item(sink, &step).await;
    }
}

async fn run(service: &Service, request: UpgradeRequest, sink: &SubscriptionSink) -> Option<UpgradeStep> {
    match service.request(Command::CanUpgrade).await {
        Some(Ok(())) => {}
        Some(Err(why)) => return Some(not_possible(why)),
        None => return Some(no_answer()),
    }
    let report = service.report().await;
    let running = Versions { codexd: Some(report.version.clone()), codex: report.upstream.version.clone() };
    let surroundings = &service.surroundings;
    let asking = request.codexd.map(PathBuf::from);
    let mut candidate = surroundings.candidate(asking.as_deref());
    if surroundings.runs(&candidate) && !request.force {
        return Some(UpgradeStep::NothingNew { running });
    }
    if !item(sink, &UpgradeStep::Trying { running: running.clone() }).await {
        return None;
    }
    let mut next = match attempt(service, &candidate, sink).await? {
        Ok(next) => next,
        Err(refused) => return Some(refuse(service, refused)),
    };
    let (ended, mut end) = oneshot::channel();
    let begun = service
        .request(|reply| Command::Upgrade {
            within_ms: request.within_ms,
            program: candidate.codexd.clone(),
            reply,
            ended,
        })
        .await;
    let number = match begun {
        Some(Ok(number)) => number,
        Some(Err(why)) => return Some(not_possible(why)),
        None => return Some(no_answer()),
    };
    let call_off = || {
        // A core that has ended needs no calling off.
        let _ = service.handle.commands.send(Command::CallOffUpgrade { number });
    };
    let mut sent: Option<(Vec<String>, usize)> = None;
    loop {
        tokio::select! {
            biased;
            outcome = &mut end => return Some(decided(outcome.ok(), next)),
            () = sink.closed() => {
                call_off();
                return None;
            }
            () = tokio::time::sleep(if sent.is_some() { LOOK_EVERY } else { Duration::ZERO }) => {}
        }
        let now = surroundings.candidate(asking.as_deref());
        if now != candidate {
            // It was replaced again since: what is tried is what will run.
            candidate = now;
            match attempt(service, &candidate, sink).await {
                Some(Ok(tried)) => next = tried,
                Some(Err(refused)) => {
                    call_off();
                    return Some(refuse(service, refused));
                }
                None => {
                    call_off();
                    return None;
                }
            }
        }
        let (turns, requests) = waited_for(service).await;
        let key = (turns.iter().filter_map(|turn| turn.id.clone()).collect(), requests.len());
        if sent.as_ref() != Some(&key) {
            let step = UpgradeStep::Waiting { next: next.clone(), turns, requests };
            if !item(sink, &step).await {
                call_off();
                return None;
            }
            sent = Some(key);
        }
    }
}

async fn waited_for(service: &Service) -> (Vec<TurnStatus>, Vec<RequestStatus>) {
    let status = service.request(Command::Status).await.and_then(|report| report.upgrade);
    status.map(|upgrade| (upgrade.turns, upgrade.requests)).unwrap_or_default()
}

/// Tries the candidate; `None` if the subscriber is gone, or the daemon ends.
async fn attempt(
    service: &Service,
    candidate: &Candidate,
    sink: &SubscriptionSink,
) -> Option<Result<Versions, Refused>> {
    let Some(program) = candidate.codexd.clone() else {
        return Some(Err(Refused {
            reason: "cannot tell which codexd the next daemon runs".to_owned(),
            hint: None,
        }));
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    let (reply, tried) = oneshot::channel();
    let (surroundings, stop) = (Arc::clone(&service.surroundings), Arc::clone(&cancelled));
    let thread = std::thread::Builder::new().name("trial".to_owned()).spawn(move || {
        let _ = reply.send(surroundings.attempt(&program, || stop.load(Ordering::Relaxed)));
    });
    if let Err(error) = thread {
        return Some(Err(Refused { reason: format!("cannot start a thread: {error}"), hint: None }));
    }
    let tried = tokio::select! {
        tried = tried => tried.ok(),
        () = sink.closed() => None,
        () = service.stop.cancelled() => None,
    };
    cancelled.store(true, Ordering::Relaxed);
    Some(tried?.map(|report| {
        tracing::info!(
            codexd.version = report.versions.codexd,
            codex.version = report.versions.codex,
            "tried what the next daemon would run: it runs"
        );
        report.versions
    }))
}

fn refuse(service: &Service, refused: Refused) -> UpgradeStep {
    let Refused { reason, hint } = refused;
    let reason = service.surroundings.mask(&reason);
    tracing::warn!(reason, "the upgrade is refused: what the next daemon would run does not run");
    // There may be no subscriber.
    let _ = service.handle.shown.feed.send(Arc::new(FeedEvent {
        at_unix_ms: unix_ms(),
        kind: "upgradeRefused".to_owned(),
        message: Some(reason.clone()),
        ..FeedEvent::default()
    }));
    UpgradeStep::CandidateRefused { reason, hint }
}

fn decided(outcome: Option<UpgradeOutcome>, next: Versions) -> UpgradeStep {
    match outcome {
        Some(UpgradeOutcome::HandsOver) => UpgradeStep::HandsOver { next },
        Some(UpgradeOutcome::TimedOut) => UpgradeStep::TimedOut,
        Some(UpgradeOutcome::CalledOff) => UpgradeStep::CalledOff { reason: "it was called off".to_owned() },
        Some(UpgradeOutcome::Ends(reason)) => UpgradeStep::CalledOff { reason },
        None => UpgradeStep::CalledOff { reason: "the daemon ended".to_owned() },
    }
}

fn not_possible(why: CannotUpgrade) -> UpgradeStep {
    let (reason, hint) = match why {
        CannotUpgrade::Starts => {
            ("the daemon is starting".to_owned(), "`codexd ctl wait ready` waits until it serves")
        }
        CannotUpgrade::Waits => (
            "another `codexd ctl upgrade` waits already".to_owned(),
            "`codexd ctl status` shows what it waits for; Ctrl-C of that command calls it off",
        ),
        CannotUpgrade::Ends(reason) => (reason, "the next start runs the codex and codexd on disk"),
        CannotUpgrade::NobodyStarts => (
            "the daemon was started by hand, and nothing would start the next one".to_owned(),
            "`codexd ctl stop` stops it when its turns have ended; then start it again",
        ),
    };
    UpgradeStep::NotPossible { reason, hint: Some(hint.to_owned()) }
}

fn no_answer() -> UpgradeStep {
    UpgradeStep::NotPossible {
        reason: "the core of the daemon does not answer".to_owned(),
        hint: Some("`codexd ctl status` shows its state".to_owned()),
    }
}
