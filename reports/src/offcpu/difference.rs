//! What changed from one off-CPU report to another, as a flame graph: width is time in the second, red is more than
//! in the first and blue is less.

use inferno::differential;
use inferno::flamegraph::{Options, from_lines};

use super::{OffCpu, RenderError, folded, subject};
use crate::text::clip;
use crate::units::duration;

const WIDTH_PX: usize = 1200;

/// Draws the difference. Threads are matched by name: their numbers are another run's.
pub fn difference(before: &OffCpu, after: &OffCpu) -> Result<Vec<u8>, RenderError> {
    let (old, new) = (folded::by_name(before), folded::by_name(after));
    let mut both = Vec::new();
    differential::from_readers(differential::Options::default(), old.as_bytes(), new.as_bytes(), &mut both)
        .map_err(RenderError::FlameGraph)?;
    let both = String::from_utf8_lossy(&both);
    if new.is_empty() {
        return Err(RenderError::Empty { window_ns: after.window_ns });
    }
    let mut options = Options::default();
    options.title = format!("Off-CPU time of {}: red waits longer than before, blue shorter", subject(after));
    let windows = |report: &OffCpu| format!("{} of {} windows", duration(report.window_ns), report.windows);
    options.subtitle =
        Some(clip(&format!("now {}; before {}", windows(after), windows(before)), WIDTH_PX / 8));
    options.deterministic = true;
    options.image_width = Some(WIDTH_PX);
    options.count_name = "us".to_owned();
    options.name_type = "Frame:".to_owned();
    let mut svg = Vec::new();
    from_lines(&mut options, both.lines(), &mut svg).map_err(RenderError::FlameGraph)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::difference;
    use crate::offcpu::tests::report;

    #[test]
    fn a_wait_that_grew_is_red_and_one_thread_is_the_same_under_another_number() {
        let before = report();
        let mut after = before.clone();
        for stack in &mut after.stacks {
            stack.ns *= 3;
            stack.tid += 1000;
        }
        let svg = String::from_utf8(difference(&before, &after).unwrap()).unwrap();
        let title = svg.lines().find(|line| line.contains("<title>all")).unwrap_or(&svg);
        assert!(svg.contains("%)"), "{title}");
        assert!(!svg.contains("1000"), "no number of a thread");
        let same = String::from_utf8(difference(&before, &before).unwrap()).unwrap();
        assert_ne!(same, svg);
        after.stacks.clear();
        assert!(difference(&before, &after).is_err());
    }
}
