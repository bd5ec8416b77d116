//! A sweep from CSV. A figure that cannot be right is refused with its place, never read as something else.

use std::io;
use std::str::FromStr;

use super::{CIRCUMSTANCES, COLUMNS, Circumstances, START, Sample, Sweep, io_error, phase_of_column};

/// Why a CSV is not a sweep.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read to its end.
    #[error("{file}: {source}")]
    Io {
        /// The name that the caller gave.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The header lacks a column that every sweep has.
    #[error("{file}, line 1: column '{column}' is missing; the header has: {header}")]
    MissingColumn {
        /// The name that the caller gave.
        file: String,
        /// The column.
        column: &'static str,
        /// The header as found.
        header: String,
    },
    /// A row has more or fewer fields than the header.
    #[error("{file}, line {line}: {found} fields, and the header has {expected}: was the file cut short?")]
    Ragged {
        /// The name that the caller gave.
        file: String,
        /// Line in the file, from 1.
        line: u64,
        /// Fields of the header.
        expected: u64,
        /// Fields of the row.
        found: u64,
    },
    /// A field does not hold what its column is for.
    #[error("{file}, line {line}, column '{column}': '{value}' is not {wanted}")]
    Value {
        /// The name that the caller gave.
        file: String,
        /// Line in the file, from 1.
        line: u64,
        /// The column.
        column: String,
        /// The field as found.
        value: String,
        /// What the column is for.
        wanted: &'static str,
    },
}

/// Reads a sweep; `file` is the name that errors are given. Columns are found by name, in any order;
/// those that are not a sweep's are ignored, and [`CIRCUMSTANCES`] may be missing.
pub fn read(file: &str, input: impl io::Read) -> Result<Sweep, ReadError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let header = reader.headers().map_err(|error| csv_error(file, error))?.clone();
    let layout = Layout::of(file, &header)?;
    let mut sweep = Sweep { phases: layout.phase_names(), samples: Vec::new() };
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(file, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        sweep.samples.push(Row { file, line, record: &record, header: &header }.sample(&layout)?);
    }
    Ok(sweep)
}

fn csv_error(file: &str, error: csv::Error) -> ReadError {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => ReadError::Ragged {
            file: file.to_owned(),
            line: pos.as_ref().map_or(0, csv::Position::line),
            expected: *expected_len,
            found: *len,
        },
        _ => ReadError::Io { file: file.to_owned(), source: io_error(error) },
    }
}

/// Where each column stands.
struct Layout {
    fixed: [usize; COLUMNS.len()],
    start: usize,
    phases: Vec<(String, usize)>,
    circumstances: [Option<usize>; CIRCUMSTANCES.len()],
}

impl Layout {
    fn of(file: &str, header: &csv::StringRecord) -> Result<Self, ReadError> {
        let position = |column: &'static str| {
            header.iter().position(|name| name == column).ok_or_else(|| ReadError::MissingColumn {
                file: file.to_owned(),
                column,
                header: header.iter().collect::<Vec<_>>().join(","),
            })
        };
        let mut fixed = [0; COLUMNS.len()];
        for (slot, column) in fixed.iter_mut().zip(COLUMNS) {
            *slot = position(column)?;
        }
        let phases = header.iter().enumerate();
        let phases =
            phases.filter_map(|(at, column)| Some((phase_of_column(column)?.to_owned(), at))).collect();
        let circumstances = CIRCUMSTANCES.map(|column| header.iter().position(|name| name == column));
        Ok(Self { fixed, start: position(START)?, phases, circumstances })
    }

    fn phase_names(&self) -> Vec<String> {
        self.phases.iter().map(|(name, _)| name.clone()).collect()
    }
}

struct Row<'a> {
    file: &'a str,
    line: u64,
    record: &'a csv::StringRecord,
    header: &'a csv::StringRecord,
}

impl Row<'_> {
    fn sample(&self, layout: &Layout) -> Result<Sample, ReadError> {
        let [cell, data_path, root, file_system, mem, dirty, gap, trial, index, pause, diff, bytes] =
            layout.fixed;
        let phases = layout.phases.iter().map(|&(_, at)| self.whole(at));
        Ok(Sample {
            cell: self.name(cell)?,
            data_path: self.name(data_path)?,
            root: self.name(root)?,
            file_system: self.name(file_system)?,
            mem_mib: self.one_or_more(mem)?,
            dirty_pages: self.whole(dirty)?,
            gap_ms: self.whole(gap)?,
            trial: self.one_or_more(trial)?,
            branch_idx: self.one_or_more(index)?,
            pause_ms: self.milliseconds(pause, |ms| ms > 0.0, "a number of milliseconds above 0")?,
            diff_ms: self.milliseconds(diff, |ms| ms >= 0.0, "a number of milliseconds, 0 or more")?,
            diff_physical_bytes: self.whole(bytes)?,
            phases_ns: phases.collect::<Result<_, _>>()?,
            start_unix_ms: self.whole(layout.start)?,
            circumstances: self.circumstances(layout)?,
        })
    }

    fn circumstances(&self, layout: &Layout) -> Result<Circumstances, ReadError> {
        let [run, mode, neighbour, bps, seed, order, start, call, written, pending, steal, guard] =
            layout.circumstances;
        let text = |at: Option<usize>| at.map_or_else(String::new, |at| self.record[at].to_owned());
        let whole = |at: Option<usize>| at.map_or(Ok(0), |at| self.whole(at));
        let may_be_empty = |at: Option<usize>| {
            at.filter(|&at| !self.record[at].is_empty()).map(|at| self.whole(at)).transpose()
        };
        let share = "a share in percent, 0 to 100";
        let percent = |text: &str| parse(text).filter(|share: &f64| (0.0..=100.0).contains(share));
        Ok(Circumstances {
            run_id: text(run),
            mode: text(mode),
            neighbour: text(neighbour),
            disk_bps: may_be_empty(bps)?,
            seed: whole(seed)?,
            order: order.map_or(Ok(0), |at| self.field(at, "a whole number, 0 or more", parse))?,
            start_unix_ns: whole(start)?,
            call_ns: whole(call)?,
            disk_written_bytes: may_be_empty(written)?,
            pending_kib: whole(pending)?,
            steal_pct: steal.map_or(Ok(0.0), |at| self.field(at, share, percent))?,
            guard: text(guard),
        })
    }

    fn name(&self, at: usize) -> Result<String, ReadError> {
        self.field(at, "a name", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn whole(&self, at: usize) -> Result<u64, ReadError> {
        self.field(at, "a whole number, 0 or more", parse)
    }

    fn one_or_more(&self, at: usize) -> Result<u32, ReadError> {
        self.field(at, "a whole number, 1 or more", |text| parse(text).filter(|&number: &u32| number > 0))
    }

    fn milliseconds(&self, at: usize, fits: fn(f64) -> bool, wanted: &'static str) -> Result<f64, ReadError> {
        self.field(at, wanted, |text| parse(text).filter(|&ms: &f64| ms.is_finite() && fits(ms)))
    }

    fn field<T>(
        &self,
        at: usize,
        wanted: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ReadError> {
        let value = &self.record[at];
        read(value).ok_or_else(|| ReadError::Value {
            file: self.file.to_owned(),
            line: self.line,
            column: self.header[at].to_owned(),
            value: value.to_owned(),
            wanted,
        })
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::sweep::{Circumstances, to_csv};

    const HEADER: &str = "cell,data_path,root,file_system,mem_mib,dirty_pages,gap_ms,trial,branch_idx,pause_ms,\
                          diff_ms,diff_physical_bytes,phase_pause_ns,phase_create_ns,start_unix_ms";
    const ROW: &str =
        "naive@tmpfs,naive,tmpfs,tmpfs,512,4096,3000,1,1,19.123457,17.000000,16777216,600000,17000000,1";

    const MORE: &str = "run_id,mode,neighbour,disk_bps,seed,order,start_unix_ns,call_ns,disk_written_bytes,\
                        pending_kib,steal_pct,guard";

    fn check(rows: &str, expect: &str) {
        let error = read("sweep.csv", format!("{HEADER}\n{rows}").as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn what_is_written_reads_back_to_the_same_bytes() {
        let text =
            format!("{HEADER},{MORE}\n{ROW},r-1,diff,none,,7,3,1000001,20000000,4096,12,0.25,dirty+steal\n");
        let sweep = read("sweep.csv", text.as_bytes()).unwrap();
        assert_eq!(sweep.phases, ["pause", "create"]);
        assert_eq!(sweep.samples[0].phases_ns, [600_000, 17_000_000]);
        assert_eq!(String::from_utf8(to_csv(&sweep).unwrap()).unwrap(), text);
    }

    #[test]
    fn a_bad_figure_is_refused_with_its_line_and_column() {
        for bad in ["NaN", "0", "-1", "inf", ""] {
            check(
                &format!("{ROW}\n{}", ROW.replace("19.123457", bad)),
                &format!(
                    "sweep.csv, line 3, column 'pause_ms': '{bad}' is not a number of milliseconds above 0"
                ),
            );
        }
        check(
            &ROW.replace(",1,1,", ",1,0,"),
            "sweep.csv, line 2, column 'branch_idx': '0' is not a whole number, 1 or more",
        );
    }

    #[test]
    fn a_sweep_without_circumstances_is_read_and_bad_ones_are_refused() {
        let sweep = read("a.csv", format!("{HEADER}\n{ROW}\n").as_bytes()).unwrap();
        assert_eq!(sweep.samples[0].circumstances, Circumstances::default());
        for (circumstances, at, wanted) in [
            ("r,diff,none,x,7,3,1,2,4096,12,0.25,", "column 'disk_bps': 'x'", "a whole number, 0 or more"),
            ("r,diff,none,,7,3,1,2,,12,101,", "column 'steal_pct': '101'", "a share in percent, 0 to 100"),
            ("r,diff,none,,-1,3,1,2,,12,0,", "column 'seed': '-1'", "a whole number, 0 or more"),
        ] {
            let text = format!("{HEADER},{MORE}\n{ROW},{circumstances}\n");
            let error = read("a.csv", text.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("a.csv, line 2, {at} is not {wanted}"));
        }
    }

    #[test]
    fn a_row_that_was_cut_short_is_refused() {
        check(
            "naive@tmpfs,naive,tm",
            "sweep.csv, line 2: 3 fields, and the header has 15: was the file cut short?",
        );
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = read("a.csv", "cell,trial\n".as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "a.csv, line 1: column 'data_path' is missing; the header has: cell,trial");
    }

    #[test]
    fn columns_may_stand_in_any_order_beside_others() {
        let header = format!("note,start_unix_ms,{}", HEADER.replace(",start_unix_ms", ""));
        let row = format!("x,7,{}", ROW.strip_suffix(",1").unwrap());
        let sweep = read("a.csv", format!("{header}\n{row}\n").as_bytes()).unwrap();
        assert_eq!((sweep.samples[0].start_unix_ms, sweep.samples[0].branch_idx), (7, 1));
    }
}
