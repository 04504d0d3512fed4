//! Jobs, for people.

use std::fmt::Write as _;

use super::super::ctl::{duration, table};
use crate::ledger::JobRow;
use crate::os::unix_time::unix_ms;
use crate::turn::plain;

/// Characters of an id that are shown in a list.
const ID_CHARS: usize = 8;
/// Characters of a prompt that are shown in a list.
const PROMPT_CHARS: usize = 50;

pub(super) fn list(jobs: &[JobRow]) -> String {
    let now = unix_ms();
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            let details = job.error.as_deref().or(job.phase.as_deref()).unwrap_or_default();
            vec![
                short(&job.id),
                job.state.word().to_owned(),
                format!("{} ago", duration(now.saturating_sub(job.created_unix_ms))),
                job.started_unix_ms.map_or_else(
                    || "-".to_owned(),
                    |started| duration(job.ended_unix_ms.unwrap_or(now).saturating_sub(started)),
                ),
                prompt(job),
                plain(details),
            ]
        })
        .collect();
    table(&[("JOB", 0), ("STATE", 0), ("CREATED", 2), ("TOOK", 1), ("PROMPT", 0), ("DETAILS", 3)], &rows)
}

pub(super) fn one(job: &JobRow) -> String {
    let now = unix_ms();
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<12}{value}");
    };
    line("job", &job.id);
    let known = job.known_by.as_deref().map(|known| format!(" ({known})")).unwrap_or_default();
    line("state", &format!("{}{known}", job.state.word()));
    if let Some(error) = &job.error {
        line("error", &plain(error));
    }
    if let Some(phase) = &job.phase {
        line("doing", phase);
    }
    line("created", &format!("{} ago", duration(now.saturating_sub(job.created_unix_ms))));
    if let Some(started) = job.started_unix_ms {
        let took = duration(job.ended_unix_ms.unwrap_or(now).saturating_sub(started));
        let limit = job.timeout_ms.map(|limit| format!(", {} at most", duration(limit))).unwrap_or_default();
        line("took", &format!("{took}{limit}"));
    }
    if let Some(tokens) = job.tokens {
        line("tokens", &tokens.total_tokens.to_string());
    }
    line("prompt", &prompt(job));
    if let Some(cwd) = job.request["cwd"].as_str() {
        line("directory", cwd);
    }
    if let (Some(thread), Some(turn)) = (&job.thread_id, &job.turn_id) {
        line("turn", &format!("{turn} of thread {thread}"));
    }
    for stderr in &job.upstream_stderr {
        line("codex said", &plain(stderr));
    }
    if let Some(thread) = job.thread_id.as_ref().filter(|_| job.state.is_over()) {
        line("go on with", &format!("codexd run --thread {thread} PROMPT"));
    }
    if let Some(answer) = job.answer.as_ref().or(job.last_message.as_ref()) {
        let what = if job.answer.is_some() { "answer" } else { "the last message" };
        let _ = writeln!(text, "\n{what}:\n\n{}", answer.trim_end());
    }
    text
}

fn short(id: &str) -> String {
    id.chars().take(ID_CHARS).collect()
}

fn prompt(job: &JobRow) -> String {
    let line = plain(job.request["prompt"].as_str().unwrap_or_default());
    match line.char_indices().nth(PROMPT_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
