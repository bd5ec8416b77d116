//! A figure by BRANCH index: every sample is a marker, a line joins the medians over the trials.

use std::collections::BTreeMap;

use plotters::prelude::*;

use super::axis::Axis;
use super::canvas::{self, Surface, px};
use super::marker::Style;
use super::{PlotError, phases};
use crate::stats::Spread;
use crate::sweep::{Sample, Sweep};

/// Samples of one cell, by BRANCH index.
type ByIndex = BTreeMap<u32, Vec<f64>>;

/// Draws `figure` of every sample that has it into `area` of `surface`. Its axis is logarithmic where the figures
/// spread widely, and says so.
pub fn draw(
    surface: &Surface,
    area: &Surface,
    sweep: &Sweep,
    y_title: &str,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Result<(), PlotError> {
    let cells = sweep.cells();
    let by_index: Vec<ByIndex> = cells.iter().map(|cell| of_cell(sweep, cell, &figure)).collect();
    let figures = by_index.iter().flat_map(|indices| indices.values().flatten().copied());
    let last = sweep.samples.iter().map(|sample| sample.branch_idx).max().unwrap_or(1);
    let y = Axis::figures(Spread::of(figures).ok_or(PlotError::Empty)?);
    let y_title = if y.is_log() { y_title.replace(')', ", logarithmic scale)") } else { y_title.to_owned() };
    let mut chart = ChartBuilder::on(area)
        .margin(px(24))
        .margin_top(px(10))
        .x_label_area_size(px(86))
        .y_label_area_size(px(112))
        .build_cartesian_2d(Axis::index(last), y)?;
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
        .y_label_formatter(&|figure| format!("{figure}"))
        .x_desc(phases::BY_INDEX)
        .y_desc(y_title)
        .draw()?;
    let room = i32::try_from(area.dim_in_pixel().0 / canvas::SUPERSAMPLING).unwrap_or(0) - 200;
    for (order, indices) in by_index.iter().enumerate() {
        // Side by side, so that no cell hides another where they agree.
        let aside = px(dodge(room, last, cells.len())) * (2 * order as i32 - cells.len() as i32 + 1) / 2;
        let at = |index: u32, figure: f64| {
            let (x, y) = chart.backend_coord(&(f64::from(index), figure));
            (x + aside, y)
        };
        draw_cell(surface, &Style::of(order).among(last), indices, at)?;
    }
    Ok(())
}

fn of_cell(sweep: &Sweep, cell: &str, figure: impl Fn(&Sample) -> Option<f64>) -> ByIndex {
    let mut by_index = ByIndex::new();
    for sample in sweep.of_cell(cell) {
        if let Some(figure) = figure(sample) {
            by_index.entry(sample.branch_idx).or_default().push(figure);
        }
    }
    by_index
}

/// Distance between the markers of two cells at one BRANCH index, in pixels of the picture, where `room` is the
/// width of the chart: less where the cells of one index would reach those of the next.
fn dodge(room: i32, last: u32, cells: usize) -> i32 {
    let room = room / i32::try_from(last.max(1) as usize * cells.max(1)).unwrap_or(i32::MAX);
    room.clamp(0, 12)
}

fn draw_cell(
    surface: &Surface,
    style: &Style,
    by_index: &ByIndex,
    at: impl Fn(u32, f64) -> (i32, i32),
) -> Result<(), PlotError> {
    let medians = by_index.iter().filter_map(|(index, trials)| {
        Spread::of(trials.iter().copied()).map(|spread| at(*index, spread.median))
    });
    style.line(surface, medians.collect())?;
    for (index, trials) in by_index {
        for &figure in trials {
            style.mark(surface, at(*index, figure))?;
        }
    }
    Ok(())
}
