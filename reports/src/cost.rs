//! What a recording cost the host that it ran on.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::text::wrap;
use crate::units::duration;

/// The width of the column of programs, where none has a longer name.
const NAME: usize = 16;

/// What a recording cost the host that it ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// From the request to record until events were recorded and the threads that slept were looked at.
    pub attach_ns: u64,
    /// The most memory that the recording process had resident up to the end of the recording.
    pub peak_resident_bytes: u64,
    /// Records that came from the kernel.
    pub records: u64,
    /// Different user stacks among them.
    pub user_stacks: u64,
    /// The BPF programs, as the kernel's run-time statistics tell.
    pub programs: Vec<ProgramCost>,
    /// Ways of seeing switches that were tried before the one in `attach`, each with why the kernel refused it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// What one BPF program cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Its name, which is that of its tracepoint.
    pub name: String,
    /// How often it ran: for watched and for other threads.
    pub runs: u64,
    /// Summed time of the runs.
    pub run_ns: u64,
}

/// The last lines of a table: nothing where the cost was not asked for.
pub(crate) fn render(out: &mut String, cost: Option<&Cost>) -> std::fmt::Result {
    cost.map_or(Ok(()), |cost| write_all(out, cost))
}

fn write_all(out: &mut String, cost: &Cost) -> std::fmt::Result {
    writeln!(
        out,
        "\ncost: attached in {}, at most {:.1} MiB resident, {} records, {} user stacks",
        duration(cost.attach_ns),
        cost.peak_resident_bytes as f64 / f64::from(1 << 20),
        cost.records,
        cost.user_stacks,
    )?;
    let width = cost.programs.iter().map(|program| program.name.len()).max().unwrap_or(0).max(NAME);
    for program in &cost.programs {
        let mean_ns = program.run_ns.checked_div(program.runs).unwrap_or(0);
        writeln!(
            out,
            "  {:<width$} {:>10} runs {:>9} in all {mean_ns:>6} ns each",
            program.name,
            program.runs,
            duration(program.run_ns),
        )?;
    }
    for refused in &cost.refused {
        out.push_str(&wrap(&format!("  refused: {refused}"), " ", "    "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Cost, ProgramCost, render};

    #[test]
    fn each_program_has_its_mean_also_where_it_never_ran() {
        let program = |name: &str, runs, run_ns| ProgramCost { name: name.to_owned(), runs, run_ns };
        let programs = vec![
            program("sched_switch", 1000, 45_000),
            program("sched_waking", 0, 0),
            program("balance_dirty_pages_12", 1, 70),
        ];
        let cost = Cost {
            attach_ns: 90_000_000,
            peak_resident_bytes: 30 << 20,
            records: 12,
            user_stacks: 3,
            programs,
            refused: vec!["tp_btf: no such tracepoint".to_owned()],
        };
        let mut out = String::new();
        render(&mut out, Some(&cost)).unwrap();
        assert!(out.contains("attached in 90.0 ms, at most 30.0 MiB"), "{out}");
        assert!(
            out.contains("1000 runs") && out.contains("45 ns each") && out.contains(" 0 ns each"),
            "{out}"
        );
        assert!(out.contains("refused: tp_btf: no such tracepoint"), "{out}");
        assert!(out.lines().all(|line| line.len() <= 80), "{out}");
        let columns: Vec<_> = out.lines().filter_map(|line| line.find(" runs ")).collect();
        assert!(columns.len() == 3 && columns.iter().all(|column| *column == columns[0]), "{out}");
    }
}
