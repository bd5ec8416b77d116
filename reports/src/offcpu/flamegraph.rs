//! Off-CPU time as a flame graph: width is time, height is stack depth.

use inferno::flamegraph::{Options, from_lines};

use super::{OffCpu, RenderError, folded, palette, subject, user};
use crate::loss;
use crate::text::clip;
use crate::units::duration;

/// Fixed, so that a graph reads the same everywhere and fits a document's page width.
const WIDTH_PX: usize = 1200;

pub fn render(report: &OffCpu) -> Result<Vec<u8>, RenderError> {
    let folded = folded::render(report);
    if folded.is_empty() {
        return Err(RenderError::Empty { window_ns: report.window_ns });
    }
    let mut options = Options::default();
    options.title =
        format!("Off-CPU time of {}: user functions blue, kernel functions brown", subject(report));
    options.subtitle = Some(subtitle(report));
    let mut colors = palette::of(&folded);
    options.palette_map = Some(&mut colors);
    options.deterministic = true;
    options.image_width = Some(WIDTH_PX);
    options.count_name = "us".to_owned();
    options.name_type = "Frame:".to_owned();
    let mut svg = Vec::new();
    from_lines(&mut options, folded.lines(), &mut svg).map_err(RenderError::FlameGraph)?;
    Ok(svg)
}

/// One line that fits the width: what was cut from it stands in the table.
fn subtitle(report: &OffCpu) -> String {
    let window = match report.windows {
        1 => format!("a window of {}", duration(report.window_ns)),
        many => format!("{many} windows, {} in all", duration(report.window_ns)),
    };
    let warnings = match report.warnings.len() {
        0 => String::new(),
        1 => "; 1 warning in the table".to_owned(),
        many => format!("; {many} warnings in the table"),
    };
    let (user, lost) = (user::wholeness(report), loss::in_short(&report.loss));
    let line = format!("each thread over {window}; {}; {user}; {lost}{warnings}", report.attach);
    clip(&line, WIDTH_PX / 8)
}
