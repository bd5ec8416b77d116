//! What the recording cost, as text.

use std::fmt::Write;

use super::Cost;
use crate::text::wrap;
use crate::units::duration;

pub fn render(out: &mut String, cost: &Cost) -> std::fmt::Result {
    writeln!(
        out,
        "\ncost: attached in {}, at most {:.1} MiB resident, {} records, {} user stacks",
        duration(cost.attach_ns),
        cost.peak_resident_bytes as f64 / f64::from(1 << 20),
        cost.records,
        cost.user_stacks,
    )?;
    for program in &cost.programs {
        let mean_ns = program.run_ns.checked_div(program.runs).unwrap_or(0);
        writeln!(
            out,
            "  {:<16} {:>10} runs {:>9} in all {mean_ns:>6} ns each",
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
    use super::render;
    use crate::offcpu::{Cost, ProgramCost};

    #[test]
    fn each_program_has_its_mean_also_where_it_never_ran() {
        let program = |name: &str, runs, run_ns| ProgramCost { name: name.to_owned(), runs, run_ns };
        let programs = vec![program("sched_switch", 1000, 45_000), program("sched_waking", 0, 0)];
        let cost = Cost {
            attach_ns: 90_000_000,
            peak_resident_bytes: 30 << 20,
            records: 12,
            user_stacks: 3,
            programs,
            refused: vec!["tp_btf: no such tracepoint".to_owned()],
        };
        let mut out = String::new();
        render(&mut out, &cost).unwrap();
        assert!(out.contains("attached in 90.0 ms, at most 30.0 MiB"), "{out}");
        assert!(
            out.contains("1000 runs") && out.contains("45 ns each") && out.contains(" 0 ns each"),
            "{out}"
        );
        assert!(out.contains("refused: tp_btf: no such tracepoint"), "{out}");
        assert!(out.lines().all(|line| line.len() <= 80), "{out}");
    }
}
