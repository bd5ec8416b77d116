//! Colours of a flame graph: user and kernel frames told apart at a glance.

use inferno::flamegraph::color::{Color, PaletteMap};

/// Blue by custom: a reader tells the graph from an on-CPU one before reading a word.
const USER: Color = Color { r: 96, g: 140, b: 214 };
const KERNEL: Color = Color { r: 190, g: 140, b: 96 };
/// Threads, and what stands for no function: `[truncated]`, `[run queue]`.
const NEITHER: Color = Color { r: 170, g: 170, b: 170 };
/// How far two frames of one kind may differ, so that neighbours can be told apart.
const SPREAD: u8 = 36;

/// A colour for every frame of folded stacks.
pub fn of(folded: &str) -> PaletteMap {
    let mut map = PaletteMap::default();
    for line in folded.lines() {
        let stack = line.rsplit_once(' ').map_or(line, |(stack, _)| stack);
        for (depth, frame) in stack.split(';').enumerate() {
            if map.get(frame).is_none() {
                map.insert(frame, color(frame, depth == 0));
            }
        }
    }
    map.insert("all", NEITHER);
    map
}

fn color(frame: &str, is_thread: bool) -> Color {
    let is_mark = frame.starts_with('[') && frame.ends_with(']') && !frame.ends_with("_[k]");
    let base = if is_thread || is_mark {
        NEITHER
    } else if frame.ends_with("_[k]") {
        KERNEL
    } else {
        USER
    };
    let brighter = (hash(frame) % u32::from(SPREAD)) as u8;
    let brighten = |channel: u8| channel.saturating_add(brighter);
    Color { r: brighten(base.r), g: brighten(base.g), b: brighten(base.b) }
}

/// FNV-1a: the same frame has the same colour in every graph.
fn hash(frame: &str) -> u32 {
    frame.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::{Color, SPREAD, color, of};

    fn is_bluish(color: Color) -> bool {
        color.b > color.r.saturating_add(SPREAD)
    }

    #[test]
    fn user_kernel_and_marks_differ_in_hue() {
        for name in ["fsync", "a", "std::fs::File::sync_all", "0x1234"] {
            assert!(is_bluish(color(name, false)), "{name}");
            assert!(!is_bluish(color(&format!("{name}_[k]"), false)), "{name}");
        }
        let grey = |color: Color| color.r == color.g && color.g == color.b;
        assert!(grey(color("[truncated]", false)) && grey(color("fsync-12", true)));
    }

    #[test]
    fn every_frame_has_a_color() {
        let map = of("t-1;main;do_fsync_[k] 12\nt-1;[truncated];main 3\n");
        for frame in ["all", "t-1", "main", "do_fsync_[k]", "[truncated]"] {
            assert!(map.get(frame).is_some(), "{frame}");
        }
    }
}
