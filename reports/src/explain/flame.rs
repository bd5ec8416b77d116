//! The critical path as a flame graph: width is time on the path, height leads from the window's thread through its
//! chain and stacks to where the time went.

use super::{Explain, RenderError, Segment};
use crate::folded::{self, Caption, Line};

pub fn render(explain: &Explain) -> Result<Vec<u8>, RenderError> {
    let window = &explain.window;
    let title = format!("Critical path of {} in {}({})", window.label, window.comm, window.tid);
    let (window_ns, losses) = (explain.window_ns, &explain.loss);
    folded::flame_graph(Caption { title: &title, window_ns, hooks: &[], losses }, &lines(explain))
}

/// One line a segment, outermost first: thread, its user and kernel functions, and the cause on top.
fn lines(explain: &Explain) -> Vec<Line> {
    let line = |segment: &Segment| {
        let mut frames = vec![format!("{}-{}", segment.comm, segment.tid)];
        frames.extend(segment.user_stack.iter().rev().cloned());
        frames.extend(segment.kernel_stack.iter().rev().map(|frame| format!("{frame}_[k]")));
        frames.push(format!("[{}]", segment.cause.as_deref().unwrap_or("unexplained")));
        Line { frames, ns: segment.end_ns - segment.start_ns }
    };
    explain.segments.iter().map(line).collect()
}
