//! The pictures of a sweep. All of them are 1600 pixels wide, and every cell looks the same in each.

use plotters::prelude::*;

use crate::sweep::Sweep;

mod axis;
mod by_index;
mod canvas;
mod distribution;
mod legend;
mod marker;
mod phases;
mod written;

use canvas::{Canvas, Surface, px, text, text_width};

pub use canvas::stand_in_for_sans_serif;
pub use distribution::png as distribution_png;
pub use phases::png as phases_png;
pub use written::png as written_png;

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
    canvas.draw(|surface| {
        let top = frame(surface, words, Some(&sweep.cells()))?;
        let (_, chart) = surface.split_vertically(px(top));
        by_index::draw(surface, &chart, sweep, "pause (ms)", |sample| Some(sample.pause_ms))
    })?;
    canvas.to_png()
}

/// Size of the caption's letters, and from one of its lines to the next.
const CAPTION: i32 = 25;
const CAPTION_ROW: i32 = 34;

/// Title, caption and the legend of `cells`, where there is one; gives the y below them, in pixels of the picture.
fn frame(surface: &Surface, words: &Words, cells: Option<&[&str]>) -> Result<i32, PlotError> {
    const LEFT: i32 = 40;
    surface.fill(&WHITE)?;
    text(surface, &words.title, (LEFT, 26), 42, &BLACK)?;
    let room = canvas::width() - 2 * LEFT;
    let mut y = 82;
    for line in lines(&words.caption, text_width(surface, &words.caption, CAPTION)? > room) {
        let size = fitting(CAPTION, text_width(surface, line, CAPTION)?, room);
        text(surface, line, (LEFT, y), size, &canvas::GREY)?;
        y += CAPTION_ROW;
    }
    let top = y + 10;
    match cells {
        Some(cells) => Ok(legend::draw(surface, cells, (LEFT, top))? + 10),
        None => Ok(top),
    }
}

/// A caption on one line or, where that is too long, parted in two at the semicolon nearest to its middle.
fn lines(caption: &str, is_too_long: bool) -> Vec<&str> {
    let from_middle = |(at, _): &(usize, &str)| at.abs_diff(caption.len() / 2);
    match caption.match_indices("; ").min_by_key(from_middle).filter(|_| is_too_long) {
        Some((at, _)) => vec![&caption[..=at], &caption[at + 2..]],
        None => vec![caption],
    }
}

/// The size at which words that are `width` wide at `size` fit into `room`; never larger than `size`.
fn fitting(size: i32, width: i32, room: i32) -> i32 {
    if width > room { size * room / width } else { size }
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

#[cfg(test)]
mod tests {
    use super::{PlotError, Words, distribution_png, fitting, lines, phases_png, sweep_png, written_png};
    use crate::sweep::{Sweep, read};

    #[test]
    fn an_empty_sweep_is_refused() {
        for draw in [sweep_png, distribution_png, phases_png, written_png] {
            assert!(matches!(draw(&Sweep::default(), &Words::default()), Err(PlotError::Empty)));
        }
    }

    #[test]
    fn a_caption_that_is_too_long_is_parted_near_its_middle() {
        let caption = "a; a longer part; another part; z";
        assert_eq!(lines(caption, true), ["a; a longer part;", "another part; z"]);
        assert_eq!(lines(caption, false), [caption]);
        assert_eq!(lines("one part", true), ["one part"]);
    }

    #[test]
    fn words_that_are_too_long_are_smaller_and_others_keep_their_size() {
        assert_eq!([fitting(25, 1520, 1520), fitting(25, 3040, 1520), fitting(25, 9, 1520)], [25, 12, 25]);
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
