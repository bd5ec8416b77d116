//! Which line is which cell: a row of samples above the chart, where it can cover no data.

use plotters::prelude::BLACK;

use super::PlotError;
use super::canvas::{Surface, px, text, text_width, width};
use super::marker::Style;

const SIZE: i32 = 28;
/// How far the font's letters sit above the middle of their box.
const RISE: i32 = 6;
const ROW: i32 = 44;
const SAMPLE: i32 = 76;
const GAP: i32 = 44;

/// Draws the legend of `cells` from `place` to the right and on; gives the y below its last row. All in
/// pixels of the picture.
pub fn draw(surface: &Surface, cells: &[&str], place: (i32, i32)) -> Result<i32, PlotError> {
    let (mut x, mut y) = place;
    for (order, cell) in cells.iter().enumerate() {
        let entry = SAMPLE + text_width(surface, cell, SIZE)?;
        if x > place.0 && x + entry > width() - place.0 {
            (x, y) = (place.0, y + ROW);
        }
        let style = Style::of(order);
        let middle = y + ROW / 2;
        style.line(surface, vec![(px(x), px(middle)), (px(x + SAMPLE - 16), px(middle))])?;
        style.mark(surface, (px(x + (SAMPLE - 16) / 2), px(middle)))?;
        text(surface, cell, (x + SAMPLE, middle - SIZE / 2 + RISE), SIZE, &BLACK)?;
        x += entry + GAP;
    }
    Ok(y + ROW)
}
