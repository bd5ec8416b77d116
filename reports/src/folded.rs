//! Folded stacks, `outermost;...;innermost microseconds`, and flame graphs of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use inferno::flamegraph::color::{BasicPalette, Palette};
use inferno::flamegraph::{Options, from_lines};

use crate::format::RenderError;
use crate::loss;
use crate::text::clip;
use crate::units::duration;

/// Fixed, so that a graph reads the same everywhere and fits a document's page width.
const WIDTH_PX: usize = 1200;

/// One stack and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Outermost first.
    pub frames: Vec<String>,
    /// Its time.
    pub ns: u64,
}

/// What a flame graph says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Caption<'a> {
    /// Whose time it shows, and which.
    pub title: &'a str,
    /// Length of the window.
    pub window_ns: u64,
    /// How it was recorded: the kernel hooks as `kind/name`. Empty where that goes without saying.
    pub hooks: &'a [String],
    /// Events that were not recorded, by cause.
    pub losses: &'a BTreeMap<String, u64>,
}

impl Caption<'_> {
    /// One line that fits the width.
    fn subtitle(&self) -> String {
        let mut parts = vec![format!("a window of {}", duration(self.window_ns))];
        if !self.hooks.is_empty() {
            parts.push(self.hooks.join(", "));
        }
        parts.push(loss::in_short(self.losses));
        clip(&parts.join("; "), WIDTH_PX / 8)
    }
}

/// One line a stack, sorted by stack. Microseconds are rounded; a stack that rounds to 0 is left out.
pub fn render(lines: &[Line]) -> String {
    let mut ns_by_stack: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines {
        let path: Vec<String> = line.frames.iter().map(|frame| escape(frame)).collect();
        *ns_by_stack.entry(path.join(";")).or_default() += line.ns;
    }
    let mut out = String::new();
    for (path, ns) in ns_by_stack {
        let us = (ns + 500) / 1_000;
        if us > 0 {
            writeln!(out, "{path} {us}").expect("a String takes every write");
        }
    }
    out
}

/// The same as a flame graph.
pub fn flame_graph(caption: Caption<'_>, lines: &[Line]) -> Result<Vec<u8>, RenderError> {
    let folded = render(lines);
    if folded.is_empty() {
        return Err(RenderError::Empty { window_ns: caption.window_ns });
    }
    let mut options = Options::default();
    options.title = caption.title.to_owned();
    options.subtitle = Some(caption.subtitle());
    options.colors = Palette::Basic(BasicPalette::Io);
    options.deterministic = true;
    options.image_width = Some(WIDTH_PX);
    options.count_name = "us".to_owned();
    options.name_type = "Frame:".to_owned();
    let mut svg = Vec::new();
    from_lines(&mut options, folded.lines(), &mut svg).map_err(RenderError::FlameGraph)?;
    Ok(svg)
}

/// `;` parts frames and a line end parts stacks, so neither may stand in a frame; nor may a frame be empty.
pub fn escape(frame: &str) -> String {
    match frame.trim() {
        "" => "[unnamed]".to_owned(),
        name => name.replace(';', ":").replace(char::is_control, " "),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Caption, Line, escape, flame_graph, render};
    use crate::format::RenderError;

    fn line(frames: &[&str], ns: u64) -> Line {
        Line { frames: frames.iter().map(|frame| (*frame).to_owned()).collect(), ns }
    }

    #[test]
    fn frames_keep_the_line_format_whatever_they_are_called() {
        assert_eq!(escape("a;b\nc\td"), "a:b c d");
        assert_eq!(escape(" "), "[unnamed]");
    }

    #[test]
    fn equal_stacks_are_summed_before_they_are_rounded() {
        let lines = [line(&["b", "c"], 300), line(&["b", "c"], 300), line(&["a"], 499)];
        assert_eq!(render(&lines), "b;c 1\n");
    }

    #[test]
    fn a_flame_graph_of_nothing_is_refused() {
        let losses = BTreeMap::new();
        let caption = Caption { title: "t", window_ns: 1, hooks: &[], losses: &losses };
        assert!(matches!(flame_graph(caption, &[]), Err(RenderError::Empty { .. })));
        let svg = flame_graph(caption, &[line(&["frame"], 5_000)]).unwrap();
        assert!(String::from_utf8_lossy(&svg).contains("frame (5 us"));
    }

    #[test]
    fn a_subtitle_names_window_hooks_and_losses_and_fits() {
        let (mut hooks, losses) = (Vec::new(), BTreeMap::from([("ring_full".to_owned(), 7)]));
        let subtitle = |hooks: &[String]| {
            Caption { title: "t", window_ns: 2_000_000, hooks, losses: &losses }.subtitle()
        };
        assert_eq!(subtitle(&hooks), "a window of 2.00 ms; 7 events lost (ring_full 7)");
        hooks.extend(["raw_tp/sched_switch", "tp_btf/sys_enter"].map(str::to_owned));
        let named = "a window of 2.00 ms; raw_tp/sched_switch, tp_btf/sys_enter; 7 events lost (ring_full 7)";
        assert_eq!(subtitle(&hooks), named);
        hooks.extend(vec!["kprobe/a_function".to_owned(); 20]);
        assert_eq!(subtitle(&hooks).chars().count(), 150);
    }
}
