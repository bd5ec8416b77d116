//! How much was written for each BRANCH.

use super::canvas::{Canvas, Surface, px, text};
use super::{PlotError, Words, by_index, check, frame};
use crate::sweep::{Sample, Sweep};
use plotters::prelude::BLACK;

const MIB: f64 = (1 << 20) as f64;
type Figure = fn(&Sample) -> Option<f64>;

/// Bytes by BRANCH index as PNG, 1600 by 900 pixels. On the left what Firecracker wrote of the guest's memory; on
/// the right what the block device below the snapshots was told to write since the BRANCH before, where any cell has
/// one.
pub fn png(sweep: &Sweep, words: &Words) -> Result<Vec<u8>, PlotError> {
    check(sweep)?;
    let memory: Figure = |sample| Some(sample.diff_physical_bytes as f64 / MIB);
    let device: Figure = |sample| Some(sample.circumstances.disk_written_bytes? as f64 / MIB);
    let mut canvas = Canvas::new();
    canvas.draw(|surface| {
        let top = frame(surface, words, Some(&sweep.cells()))?;
        let (_, below) = surface.split_vertically(px(top));
        if sweep.samples.iter().all(|sample| device(sample).is_none()) {
            return panel(surface, &below, sweep, "by Firecracker, of the guest's memory", memory);
        }
        let (left, right) = below.split_horizontally(px(800));
        panel(surface, &left, sweep, "by Firecracker, of the guest's memory", memory)?;
        panel(surface, &right, sweep, "to the block device, since the BRANCH before", device)
    })?;
    canvas.to_png()
}

fn panel(
    surface: &Surface,
    area: &Surface,
    sweep: &Sweep,
    title: &str,
    figure: Figure,
) -> Result<(), PlotError> {
    text(area, title, (40, 6), 27, &BLACK)?;
    let (_, chart) = area.split_vertically(px(44));
    by_index::draw(surface, &chart, sweep, "written (MiB)", figure)
}
