//! Tables: columns as wide as what is in them, and on a terminal no line wider than that.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::output::plain;

/// Between two columns.
const GAP: usize = 2;
/// What is left of a cell that is cut, at least.
const LEAST: usize = 6;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
    elastic: Option<Keep>,
}

/// Which end of a cell stays when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Its begin.
    Start,
    /// Its end.
    End,
}

impl Column {
    /// A column of text.
    pub const fn left(title: &'static str) -> Self {
        Self { title, right: false, elastic: None }
    }

    /// A column of figures.
    pub const fn right(title: &'static str) -> Self {
        Self { title, right: true, elastic: None }
    }

    /// A column of text that may be cut to fit a terminal.
    pub const fn elastic(title: &'static str, keep: Keep) -> Self {
        Self { title, right: false, elastic: Some(keep) }
    }
}

/// Rows under columns.
#[derive(Debug)]
pub struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<([String; N], Style)>,
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, all of it in one style.
    pub fn row(&mut self, cells: [String; N], style: Style) {
        self.rows.push((cells.map(|cell| plain(&cell)), style));
    }

    /// The table in lines of at most `columns`, where that is given and its elastic columns can give enough.
    pub fn render(&self, columns: Option<usize>) -> String {
        let widths = self.widths(columns.unwrap_or(usize::MAX));
        let titles = self.columns.map(|column| column.title.to_owned());
        let mut text = self.line(&titles, &widths, Style::new().bold());
        for (cells, style) in &self.rows {
            text.push_str(&self.line(cells, &widths, *style));
        }
        text
    }

    fn widths(&self, room: usize) -> [usize; N] {
        let mut widths = std::array::from_fn(|at| {
            let cells = self.rows.iter().map(|(cells, _)| cells[at].width());
            cells.chain([self.columns[at].title.width()]).max().unwrap_or(0)
        });
        // The widest gives first, so that a short name is not cut to make place for a long one.
        while widths.iter().sum::<usize>() + GAP * (N - 1) > room {
            let elastic = (0..N).filter(|at| self.columns[*at].elastic.is_some());
            match elastic.max_by_key(|at| widths[*at]).filter(|at| widths[*at] > LEAST) {
                Some(widest) => widths[widest] -= 1,
                None => break,
            }
        }
        widths
    }

    fn line(&self, cells: &[String; N], widths: &[usize; N], style: Style) -> String {
        let mut line = String::new();
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
            let cell = fit(cell, *width, column.elastic.unwrap_or(Keep::Start));
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            match column.right {
                true => line.extend([padding, cell]),
                false => line.extend([cell, padding]),
            }
            line.push_str(&" ".repeat(GAP));
        }
        format!("{style}{}{style:#}\n", line.trim_end())
    }
}

/// `text`, or the end of it that is to stay and an ellipsis, in `width` columns.
fn fit(text: &str, width: usize, keep: Keep) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut fits = |c: &char| {
        let wide = c.width().unwrap_or(0);
        let fits = wide <= left;
        left -= if fits { wide } else { left };
        fits
    };
    match keep {
        Keep::Start => text.chars().take_while(&mut fits).chain(['…']).collect(),
        Keep::End => {
            let mut reversed: Vec<char> = text.chars().rev().take_while(&mut fits).collect();
            reversed.push('…');
            reversed.into_iter().rev().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use anstyle::{AnsiColor, Style};
    use unicode_width::UnicodeWidthStr;

    use super::{Column, Keep, Table, fit};

    fn table() -> Table<4> {
        let mut table = Table::new([
            Column::elastic("TAG", Keep::Start),
            Column::right("SIZE"),
            Column::left("CREATED"),
            Column::elastic("ROOTFS", Keep::End),
        ]);
        let row = |cells: [&str; 4]| cells.map(str::to_owned);
        table.row(row(["base", "4.2 GiB", "3 minutes ago", "-"]), Style::new());
        table.row(row([&"t".repeat(64), "512 B", "1 day ago", "/srv/images/debian-12.ext4"]), Style::new());
        table
    }

    #[test]
    fn columns_are_as_wide_as_needed_and_figures_stand_on_the_right() {
        let shown = anstream::adapter::strip_str(&table().render(None)).to_string();
        let tag = "t".repeat(64);
        let expected = format!(
            "TAG{0}     SIZE  CREATED        ROOTFS\n\
             base{1}  4.2 GiB  3 minutes ago  -\n\
             {tag}    512 B  1 day ago      /srv/images/debian-12.ext4\n",
            " ".repeat(61),
            " ".repeat(60)
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn on_a_terminal_of_80_columns_the_widest_names_are_cut_and_nothing_else() {
        let shown = anstream::adapter::strip_str(&table().render(Some(80))).to_string();
        assert!(shown.lines().all(|line| line.width() <= 80), "{shown}");
        assert_eq!(
            shown,
            "TAG                              SIZE  CREATED        ROOTFS\n\
             base                          4.2 GiB  3 minutes ago  -\n\
             ttttttttttttttttttttttttttt…    512 B  1 day ago      /srv/images/debian-12.ext4\n"
        );
    }

    #[test]
    fn a_narrow_terminal_leaves_six_columns_of_a_name() {
        let shown = anstream::adapter::strip_str(&table().render(Some(10))).to_string();
        assert!(shown.contains("\nttttt…"), "{shown}");
        assert!(shown.contains("….ext4\n"), "{shown}");
    }

    #[test]
    fn a_name_is_cut_between_characters_of_any_width() {
        assert_eq!(fit("日本語", 5, Keep::Start), "日本…");
        assert_eq!(fit("日本語", 4, Keep::Start), "日…");
        assert_eq!(fit("/srv/x", 3, Keep::End), "…/x");
        assert_eq!(fit("abc", 3, Keep::Start), "abc");
    }

    #[test]
    fn a_style_covers_its_row_and_no_more() {
        let mut table = Table::new([Column::left("A")]);
        table.row(["x".to_owned()], AnsiColor::Red.on_default());
        assert_eq!(table.render(None), "\x1b[1mA\x1b[0m\n\x1b[31mx\x1b[0m\n");
    }
}
