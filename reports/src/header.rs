//! The first lines of every table.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::loss;
use crate::text::wrap;

/// What the table is of, what was lost on the way, and what the reader must know; then an empty line.
pub fn header(
    out: &mut String,
    what: &str,
    losses: &BTreeMap<String, u64>,
    warnings: &[String],
) -> std::fmt::Result {
    out.push_str(&wrap(what, " ", ""));
    out.push_str(&wrap(&loss::in_full(losses), ", ", "  "));
    for warning in warnings {
        out.push_str(&wrap(&format!("warning: {warning}"), " ", "  "));
    }
    writeln!(out)
}
