//! The report as one HTML page that needs nothing else: pictures and samples are inside.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::markdown::{HEADINGS, LEGEND, facts, guarded, row};
use super::{Picture, SweepReport};
use crate::stats::Spread;

/// Colours of the page, for a light and for a dark screen. Pictures have a white ground in both.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1b1b;--dim:#555;--ground:#fff;--line:#d5d5d5}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--dim:#aaa;--ground:#16181c;--line:#3a3d44}}\
body{margin:2rem auto;max-width:72rem;padding:0 1rem;background:var(--ground);color:var(--ink);\
font:1rem/1.5 system-ui,sans-serif}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
caption{text-align:left;color:var(--dim);padding-bottom:.4rem}\
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
th:first-child{text-align:left}thead th{border-bottom:2px solid var(--dim);vertical-align:bottom}\
figure{margin:1rem 0}img{display:block;max-width:100%;height:auto;background:#fff;border:1px solid var(--line)}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--dim)}dd{margin:0;\
overflow-wrap:anywhere}a{color:inherit}";

/// The whole page; `csv` is the file of all samples, to be saved from it.
pub fn html(report: &SweepReport, pictures: &[Picture], csv: &[u8]) -> String {
    let mut page = Page::default();
    page.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<title>BRANCHes measured</title>\n<style>")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n<main>\n");
    page.raw("<h1>BRANCHes measured</h1>\n");
    cells(&mut page, report);
    for picture in pictures {
        page.raw("<h2>").text(picture.title).raw("</h2>\n<figure><img src=\"data:image/png;base64,");
        page.raw(&STANDARD.encode(&picture.png)).raw("\" alt=\"").text(&picture.alt).raw("\"></figure>\n");
    }
    by_index(&mut page, report);
    for measured in &report.sweeps {
        page.raw("<h2>Run: ").text(&measured.label).raw("</h2>\n<dl>\n");
        for (name, value) in facts(measured) {
            page.raw("<dt>").text(name).raw("</dt><dd>").text(&value).raw("</dd>\n");
        }
        page.raw("</dl>\n");
    }
    page.raw("<p><a download=\"report.csv\" href=\"data:text/csv;base64,").raw(&STANDARD.encode(csv));
    page.raw("\">Save all samples as CSV</a></p>\n</main>\n</body>\n</html>\n");
    page.html
}

fn cells(page: &mut Page, report: &SweepReport) {
    let cells = report.cells();
    page.table(LEGEND, &HEADINGS.map(str::to_owned), cells.iter().map(|cell| row(cell).to_vec()));
    for sentence in guarded(&cells) {
        page.raw("<p>").text(&sentence).raw("</p>\n");
    }
}

/// The first picture in figures.
fn by_index(page: &mut Page, report: &SweepReport) {
    let last = report.all.samples.iter().map(|sample| sample.branch_idx).max().unwrap_or(0);
    let headings: Vec<String> =
        std::iter::once("cell".to_owned()).chain((1..=last).map(|index| index.to_string())).collect();
    let rows = report.all.cells().into_iter().map(|cell| {
        let by_index = report.all.pauses_by_index(cell);
        let median = |index: u32| {
            let trials = by_index.iter().find(|(found, _)| *found == index).map(|(_, trials)| trials.clone());
            let spread = trials.and_then(Spread::of);
            spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.1}", spread.median))
        };
        std::iter::once(cell.to_owned()).chain((1..=last).map(median)).collect()
    });
    page.raw("<h2>Median pause by BRANCH index</h2>\n");
    page.table("Milliseconds, over the trials.", &headings, rows);
}

#[derive(Default)]
struct Page {
    html: String,
}

impl Page {
    fn raw(&mut self, html: &str) -> &mut Self {
        self.html.push_str(html);
        self
    }

    /// Text, and never markup.
    fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.html.push_str("&amp;"),
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                c => self.html.write_char(c).expect("a String takes every write"),
            }
        }
        self
    }

    fn table(&mut self, caption: &str, headings: &[String], rows: impl Iterator<Item = Vec<String>>) {
        self.raw("<div class=\"wide\" tabindex=\"0\"><table>\n<caption>")
            .text(caption)
            .raw("</caption>\n<thead><tr>");
        for heading in headings {
            self.raw("<th scope=\"col\">").text(heading).raw("</th>");
        }
        self.raw("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.raw("<tr>");
            for (column, field) in row.iter().enumerate() {
                match column {
                    0 => self.raw("<th scope=\"row\">").text(field).raw("</th>"),
                    _ => self.raw("<td>").text(field).raw("</td>"),
                };
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody>\n</table></div>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::html;
    use crate::sweep::read;
    use crate::sweep_report::{Measured, Picture, SweepReport};

    fn report(label: &str) -> SweepReport {
        let csv = include_str!("../../tests/golden/sweep.csv");
        let sweep = read("sweep.csv", csv.as_bytes()).unwrap();
        SweepReport::new(vec![Measured { label: label.to_owned(), run: None, sweep }])
    }

    #[test]
    fn names_are_text_and_never_markup() {
        let page = html(&report("<script>alert(1)</script>&\"'"), &[], b"");
        assert!(page.contains("Run: &lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;"));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn the_page_refers_to_nothing_outside_of_it() {
        let picture =
            Picture { file: "pause.png", title: "Pause", alt: "a \"b\"".to_owned(), png: vec![1, 2, 3] };
        let page = html(&report("a"), &[picture], b"cell\n");
        assert!(page.contains("src=\"data:image/png;base64,AQID\" alt=\"a &quot;b&quot;\""));
        let targets = page.split("src=\"").skip(1).chain(page.split("href=\"").skip(1));
        for target in targets {
            assert!(target.starts_with("data:"), "{}", &target[..40]);
        }
        assert!(!page.contains("http") && !page.contains("url("));
    }
}
