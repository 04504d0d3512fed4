//! Tables for people: as wide as they need, and no wider than the terminal.

use comfy_table::{ContentArrangement, Row, Table as Layout, presets};

use super::render::plain;
use crate::terminal;

/// Spaces between two columns.
const GAP: usize = 2;
/// Characters to which a long cell can be cut before a column is left out.
const CUT_TO: usize = 14;

/// A column: its heading, and its rank. On a narrow terminal, the highest ranks are left out first. Rank 0 stays.
pub(crate) type Column = (&'static str, u8);

/// Renders rows under their headings for stdout. On a terminal, columns of the highest ranks are left out and cells cut
/// until the table fits. Elsewhere, its width is not limited.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    fit(columns, rows, terminal::size().map(|(columns, _)| columns))
}

/// As [`table`], for a given width in characters.
pub(super) fn fit(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    if let Some(width) = width {
        let widths: Vec<usize> = columns.iter().enumerate().map(|(at, c)| widest(c.0, at, &rows)).collect();
        while kept.iter().map(|at| widths[*at].min(CUT_TO) + GAP).sum::<usize>() > width + GAP {
            let Some(last) =
                kept.iter().copied().filter(|at| columns[*at].1 > 0).max_by_key(|at| (columns[*at].1, *at))
            else {
                break;
            };
            kept.retain(|at| *at != last);
        }
    }
    let mut layout = Layout::new();
    layout.load_style(presets::NOTHING).set_truncation_indicator("..");
    match width.and_then(|width| u16::try_from(width).ok()) {
        Some(width) => layout.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => layout.set_content_arrangement(ContentArrangement::Disabled),
    };
    let line = |cells: Vec<&str>| {
        let mut row = Row::from(cells);
        row.max_height(1);
        row
    };
    layout.set_header(line(kept.iter().map(|at| columns[*at].0).collect()));
    for row in &rows {
        layout.add_row(line(kept.iter().map(|at| row.get(*at).map_or("", String::as_str)).collect()));
    }
    let last = kept.len().saturating_sub(1);
    for (at, column) in layout.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { GAP as u16 }));
    }
    format!("{}\n", layout.trim_fmt())
}

fn widest(heading: &str, at: usize, rows: &[Vec<String>]) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
    cells.chain([heading.chars().count()]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        [["1", "a name that is rather long", "/home/someone/project"], ["22", "b\u{1b}[31m\nc", ""]]
            .map(|row| row.map(str::to_owned).to_vec())
            .to_vec()
    }

    #[test]
    fn a_table_has_its_columns_under_their_headings() {
        let text = fit(&[("ID", 0), ("NAME", 0), ("CWD", 1)], &rows(), None);
        assert_eq!(
            text,
            "ID  NAME                        CWD\n\
             1   a name that is rather long  /home/someone/project\n\
             22  b[31m c\n"
        );
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal() {
        for width in 12..80 {
            let text = fit(&[("ID", 0), ("NAME", 0), ("CWD", 1)], &rows(), Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(text.lines().count(), 3, "{width}:\n{text}");
            assert!(text.contains("ID"), "{width}:\n{text}");
        }
    }

    #[test]
    fn the_column_of_the_highest_rank_is_left_out_first() {
        let columns = [("ID", 0), ("NAME", 1), ("CWD", 2)];
        let text = fit(&columns, &rows(), Some(24));
        assert!(text.starts_with("ID  NAME") && !text.contains("CWD"), "{text}");
        assert!(!fit(&columns, &rows(), Some(10)).contains("NAME"));
    }
}
