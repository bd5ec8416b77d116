//! The columns of a side's CSV, by name.

use std::str::FromStr;

use crate::Error;
use crate::judge::Host;

use super::side::{Part, part_of_column};

/// The columns that every file needs: those of the field's own sweeps.
pub const REQUIRED: [&str; 5] = ["trial", "branch_idx", "pause_ms", "diff_ms", "diff_physical_bytes"];
/// Conditions that must be the same for all rows of a cell, and on both sides as far as both name them.
const CONDITIONS: [&str; 6] = ["mem_mib", "dirty_pages", "gap_ms", "mode", "neighbour", "disk_bps"];
/// What the host did during a sweep, repeated in each of its rows; the order of [`Host`]'s fields.
pub const HOST: [&str; 5] = [
    "host_steal_share",
    "host_foreign_cpu_share",
    "host_foreign_written_mib_s",
    "host_dirty_mib",
    "host_free_mib",
];
/// Columns of parts begin so.
pub(super) const PART_PREFIXES: [(&str, &str); 2] = [("phase_", "phase"), ("cause_", "cause")];
/// The cell of files that name none.
const NO_CELL: &str = "pauses";

/// A column of [`CONDITIONS`], and what it says.
pub(super) type Condition = (&'static str, String);

/// Where each column stands.
pub(super) struct Layout<'a> {
    header: &'a csv::StringRecord,
    parts: Vec<(Part, usize)>,
}

impl<'a> Layout<'a> {
    pub fn of(file: &str, header: &'a csv::StringRecord) -> Result<Self, Error> {
        let has = |column: &str| header.iter().any(|name| name == column);
        if let Some(missing) = REQUIRED.iter().find(|column| !has(column)) {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            return Err(Error::Usage(format!(
                "{file}, line 1, column '{missing}': it is missing; the header has {found}"
            )));
        }
        let parts = header.iter().enumerate();
        let parts = parts.filter_map(|(at, column)| Some((part_of_column(column)?, at))).collect();
        Ok(Self { header, parts })
    }

    pub fn parts(&self) -> Vec<Part> {
        self.parts.iter().map(|(part, _)| part.clone()).collect()
    }

    pub fn row<'r>(
        &'r self,
        file: &'r str,
        line: u64,
        record: &'r csv::StringRecord,
    ) -> Result<Row<'r>, Error> {
        Ok(Row { layout: self, file, line, record })
    }
}

/// One BRANCH, as text.
pub(super) struct Row<'a> {
    layout: &'a Layout<'a>,
    file: &'a str,
    pub line: u64,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        let at = self.layout.header.iter().position(|name| name == column)?;
        self.record.get(at)
    }

    pub fn cell(&self) -> &str {
        self.text("cell").filter(|cell| !cell.is_empty()).unwrap_or(NO_CELL)
    }

    /// Takes what a column says the first time, and refuses a row that says something else.
    pub fn same_in_file(&self, column: &str, known: &mut Option<String>) -> Result<(), Error> {
        match (self.text(column), known) {
            (Some(value), Some(known)) if value != known => {
                Err(self.refuse(column, &format!("'{known}', as in the rows before")))
            }
            (Some(value), known @ None) => {
                *known = Some(value.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn conditions(&self) -> Vec<Condition> {
        let known = CONDITIONS.iter().filter_map(|column| Some((*column, self.text(column)?.to_owned())));
        known.collect()
    }

    pub fn same_conditions(&self, known: &[Condition]) -> Result<(), Error> {
        match known.iter().find(|(column, value)| self.text(column) != Some(value)) {
            Some((column, value)) => {
                Err(self.refuse(column, &format!("'{value}', as in the cell's rows before")))
            }
            None => Ok(()),
        }
    }

    pub fn whole(&self, column: &str) -> Result<u64, Error> {
        self.parse(column, "a whole number, 0 or more", |_| true)
    }

    pub fn one_or_more(&self, column: &str) -> Result<u32, Error> {
        self.parse(column, "a whole number, 1 or more", |number| *number > 0)
    }

    pub fn milliseconds(&self, column: &str, fits: fn(f64) -> bool, wanted: &str) -> Result<f64, Error> {
        self.parse(column, wanted, |ms: &f64| ms.is_finite() && fits(*ms))
    }

    /// When the BRANCH was asked for, where the file says so.
    pub fn start_unix_ms(&self) -> Result<Option<u64>, Error> {
        match self.text("start_unix_ms") {
            Some(_) => self.whole("start_unix_ms").map(Some),
            None => Ok(None),
        }
    }

    pub fn parts_ms(&self) -> Result<Vec<f64>, Error> {
        let parts = self.layout.parts.iter();
        parts.map(|(_, at)| self.whole(&self.layout.header[*at]).map(|ns| ns as f64 / 1e6)).collect()
    }

    pub fn host(&self) -> Result<Option<Host>, Error> {
        if HOST.iter().any(|column| self.text(column).is_none()) {
            return Ok(None);
        }
        let figure = |column| self.milliseconds(column, |figure| figure >= 0.0, "a number, 0 or more");
        let [steal, cpu, written, dirty, free] = HOST;
        Ok(Some(Host {
            steal_share: figure(steal)?,
            foreign_cpu_share: figure(cpu)?,
            foreign_written_mib_s: figure(written)?,
            dirty_mib: figure(dirty)?,
            free_mib: figure(free)?,
        }))
    }

    pub fn refuse(&self, column: &str, wanted: &str) -> Error {
        let (file, line, value) = (self.file, self.line, self.text(column).unwrap_or_default());
        Error::Usage(format!("{file}, line {line}, column '{column}': '{value}' is not {wanted}"))
    }

    fn parse<T: FromStr>(&self, column: &str, wanted: &str, fits: impl Fn(&T) -> bool) -> Result<T, Error> {
        let text = self.text(column).unwrap_or_default();
        text.parse().ok().filter(fits).ok_or_else(|| self.refuse(column, wanted))
    }
}
