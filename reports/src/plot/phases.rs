//! Where the time of each BRANCH goes, phase by phase.

use plotters::prelude::*;

use super::axis::Axis;
use super::canvas::{self, Canvas, Surface, px, text, text_width};
use super::{PlotError, Words, check, frame};
use crate::stats::Spread;
use crate::sweep::Sweep;

/// What BRANCH indices are, under an axis.
pub const BY_INDEX: &str = "BRANCH of the same sandbox, counted from 1";

/// Panels beside each other.
const COLUMNS: usize = 3;
/// Height of a row of panels, in pixels of the picture.
const ROW: i32 = 360;

/// Colours of the phases, by name: those in which the guest stands still are strong, the others pale. A phase that
/// is not known here is grey.
const COLORS: [(&str, RGBColor); 7] = [
    ("pause", RGBColor(0, 0, 0)),
    ("create", RGBColor(213, 94, 0)),
    ("resume", RGBColor(0, 114, 178)),
    ("prepare", RGBColor(240, 228, 66)),
    ("copy", RGBColor(159, 211, 240)),
    ("merge", RGBColor(178, 223, 205)),
    ("publish", RGBColor(232, 196, 218)),
];

/// The length of each phase by BRANCH index, stacked, as PNG, 1600 pixels wide: a panel for each cell, all with the
/// same axis; medians over the trials. The phases in which the guest stands still are at the bottom.
pub fn png(sweep: &Sweep, words: &Words) -> Result<Vec<u8>, PlotError> {
    check(sweep)?;
    let cells = sweep.cells();
    let stacks: Vec<Vec<Stack>> = cells.iter().map(|cell| stacks(sweep, cell)).collect();
    let highest = stacks.iter().flatten().map(Stack::ms).fold(0.0, f64::max);
    if highest <= 0.0 {
        return Err(PlotError::Empty);
    }
    let (top, rows) = (230, cells.len().div_ceil(COLUMNS));
    let mut canvas = Canvas::with_height(top + ROW * rows as i32 + 30);
    canvas.draw(|surface| {
        frame(surface, words, None)?;
        legend(surface, &sweep.phases)?;
        let (_, below) = surface.split_vertically(px(top));
        let (below, _) = below.split_vertically(px(ROW * rows as i32));
        let panels = below.split_evenly((rows, COLUMNS.min(cells.len())));
        for ((cell, stacks), area) in cells.iter().zip(&stacks).zip(&panels) {
            panel((surface, area), cell, stacks, highest)?;
        }
        Ok(())
    })?;
    canvas.to_png()
}

/// One BRANCH index of one cell: its phases in milliseconds, from the bottom up.
#[derive(Clone, Debug, PartialEq)]
struct Stack {
    index: u32,
    parts: Vec<(RGBColor, f64)>,
}

impl Stack {
    fn ms(&self) -> f64 {
        self.parts.iter().map(|(_, ms)| ms).sum()
    }
}

fn stacks(sweep: &Sweep, cell: &str) -> Vec<Stack> {
    let mut indices: Vec<u32> = sweep.of_cell(cell).map(|sample| sample.branch_idx).collect();
    indices.sort_unstable();
    indices.dedup();
    let median_ms = |index: u32, phase: usize| {
        let trials = sweep.of_cell(cell).filter(|sample| sample.branch_idx == index);
        let lengths = trials.filter_map(|sample| sample.phases_ns.get(phase)).map(|ns| *ns as f64 / 1e6);
        Spread::of(lengths).map_or(0.0, |spread| spread.median)
    };
    let stack = |index: u32| {
        let order = stacking(&sweep.phases);
        let parts = order.iter().map(|&(phase, color)| (color, median_ms(index, phase)));
        Stack { index, parts: parts.collect() }
    };
    indices.into_iter().map(stack).collect()
}

/// The phases from the bottom up, each by its place in `phases`.
fn stacking(phases: &[String]) -> Vec<(usize, RGBColor)> {
    let place = |phase: &str| COLORS.iter().position(|(name, _)| *name == phase).unwrap_or(COLORS.len());
    let mut order: Vec<usize> = (0..phases.len()).collect();
    order.sort_by_key(|&phase| place(&phases[phase]));
    let color = |phase: usize| COLORS.get(place(&phases[phase])).map_or(canvas::GRID, |(_, color)| *color);
    order.into_iter().map(|phase| (phase, color(phase))).collect()
}

/// Which colour is which phase.
fn legend(surface: &Surface, phases: &[String]) -> Result<(), PlotError> {
    const SIZE: i32 = 27;
    let (mut x, y) = (40, 134);
    for (phase, color) in stacking(phases) {
        surface.draw(&Rectangle::new([(px(x), px(y)), (px(x + 26), px(y + 26))], color.filled()))?;
        text(surface, &phases[phase], (x + 38, y + 2), SIZE, &BLACK)?;
        x += 38 + text_width(surface, &phases[phase], SIZE)? + 36;
    }
    let words = "The guest stands still in pause, create and resume. Medians over the trials.";
    text(surface, words, (40, y + 48), 25, &canvas::GREY)
}

fn panel(
    (surface, area): (&Surface, &Surface),
    cell: &str,
    stacks: &[Stack],
    highest_ms: f64,
) -> Result<(), PlotError> {
    text(area, cell, (40, 0), 27, &BLACK)?;
    let (_, area) = area.split_vertically(px(36));
    let last = stacks.last().map_or(1, |stack| stack.index);
    let y = Axis::figures(Spread { min: 0.0, median: highest_ms, max: highest_ms });
    let mut chart = ChartBuilder::on(&area)
        .margin(px(16))
        .margin_top(px(8))
        .x_label_area_size(px(76))
        .y_label_area_size(px(96))
        .build_cartesian_2d(Axis::bars(last), y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(canvas::GRID.stroke_width(canvas::SUPERSAMPLING))
        .axis_style(canvas::GREY.stroke_width(2 * canvas::SUPERSAMPLING))
        .set_all_tick_mark_size(px(7))
        .label_style(canvas::font(22, &BLACK))
        .axis_desc_style(canvas::font(24, &BLACK))
        .y_label_offset(px(3))
        .x_label_formatter(&|index| format!("{index}"))
        .y_label_formatter(&|ms| format!("{ms}"))
        .x_desc("BRANCH")
        .y_desc("ms")
        .draw()?;
    for stack in stacks {
        let mut low = 0.0;
        for &(color, ms) in &stack.parts {
            let (left, right) = (f64::from(stack.index) - 0.38, f64::from(stack.index) + 0.38);
            let corners = [chart.backend_coord(&(left, low + ms)), chart.backend_coord(&(right, low))];
            surface.draw(&Rectangle::new(corners, color.filled()))?;
            low += ms;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{COLORS, stacking, stacks};
    use crate::sweep::read;

    #[test]
    fn the_guest_stands_still_at_the_bottom_and_nothing_is_left_out() {
        let csv = include_str!("../../tests/golden/sweep.csv");
        let sweep = read("sweep.csv", csv.as_bytes()).unwrap();
        let order: Vec<&str> =
            stacking(&sweep.phases).iter().map(|(phase, _)| sweep.phases[*phase].as_str()).collect();
        assert_eq!(order, COLORS.map(|(name, _)| name));
        let stacks = stacks(&sweep, "naive@tmpfs");
        assert!(stacks.iter().map(|stack| stack.index).eq(1..=6));
        // Of three trials, the middle length of each phase.
        let all: Vec<f64> = stacks[0].parts.iter().map(|(_, ms)| *ms).collect();
        assert!((all[0] - 0.6).abs() < 1e-9 && (all[2] - 0.3).abs() < 1e-9, "{all:?}");
    }

    #[test]
    fn a_phase_that_is_not_known_comes_last() {
        let phases = ["later", "create", "pause"].map(str::to_owned);
        let order: Vec<usize> = stacking(&phases).into_iter().map(|(phase, _)| phase).collect();
        assert_eq!(order, [2, 1, 0]);
    }
}
