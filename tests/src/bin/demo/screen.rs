//! Two conversations side by side, redrawn as they grow; on anything but a terminal, lines with names.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use rustix::termios::tcgetwinsize;

use crate::talk::Update;

/// The conversations so far, and where they are drawn.
pub(crate) struct Screen {
    names: Vec<String>,
    /// Of each column, its lines before wrapping.
    columns: Vec<Vec<String>>,
    /// Lines on the terminal that the next drawing replaces.
    drawn: usize,
    /// Columns side by side; otherwise lines with names.
    side_by_side: bool,
}

impl Screen {
    pub(crate) fn new(names: Vec<String>) -> Screen {
        let columns = vec![Vec::new(); names.len()];
        let side_by_side = std::io::stdout().is_terminal()
            && size().is_some_and(|(width, height)| width >= MIN_WIDTH && height >= MIN_HEIGHT);
        Screen { names, columns, drawn: 0, side_by_side }
    }

    /// Takes in something new and draws it.
    pub(crate) fn show(&mut self, update: Update) {
        let Some(column) = self.columns.get_mut(update.pane) else { return };
        if update.fresh || column.is_empty() {
            column.push(String::new());
        }
        if let Some(line) = column.last_mut() {
            line.push_str(&update.text);
        }
        match self.side_by_side {
            true => self.draw(),
            false => self.print_full_lines(update.pane),
        }
    }

    /// Draws for the last time.
    pub(crate) fn finish(&mut self) {
        if !self.side_by_side {
            for pane in 0..self.columns.len() {
                let rest: Vec<String> = self.columns[pane].drain(..).collect();
                for line in rest.iter().flat_map(|line| wrap(line, PLAIN_WIDTH)) {
                    self.print(pane, &line);
                }
            }
        }
    }

    fn draw(&mut self) {
        let width = size().map_or(80, |(width, _)| width).min(MAX_WIDTH);
        let column_width = (width - MARGIN.len() - DIVIDER.chars().count()) / 2;
        let columns: Vec<Vec<String>> = self
            .columns
            .iter()
            .zip(&self.names)
            .map(|(lines, name)| {
                let head = [name.clone(), "─".repeat(column_width)];
                head.into_iter().chain(lines.iter().flat_map(|line| wrap(line, column_width))).collect()
            })
            .collect();
        let height = columns.iter().map(Vec::len).max().unwrap_or(0).max(self.drawn);
        let mut text = String::new();
        if self.drawn > 0 {
            // To the first column, so many lines up (ECMA-48, CPL).
            let _ = write!(text, "\x1b[{}F", self.drawn);
        }
        for row in 0..height {
            let cell =
                |index: usize| columns.get(index).and_then(|lines| lines.get(row)).map_or("", String::as_str);
            // Erased to its end first, for what was longer before (EL).
            let line = format!("{MARGIN}{:<column_width$}{DIVIDER}{}", cell(0), cell(1));
            let _ = writeln!(text, "\x1b[K{}", line.trim_end());
        }
        self.drawn = height;
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Prints the lines of a column that will not change any more.
    fn print_full_lines(&mut self, pane: usize) {
        let Some(last) = self.columns[pane].pop() else { return };
        let mut full: Vec<String> = std::mem::take(&mut self.columns[pane]);
        let mut wrapped = wrap(&last, PLAIN_WIDTH);
        let open = wrapped.pop().unwrap_or_default();
        full.extend(wrapped);
        // The blank between two words belongs to the word that is still to come.
        let blank = if last.ends_with(' ') && !open.is_empty() { " " } else { "" };
        self.columns[pane].push(open + blank);
        for line in full.iter().flat_map(|line| wrap(line, PLAIN_WIDTH)) {
            self.print(pane, &line);
        }
    }

    fn print(&self, pane: usize, line: &str) {
        let width = self.names.iter().map(String::len).max().unwrap_or(0);
        if !line.is_empty() {
            println!("{MARGIN}{:<width$} │ {line}", self.names[pane]);
        }
    }
}

/// Breaks a line at blanks so that no part is wider, except a single word that is.
fn wrap(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let last = lines.last_mut().expect("there is always a last line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Width and height of the terminal, in characters.
fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row)))
}

const MARGIN: &str = "  ";
const DIVIDER: &str = " │ ";

/// Narrower, two columns cannot be read.
const MIN_WIDTH: usize = 50;
/// Lower, the drawing would leave the terminal.
const MIN_HEIGHT: usize = 24;
/// Wider, the eye loses the line.
const MAX_WIDTH: usize = 120;
const PLAIN_WIDTH: usize = 70;

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_break_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("much-too-wide x", 4), ["much-too-wide", "x"]);
    }
}
