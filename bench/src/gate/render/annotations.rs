//! Annotations of GitHub Actions: one line for each verdict, on standard output.

use crate::gate::Document;
use crate::judge::Class;

use super::words::headline;

/// The workflow commands.
pub fn render(document: &Document) -> String {
    let line = |cell| {
        let command = match document_class(cell) {
            Class::Pass => "notice",
            Class::Inconclusive => "warning",
            Class::Regress | Class::Invalid => "error",
        };
        let title = property(&format!("forkd gate: {}", document_class(cell).name()));
        format!("::{command} title={title}::{}\n", data(&headline(cell)))
    };
    document.cells.iter().map(line).collect()
}

fn document_class(cell: &crate::gate::CellVerdict) -> Class {
    cell.verdict.class
}

/// A workflow command ends with its line: `%`, CR and LF are escaped. Other control characters have no place in a log.
fn data(text: &str) -> String {
    let escaped = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    escaped.replace(char::is_control, "?")
}

/// In a property `:` and `,` part as well.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::{data, property};

    #[test]
    fn what_would_end_a_command_is_escaped() {
        assert_eq!(data("+20 %\r\nnext: a, b"), "+20 %25%0D%0Anext: a, b");
        assert_eq!(data("\u{1b}[2J"), "?[2J");
        assert_eq!(property("a: 5 %, b"), "a%3A 5 %25%2C b");
    }
}
