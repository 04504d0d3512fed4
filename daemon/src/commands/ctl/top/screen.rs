//! Draws the view of `ctl top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState};

use super::super::render;
use super::model::{Focus, Model};

/// Draws everything: facts, turns, clients, keys.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let facts = facts(model);
    let [top, turns, clients, keys] = Layout::vertical([
        Constraint::Length(u16::try_from(facts.len()).unwrap_or(u16::MAX)),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(Text::from(facts)), top);
    draw_turns(frame, model, turns);
    draw_clients(frame, model, clients);
    frame.render_widget(Paragraph::new(render::plain(&model.footer())), keys);
}

fn facts(model: &Model) -> Vec<Line<'static>> {
    let status = &model.status;
    let mut lines = vec![format!(
        "codexd {} {} for {}, up {}, generation {}",
        status.version,
        status.state.word(),
        render::duration(status.state_since_ms),
        render::duration(status.uptime_ms),
        status.generation
    )];
    let mut codex = format!("codex {}", status.upstream.version.as_deref().unwrap_or("-"));
    if let Some(last) = status.upstream.last_message_ms {
        codex.push_str(&format!(", last message {} ago", render::duration(last)));
    }
    if let Some(memory) = &status.memory {
        codex.push_str(&format!("; memory: codexd {}", render::bytes(memory.daemon_bytes)));
        if let (Some(bytes), Some(processes)) = (memory.codex_bytes, memory.codex_processes) {
            codex.push_str(&format!(", codex {} in {processes}", render::bytes(bytes)));
        }
    }
    lines.push(codex);
    let mut work = format!(
        "{}, {}, {} in flight, {} pending; {:.0} messages/s",
        render::count(status.clients, "client"),
        render::count(status.open_turns, "turn"),
        render::count(status.in_flight, "request"),
        render::count(status.pending_approvals, "approval"),
        model.all_messages()
    );
    if let Some(latency) = &status.latency {
        let shown = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), render::micros);
        work.push_str(&format!(
            "; added latency {} (99 % {}), answers {} (99 % {})",
            shown(latency.added_p50_us),
            shown(latency.added_p99_us),
            shown(latency.answer_p50_us),
            shown(latency.answer_p99_us)
        ));
    }
    lines.push(work);
    if let Some(request) = status.oldest_approvals.first() {
        let more = match status.pending_approvals.saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        lines.push(format!("approval{more}: {}", render::approval(request)));
    }
    if let Some(exit) = &status.last_exit {
        lines.push(format!("last exit: {}", render::last_exit(exit)));
    }
    if let Some(warning) = status.warnings.first() {
        let more = match status.warnings.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        lines.push(format!("warning{more}: {} -> {}", warning.message, warning.hint));
    }
    lines.into_iter().map(|line| Line::from(render::plain(&line))).collect()
}

fn draw_turns(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model.turns().iter().map(|turn| {
        [
            turn.id.as_deref().map_or_else(|| "-".to_owned(), render::id),
            turn.age_ms.map_or_else(|| "-".to_owned(), render::duration),
            render::ago(turn.last_event_ms),
            turn.phase.clone(),
            turn.by.as_ref().map_or_else(|| "-".to_owned(), render::client),
            render::known(turn.model.as_deref()),
            render::known(turn.cwd.as_deref()),
        ]
    });
    let widths = [14, 9, 12, 11, 20, 16].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let headings = ["TURN", "AGE", "LAST EVENT", "PHASE", "BY", "MODEL", "CWD"];
    draw_table(frame, model, Focus::Turns, area, rows, widths.collect(), headings);
}

fn draw_clients(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model.clients().iter().map(|client| {
        let rate = model.rate(client.id);
        [
            client.id.to_string(),
            render::known(client.name.as_deref()),
            render::known(client.pid.map(|pid| pid.to_string()).as_deref()),
            client.open_turns.to_string(),
            client.in_flight.to_string(),
            render::bytes(client.queued_bytes),
            format!("{:.0}/s", rate.messages),
            format!("{}/s", render::bytes(rate.bytes as u64)),
            render::duration(client.idle_ms),
        ]
    });
    let widths = [5, 24, 9, 6, 9, 10, 8, 12].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let headings = ["ID", "NAME", "PID", "TURNS", "REQUESTS", "QUEUED", "MESSAGES", "BYTES", "IDLE"];
    draw_table(frame, model, Focus::Clients, area, rows, widths.collect(), headings);
}

fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    model: &Model,
    focus: Focus,
    area: Rect,
    rows: impl Iterator<Item = [String; N]>,
    widths: Vec<Constraint>,
    headings: [&'static str; N],
) {
    let (name, length) = match focus {
        Focus::Turns => ("turn", model.turns().len()),
        Focus::Clients => ("client", model.clients().len()),
    };
    // Colour and weight are never the only sign.
    let mark = if model.focus == focus { "> " } else { "" };
    let title = format!("{mark}{} by {}", render::count(length, name), model.sorted_by(focus));
    let rows = rows.map(|cells| Row::new(cells.map(|cell| render::plain(&cell))));
    let table = Table::new(rows, widths)
        .header(Row::new(headings).style(Style::new().add_modifier(Modifier::BOLD)))
        .highlight_symbol("> ")
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    let mut state = TableState::default().with_selected(model.selected(focus));
    frame.render_stateful_widget(table, area, &mut state);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn turns_clients_and_warnings_are_on_the_screen() {
        let mut model = Model::default();
        model.set_status(json!({
            "version": "0.1.0", "state": "serving", "clients": 1, "openTurns": 1,
            "warnings": [{"code": "a", "message": "first", "hint": "do this"}, {"code": "b", "message": "second"}],
            "memory": {"daemonBytes": 8 << 20, "codexBytes": 200 << 20, "codexProcesses": 3},
            "latency": {"addedP50Us": 100, "addedP99Us": 3000},
            "pendingApprovals": 2,
            "oldestApprovals": [{"method": "item/x", "client": {"id": 1, "name": "alice"},
                "seenBy": [{"id": 2, "name": "bob"}], "ageMs": 5000}],
            "lastExit": {"code": 1, "reason": "codex was lost"},
        }));
        model.set_turns(
            json!([{"id": "turn-1", "ageMs": 61_000, "phase": "command", "by": {"id": 1, "name": "alice"}}]),
        );
        model.set_clients(json!([{"id": 1, "name": "alice\u{1b}[31m", "pid": 77}]), Instant::now());
        let screen = drawn(&model, 120, 26);
        for text in [
            "codexd 0.1.0 serving",
            "codex 200.0 MiB in 3",
            "added latency 100us (99 % 3ms)",
            "approval (and 1 more): item/x for the turn of alice (1) waits for bob (2), for 5.0s",
            "last exit: exit 1: codex was lost",
            "warning (and 1 more): first -> do this",
            "> 1 turn by age",
            "> turn-1",
            "1m 1s",
            "alice (1)",
            "1 client by number",
            "alice[31m",
            "q quit",
        ] {
            assert!(screen.contains(text), "no `{text}` in\n{screen}");
        }
        // Any size will do.
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            drawn(&model, width, height);
        }
    }
}
