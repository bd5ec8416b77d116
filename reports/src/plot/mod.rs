//! The picture of a sweep: pause by BRANCH index, one line a cell.

use plotters::prelude::*;

use crate::stats::Spread;
use crate::sweep::Sweep;

mod axis;
mod canvas;
mod legend;
mod marker;

use axis::Axis;
use canvas::{Canvas, Surface, px, text};
use marker::Style;

/// Words around the picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What the picture shows, one line.
    pub title: String,
    /// What a reader must know to compare it with another: machine, guest, load. One line.
    pub caption: String,
}

/// Why a sweep could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("nothing to draw: the sweep has no samples")]
    Empty,
    /// A sample has no place on an axis.
    #[error("cannot draw a pause of {pause_ms} ms (cell {cell}, trial {trial}, BRANCH {branch_idx})")]
    Sample {
        /// Its cell.
        cell: String,
        /// Its trial.
        trial: u32,
        /// Its BRANCH index.
        branch_idx: u32,
        /// The value.
        pause_ms: f64,
    },
    /// The drawing library gave up.
    #[error("the picture could not be drawn: {0}")]
    Draw(String),
    /// The pixels could not be packed.
    #[error("the picture could not be written as PNG: {0}")]
    Png(#[from] png::EncodingError),
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// Pause by BRANCH index as PNG, 1600 by 900 pixels: every sample is a marker, a line joins the medians
/// over the trials. The pause axis is logarithmic where the pauses spread over more than a factor of 20.
pub fn sweep_png(sweep: &Sweep, words: &Words) -> Result<Vec<u8>, PlotError> {
    check(sweep)?;
    let mut canvas = Canvas::new();
    canvas.draw(|surface| draw(surface, sweep, words))?;
    canvas.to_png()
}

fn check(sweep: &Sweep) -> Result<(), PlotError> {
    if sweep.samples.is_empty() {
        return Err(PlotError::Empty);
    }
    match sweep.samples.iter().find(|sample| !(sample.pause_ms.is_finite() && sample.pause_ms > 0.0)) {
        None => Ok(()),
        Some(sample) => Err(PlotError::Sample {
            cell: sample.cell.clone(),
            trial: sample.trial,
            branch_idx: sample.branch_idx,
            pause_ms: sample.pause_ms,
        }),
    }
}

fn draw(surface: &Surface, sweep: &Sweep, words: &Words) -> Result<(), PlotError> {
    const LEFT: i32 = 40;
    surface.fill(&WHITE)?;
    text(surface, &words.title, (LEFT, 26), 42, &BLACK)?;
    text(surface, &words.caption, (LEFT, 82), 25, &canvas::GREY)?;
    let cells = sweep.cells();
    let legend_end = legend::draw(surface, &cells, (LEFT, 126))?;
    let (_, chart) = surface.split_vertically(px(legend_end + 10));
    draw_chart(surface, &chart, sweep, &cells)
}

/// Distance between the markers of two cells at one BRANCH index, in pixels of the picture: less where the cells
/// of one index would reach those of the next.
fn dodge(last: u32, cells: usize) -> i32 {
    const CHART: i32 = 1_400;
    let room = CHART / i32::try_from(last.max(1) as usize * cells.max(1)).unwrap_or(i32::MAX);
    room.min(12)
}

fn draw_chart(surface: &Surface, area: &Surface, sweep: &Sweep, cells: &[&str]) -> Result<(), PlotError> {
    let pauses = sweep.samples.iter().map(|sample| sample.pause_ms);
    let indices = sweep.samples.iter().map(|sample| sample.branch_idx);
    let last = indices.max().unwrap_or(1);
    let x = Axis::index(last);
    let y = Axis::pauses(Spread::of(pauses).ok_or(PlotError::Empty)?);
    let y_title = if y.is_log() { "pause (ms, logarithmic scale)" } else { "pause (ms)" };
    let mut chart = ChartBuilder::on(area)
        .margin(px(24))
        .margin_top(px(10))
        .x_label_area_size(px(86))
        .y_label_area_size(px(112))
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(canvas::GRID.stroke_width(canvas::SUPERSAMPLING))
        .axis_style(canvas::GREY.stroke_width(2 * canvas::SUPERSAMPLING))
        .set_all_tick_mark_size(px(8))
        .label_style(canvas::font(27, &BLACK))
        .axis_desc_style(canvas::font(29, &BLACK))
        // The font's figures sit above the middle of their box.
        .y_label_offset(px(4))
        .x_label_formatter(&|index| format!("{index}"))
        .y_label_formatter(&|ms| format!("{ms}"))
        .x_desc("BRANCH of the same sandbox, counted from 1")
        .y_desc(y_title)
        .draw()?;
    for (order, cell) in cells.iter().enumerate() {
        // Side by side, so that no cell hides another where they agree.
        let aside = px(dodge(last, cells.len())) * (2 * order as i32 - cells.len() as i32 + 1) / 2;
        let at = |index: u32, pause_ms: f64| {
            let (x, y) = chart.backend_coord(&(f64::from(index), pause_ms));
            (x + aside, y)
        };
        draw_cell(surface, &Style::of(order).among(last), &sweep.pauses_by_index(cell), at)?;
    }
    Ok(())
}

fn draw_cell(
    surface: &Surface,
    style: &Style,
    pauses: &[(u32, Vec<f64>)],
    at: impl Fn(u32, f64) -> (i32, i32),
) -> Result<(), PlotError> {
    let medians = pauses.iter().filter_map(|(index, trials)| {
        Spread::of(trials.iter().copied()).map(|spread| at(*index, spread.median))
    });
    style.line(surface, medians.collect())?;
    for (index, trials) in pauses {
        for &pause_ms in trials {
            style.mark(surface, at(*index, pause_ms))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{PlotError, Words, sweep_png};
    use crate::sweep::{Sweep, read};

    #[test]
    fn an_empty_sweep_is_refused() {
        assert!(matches!(sweep_png(&Sweep::default(), &Words::default()), Err(PlotError::Empty)));
    }

    #[test]
    fn a_pause_that_has_no_logarithm_is_refused_by_name() {
        let csv = include_str!("../../tests/golden/sweep.csv");
        let mut sweep = read("sweep.csv", csv.as_bytes()).unwrap();
        sweep.samples[3].pause_ms = f64::NAN;
        let error = sweep_png(&sweep, &Words::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot draw a pause of NaN ms (cell naive@ext4-loop, trial 1"), "{error}");
    }
}
