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
/// What a sweep's own guard says of each BRANCH, where [`HOST`] is not there.
const GUARD: [&str; 3] = ["steal_pct", "pending_kib", "guard"];
/// The guard's word for a file system with too little space.
const GUARD_SPACE: &str = "space";
/// Columns of parts begin so.
pub(super) const PART_PREFIXES: [(&str, &str); 2] = [("phase_", "phase"), ("cause_", "cause")];
/// The cell of files that name none.
const NO_CELL: &str = "pauses";

/// A column of conditions, and what it says.
pub type Condition = (&'static str, String);

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
            return Err(refused(format_args!(
                "{file}, line 1, column '{missing}': it is missing; the header has {found}"
            )));
        }
        let mut names = header.iter().enumerate();
        if let Some((_, twice)) = names.find(|(at, name)| header.iter().take(*at).any(|other| other == *name))
        {
            return Err(refused(format_args!("{file}, line 1, column '{twice}': it is there twice")));
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

    /// What the host did, as far as the row says: by the columns of a gate, else by those of a sweep's guard.
    pub fn host(&self) -> Result<Option<Host>, Error> {
        let has = |column: &&str| self.text(column).is_some();
        if HOST.iter().all(has) {
            return self.host_of_gate().map(Some);
        }
        if GUARD.iter().any(has) {
            return self.host_of_guard().map(Some);
        }
        Ok(None)
    }

    fn host_of_gate(&self) -> Result<Host, Error> {
        let [steal, cpu, written, dirty, free] = HOST;
        Ok(Host {
            steal_share: Some(self.figure(steal)?),
            foreign_cpu_share: Some(self.figure(cpu)?),
            foreign_written_mib_s: Some(self.figure(written)?),
            dirty_mib: Some(self.figure(dirty)?),
            free_mib: Some(self.figure(free)?),
            space_was_low: false,
        })
    }

    fn host_of_guard(&self) -> Result<Host, Error> {
        let [steal, pending, guard] = GUARD;
        let known = |column| self.text(column).map(|_| self.figure(column)).transpose();
        let mut trips = self.text(guard).unwrap_or_default().split('+');
        Ok(Host {
            steal_share: known(steal)?.map(|percent| percent / 100.0),
            dirty_mib: known(pending)?.map(|kib| kib / 1024.0),
            space_was_low: trips.any(|trip| trip == GUARD_SPACE),
            ..Host::default()
        })
    }

    fn figure(&self, column: &str) -> Result<f64, Error> {
        self.milliseconds(column, |figure| figure >= 0.0, "a number, 0 or more")
    }

    pub fn refuse(&self, column: &str, wanted: &str) -> Error {
        let (file, line, value) = (self.file, self.line, self.text(column).unwrap_or_default());
        refused(format_args!("{file}, line {line}, column '{column}': '{value}' is not {wanted}"))
    }

    fn parse<T: FromStr>(&self, column: &str, wanted: &str, fits: impl Fn(&T) -> bool) -> Result<T, Error> {
        let text = self.text(column).unwrap_or_default();
        text.parse().ok().filter(fits).ok_or_else(|| self.refuse(column, wanted))
    }
}

/// A file that cannot be judged, in one line: what a file holds may not write to the terminal as it likes.
pub(super) fn refused(why: impl std::fmt::Display) -> Error {
    let one_line = why.to_string().chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    });
    Error::Usage(one_line)
}

/// `1 to 4, 6`: ascending numbers, for people.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let parts = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)).map(|part| match part {
        [first, .., last] => format!("{first} to {last}"),
        part => part.first().map_or_else(String::new, u32::to_string),
    });
    parts.collect::<Vec<_>>().join(", ")
}
