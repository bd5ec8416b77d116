//! One side of a comparison: what a CSV of BRANCHes holds, checked as it is read.

use std::io;

use crate::Error;
use crate::judge::Host;

use super::columns::{Condition, Layout, PART_PREFIXES, Row, ranges, refused};

/// A stretch of a BRANCH that its time was divided into: a phase, or a cause that an attribution named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `phase` or `cause`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// One sweep: consecutive BRANCHes of one microVM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// Its number, from 1; the block's where sweeps were taken in blocks.
    pub number: u32,
    /// BRANCH indices, ascending.
    pub indices: Vec<u32>,
    /// Pauses in milliseconds, in that order.
    pub pauses_ms: Vec<f64>,
    /// For each BRANCH the length of each of the side's parts, in milliseconds.
    pub parts_ms: Vec<Vec<f64>>,
    /// When the first BRANCH was asked for, in milliseconds since the Unix epoch, where that is known.
    pub began_unix_ms: Option<u64>,
    /// When the last one was.
    pub ended_unix_ms: Option<u64>,
    /// What the host did meanwhile, where that is known.
    pub host: Option<Host>,
    /// The stolen share of each BRANCH, where a row says it: the sweep's is their mean.
    steal_shares: Vec<f64>,
    /// Line of its last row.
    line: u64,
}

/// The trials of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct SideCell {
    /// `data_path@root`, or `pauses` where the file names none.
    pub name: String,
    /// What was the same for all of them, by column, as far as the file says it.
    pub conditions: Vec<Condition>,
    /// In the order of their numbers.
    pub trials: Vec<Trial>,
    /// Line of its first row.
    pub line: u64,
}

/// One side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// The file, as errors name it.
    pub file: String,
    /// The run that all of its rows belong to, where it says so.
    pub run_id: Option<String>,
    /// Kernel release and machine, where it says so.
    pub machine: Option<String>,
    /// What each BRANCH was divided into.
    pub parts: Vec<Part>,
    /// In the order in which they first occur.
    pub cells: Vec<SideCell>,
}

impl Side {
    /// Reads a side; the five columns of [`super::columns::REQUIRED`] are enough. A figure that cannot be right is
    /// refused with its file, line and column.
    pub fn read(file: &str, input: impl io::Read) -> Result<Self, Error> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let none = csv::StringRecord::new();
        let header = reader.headers().map_err(|error| broken(file, &none, &error))?.clone();
        let layout = Layout::of(file, &header)?;
        let mut side = Self { file: file.to_owned(), parts: layout.parts(), ..Self::default() };
        for record in reader.records() {
            let record = record.map_err(|error| broken(file, &header, &error))?;
            let line = record.position().map_or(0, csv::Position::line);
            side.add(&layout.row(file, line, &record)?)?;
        }
        side.check_whole()?;
        Ok(side)
    }

    fn add(&mut self, row: &Row<'_>) -> Result<(), Error> {
        row.same_in_file("run_id", &mut self.run_id)?;
        row.same_in_file("machine", &mut self.machine)?;
        let name = row.cell();
        let at = self.cells.iter().position(|cell| cell.name == name);
        let at = at.unwrap_or_else(|| {
            let conditions = row.conditions();
            let (name, line) = (name.to_owned(), row.line);
            self.cells.push(SideCell { name, conditions, trials: Vec::new(), line });
            self.cells.len() - 1
        });
        let cell = &mut self.cells[at];
        row.same_conditions(&cell.conditions)?;
        let number = row.one_or_more("trial")?;
        let at = cell.trials.iter().position(|trial| trial.number == number);
        let at = at.unwrap_or_else(|| {
            cell.trials.push(Trial { number, ..Trial::default() });
            cell.trials.len() - 1
        });
        cell.trials[at].add(row)
    }

    /// Every trial of a cell must have the same BRANCHes: one that was cut short would be compared with less.
    fn check_whole(&mut self) -> Result<(), Error> {
        if self.cells.is_empty() {
            let file = &self.file;
            return Err(refused(format_args!("{file}, line 2: no BRANCH: is it a sweep's CSV?")));
        }
        for cell in &mut self.cells {
            cell.trials.sort_by_key(|trial| trial.number);
            let whole = cell.trials.iter().map(|trial| &trial.indices).max_by_key(|indices| indices.len());
            let Some(whole) = whole else { continue };
            if let Some(trial) = cell.trials.iter().find(|trial| &trial.indices != whole) {
                let (file, line, number, cell) = (&self.file, trial.line, trial.number, &cell.name);
                let (has, others) = (ranges(&trial.indices), ranges(whole));
                return Err(refused(format_args!(
                    "{file}, line {line}, column 'branch_idx': trial {number} of {cell} has BRANCH {has}, others have \
                     {others}: was it cut short?"
                )));
            }
        }
        Ok(())
    }
}

impl Trial {
    fn add(&mut self, row: &Row<'_>) -> Result<(), Error> {
        let index = row.one_or_more("branch_idx")?;
        let at = self.indices.partition_point(|other| *other < index);
        if self.indices.get(at) == Some(&index) {
            return Err(row.refuse("branch_idx", "given once for each trial"));
        }
        self.indices.insert(at, index);
        self.pauses_ms
            .insert(at, row.milliseconds("pause_ms", |ms| ms > 0.0, "a number of milliseconds above 0")?);
        row.milliseconds("diff_ms", |ms| ms >= 0.0, "a number of milliseconds, 0 or more")?;
        row.whole("diff_physical_bytes")?;
        self.parts_ms.insert(at, row.parts_ms()?);
        if let Some(start) = row.start_unix_ms()? {
            self.began_unix_ms = Some(self.began_unix_ms.map_or(start, |began| began.min(start)));
            self.ended_unix_ms = Some(self.ended_unix_ms.map_or(start, |ended| ended.max(start)));
        }
        if let Some(host) = row.host()? {
            self.add_host(host);
        }
        self.line = row.line;
        Ok(())
    }

    /// A gate repeats what the host did during the sweep in each row. A sweep says it of each BRANCH: the stolen share is
    /// the mean over them, and what one of them lacked the sweep lacked.
    fn add_host(&mut self, host: Host) {
        self.steal_shares.extend(host.steal_share);
        let count = self.steal_shares.len() as f64;
        let steal_share = (count > 0.0).then(|| self.steal_shares.iter().sum::<f64>() / count);
        let space_was_low = host.space_was_low || self.host.is_some_and(|host| host.space_was_low);
        let dirty_mib = host.dirty_mib.into_iter().chain(self.host.and_then(|host| host.dirty_mib));
        let dirty_mib = dirty_mib.max_by(f64::total_cmp);
        self.host = Some(Host { steal_share, space_was_low, dirty_mib, ..host });
    }
}

fn broken(file: &str, header: &csv::StringRecord, error: &csv::Error) -> Error {
    let csv::ErrorKind::UnequalLengths { pos, expected_len, len } = error.kind() else {
        return refused(format_args!("{file}: {error}"));
    };
    let line = pos.as_ref().map_or(0, csv::Position::line);
    let missing = usize::try_from(*len).ok().and_then(|len| header.get(len));
    let column = missing.map_or_else(String::new, |column| format!(", column '{column}': it is missing"));
    refused(format_args!(
        "{file}, line {line}{column}: {len} fields, and the header has {expected_len}: was the file cut short?"
    ))
}

/// The part that a column holds, if it holds one.
pub(super) fn part_of_column(column: &str) -> Option<Part> {
    let name = column.strip_suffix("_ns")?;
    PART_PREFIXES
        .iter()
        .find_map(|(prefix, kind)| Some(Part { kind, name: name.strip_prefix(prefix)?.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::{Host, Side};

    const FIVE: &str = "trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes\n";

    fn check(csv: &str, expected: &str) {
        assert_eq!(Side::read("a.csv", csv.as_bytes()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn five_columns_are_enough_in_any_order_of_rows() {
        let side =
            Side::read("a.csv", format!("{FIVE}2,1,9,8,0\n1,2,7,6,0\n1,1,5,4,0\n2,2,8,7,0\n").as_bytes());
        let cell = &side.unwrap().cells[0];
        assert_eq!(cell.name, "pauses");
        assert_eq!(cell.trials[0].pauses_ms, [5.0, 7.0]);
        assert_eq!(cell.trials[1].pauses_ms, [9.0, 8.0]);
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_file_line_and_column() {
        let wanted = "a number of milliseconds above 0";
        for bad in ["NaN", "0", "-3", "inf", "", "x"] {
            check(
                &format!("{FIVE}1,1,5,4,0\n1,2,{bad},4,0\n"),
                &format!("a.csv, line 3, column 'pause_ms': '{bad}' is not {wanted}"),
            );
        }
        check(
            "trial,pause_ms,diff_ms,diff_physical_bytes\n",
            "a.csv, line 1, column 'branch_idx': it is missing; the header has trial, pause_ms, diff_ms, \
             diff_physical_bytes",
        );
        check(FIVE, "a.csv, line 2: no BRANCH: is it a sweep's CSV?");
        check(
            &format!("{FIVE}1,1,5,4\n"),
            "a.csv, line 2, column 'diff_physical_bytes': it is missing: 4 fields, and the header has 5: was the file cut \
             short?",
        );
        check(
            &format!("{FIVE}1,1,5,4,0,9\n"),
            "a.csv, line 2: 6 fields, and the header has 5: was the file cut short?",
        );
        check(
            &format!("{},pause_ms\n1,1,5,4,0,5\n", FIVE.trim_end()),
            "a.csv, line 1, column 'pause_ms': it is there twice",
        );
        check(
            &format!("{FIVE}1,1,5,4,0\n1,1,5,4,0\n"),
            "a.csv, line 3, column 'branch_idx': '1' is not given once for each trial",
        );
        check(
            &format!("{FIVE}1,1,5,4,0\n1,2,5,4,0\n2,1,5,4,0\n"),
            "a.csv, line 4, column 'branch_idx': trial 2 of pauses has BRANCH 1, others have 1 to 2: was it cut short?",
        );
        check(
            &format!("{FIVE}1,1,5,4,0\n1,2,5,4,0\n2,1,5,4,0\n2,3,5,4,0\n"),
            "a.csv, line 3, column 'branch_idx': trial 1 of pauses has BRANCH 1 to 2, others have 1, 3: was it cut short?",
        );
    }

    #[test]
    fn what_a_file_holds_cannot_reach_the_terminal_as_it_is() {
        check(
            &format!("{FIVE}1,1,\"\u{1b}[2J\n5\",4,0\n"),
            "a.csv, line 2, column 'pause_ms': '\\u{1b}[2J\\n5' is not a number of milliseconds above 0",
        );
    }

    /// The host of the first trial, of rows with these columns beside the five.
    fn host(columns: &str, rows: [&str; 2]) -> Option<Host> {
        let header = FIVE.trim_end();
        let csv = format!("{header},{columns}\n1,1,5,4,0,{}\n1,2,5,4,0,{}\n", rows[0], rows[1]);
        Side::read("a.csv", csv.as_bytes()).unwrap().cells[0].trials[0].host
    }

    #[test]
    fn a_sweep_s_own_guard_tells_of_the_host() {
        let found = host("steal_pct,pending_kib,guard", ["10.0,2048,", "30.0,2048,steal+space"]);
        let expected =
            Host { steal_share: Some(0.2), dirty_mib: Some(2.0), space_was_low: true, ..Host::default() };
        assert_eq!(found, Some(expected));
        assert!(host("pending_kib", ["90000,", "90000,"].map(|row| &row[..5])).unwrap().unfit().is_some());
        assert!(host("guard", ["space", ""]).unwrap().space_was_low);
        assert_eq!(host("cell", ["x", "x"]), None);
    }

    #[test]
    fn the_gate_s_columns_go_before_the_guard_s() {
        let columns = "steal_pct,host_steal_share,host_foreign_cpu_share,host_foreign_written_mib_s,host_dirty_mib,\
                       host_free_mib";
        let found = host(columns, ["90,0.5,0,0,3,4"; 2]).unwrap();
        assert_eq!((found.steal_share, found.dirty_mib, found.free_mib), (Some(0.5), Some(3.0), Some(4.0)));
    }

    #[test]
    fn rows_of_two_machines_or_runs_or_conditions_are_refused() {
        let two = |column: &str| format!("{},{column}\n1,1,5,4,0,a\n1,2,5,4,0,b\n", FIVE.trim_end());
        for column in ["machine", "run_id"] {
            let expected = format!("a.csv, line 3, column '{column}': 'b' is not 'a', as in the rows before");
            check(&two(column), &expected);
        }
        check(
            &two("mem_mib"),
            "a.csv, line 3, column 'mem_mib': 'b' is not 'a', as in the cell's rows before",
        );
    }

    #[test]
    fn parts_are_found_by_their_columns() {
        let csv = format!("{},phase_create_ns,cause_wbt_ns\n1,1,5,4,0,2000000,1500000\n", FIVE.trim_end());
        let side = Side::read("a.csv", csv.as_bytes()).unwrap();
        let parts: Vec<_> = side.parts.iter().map(|part| (part.kind, part.name.as_str())).collect();
        assert_eq!(parts, [("phase", "create"), ("cause", "wbt")]);
        assert_eq!(side.cells[0].trials[0].parts_ms, [[2.0, 1.5]]);
    }
}
