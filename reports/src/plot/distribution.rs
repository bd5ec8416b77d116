//! How the pauses of each cell are distributed, whatever their BRANCH index.

use plotters::prelude::*;

use super::axis::Axis;
use super::canvas::{self, Canvas, Surface, px};
use super::marker::Style;
use super::{PlotError, Words, check, frame};
use crate::stats::Spread;
use crate::sweep::Sweep;

/// The share of BRANCHes that paused no longer than that, as PNG, 1600 by 900 pixels: a step and a marker for each
/// sample, so that nothing is smoothed away.
pub fn png(sweep: &Sweep, words: &Words) -> Result<Vec<u8>, PlotError> {
    check(sweep)?;
    let mut canvas = Canvas::new();
    canvas.draw(|surface| {
        let top = frame(surface, words, Some(&sweep.cells()))?;
        let (_, chart) = surface.split_vertically(px(top));
        draw(surface, &chart, sweep)
    })?;
    canvas.to_png()
}

fn draw(surface: &Surface, area: &Surface, sweep: &Sweep) -> Result<(), PlotError> {
    let pauses = sweep.samples.iter().map(|sample| sample.pause_ms);
    let x = Axis::figures(Spread::of(pauses).ok_or(PlotError::Empty)?);
    let x_title = if x.is_log() { "pause (ms, logarithmic scale)" } else { "pause (ms)" };
    let mut chart = ChartBuilder::on(area)
        .margin(px(24))
        .margin_top(px(10))
        .margin_right(px(40))
        .x_label_area_size(px(86))
        .y_label_area_size(px(112))
        .build_cartesian_2d(x, Axis::percent())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(canvas::GRID.stroke_width(canvas::SUPERSAMPLING))
        .axis_style(canvas::GREY.stroke_width(2 * canvas::SUPERSAMPLING))
        .set_all_tick_mark_size(px(8))
        .label_style(canvas::font(27, &BLACK))
        .axis_desc_style(canvas::font(29, &BLACK))
        .y_label_offset(px(4))
        .x_label_formatter(&|ms| format!("{ms}"))
        .y_label_formatter(&|percent| format!("{percent}"))
        .x_desc(x_title)
        .y_desc("BRANCHes that paused no longer (%)")
        .draw()?;
    for (order, cell) in sweep.cells().iter().enumerate() {
        let steps = steps(sweep.of_cell(cell).map(|sample| sample.pause_ms).collect());
        let at = |(pause_ms, percent): (f64, f64)| chart.backend_coord(&(pause_ms, percent));
        let style = Style::of(order).among(steps.len() as u32);
        let corners =
            steps.iter().flat_map(|step| [at((step.pause_ms, step.below)), at((step.pause_ms, step.upto))]);
        style.line(surface, corners.collect())?;
        for step in &steps {
            style.mark(surface, at((step.pause_ms, step.upto)))?;
        }
    }
    Ok(())
}

/// One sample: which share of all is below it, and which once it is counted, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    pause_ms: f64,
    below: f64,
    upto: f64,
}

fn steps(mut pauses_ms: Vec<f64>) -> Vec<Step> {
    pauses_ms.sort_by(f64::total_cmp);
    let share = |count: usize| count as f64 * 100.0 / pauses_ms.len() as f64;
    let step = |(at, &pause_ms): (usize, &f64)| Step { pause_ms, below: share(at), upto: share(at + 1) };
    pauses_ms.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::{Step, steps};

    #[test]
    fn the_shares_rise_from_nothing_to_all_with_one_step_a_sample() {
        let steps = steps(vec![30.0, 10.0, 20.0, 10.0]);
        let step = |pause_ms, below, upto| Step { pause_ms, below, upto };
        let expected =
            [step(10.0, 0.0, 25.0), step(10.0, 25.0, 50.0), step(20.0, 50.0, 75.0), step(30.0, 75.0, 100.0)];
        assert_eq!(steps, expected);
    }
}
