//! JUnit XML: a regression is a failure, an inconclusive comparison is skipped, an invalid one is an error.

use std::fmt::Write;

use crate::gate::{CellVerdict, Document};
use crate::judge::Class;

use super::words::headline;

/// The whole document.
pub fn render(document: &Document) -> String {
    let count = |class| document.cells.iter().filter(|cell| cell.verdict.class == class).count();
    let seconds = document.ended_unix_ms.saturating_sub(document.started_unix_ms) as f64 / 1e3;
    let totals = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\"",
        document.cells.len(),
        count(Class::Regress),
        count(Class::Invalid),
        count(Class::Inconclusive)
    );
    let cases: String = document.cells.iter().map(case).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {totals}>\n  \
         <testsuite name=\"forkd-bench gate\" {totals}>\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

fn case(cell: &CellVerdict) -> String {
    let verdict = &cell.verdict;
    let message = escape(&verdict.reasons.join("; "));
    let outcome = match verdict.class {
        Class::Pass => None,
        Class::Regress => Some(("failure", " type=\"REGRESS\"")),
        Class::Inconclusive => Some(("skipped", "")),
        Class::Invalid => Some(("error", " type=\"INVALID\"")),
    };
    let mut out = format!("    <testcase classname=\"pause_ms\" name=\"{}\">\n", escape(&cell.cell));
    if let Some((element, kind)) = outcome {
        writeln!(out, "      <{element} message=\"{message}\"{kind}/>").expect("a String takes every write");
    }
    let said = escape(&headline(cell));
    writeln!(out, "      <system-out>{said}</system-out>\n    </testcase>")
        .expect("a String takes every write");
    out
}

/// Text for XML; characters that XML 1.0 has no place for become a question mark.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_xml_gives_a_meaning_is_escaped() {
        assert_eq!(escape("p = 0.1 < 0.2 & \"x\"\u{1}\n"), "p = 0.1 &lt; 0.2 &amp; &quot;x&quot;? ");
    }
}
