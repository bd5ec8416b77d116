//! The critical path as a flame graph: width is time on the path, height leads from the window's thread through the
//! threads that it waited for, and the last one's stacks, to where the time went.

use super::{Explain, RenderError, Segment};
use crate::folded::{self, Caption, Line};

pub fn render(explain: &Explain) -> Result<Vec<u8>, RenderError> {
    let window = &explain.window;
    let title = format!("Critical path of {} in {}({})", window.label, window.comm, window.tid);
    let (window_ns, losses) = (explain.window_ns, &explain.loss);
    folded::flame_graph(Caption { title: &title, window_ns, hooks: &[], losses }, &lines(explain))
}

/// One line a segment, outermost first: the window's thread and each that was waited for with the wait between them,
/// the last one's user and kernel functions, and the cause on top.
fn lines(explain: &Explain) -> Vec<Line> {
    let window = &explain.window;
    let line = |segment: &Segment| {
        let mut frames = vec![format!("{}-{}", window.comm, window.tid)];
        if segment.tid != window.tid {
            frames.extend(waits(segment).iter().cloned());
            frames.push(format!("{}-{}", segment.comm, segment.tid));
        }
        frames.extend(segment.user_stack.iter().rev().cloned());
        frames.extend(segment.kernel_stack.iter().rev().map(|frame| format!("{frame}_[k]")));
        frames.push(format!("[{}]", segment.cause.as_deref().unwrap_or("unexplained")));
        Line { frames, ns: segment.end_ns - segment.start_ns }
    };
    explain.segments.iter().map(line).collect()
}

/// The links of the chain that lead to the segment's thread, each a thread that waits for the next: those after them
/// are about what that thread did.
fn waits(segment: &Segment) -> &[String] {
    let arrives = format!(" for {}({})", segment.comm, segment.tid);
    let arrived = segment.chain.iter().position(|link| link.ends_with(&arrives));
    &segment.chain[..arrived.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::{lines, waits};
    use crate::explain::tests::explain;

    #[test]
    fn time_in_another_thread_stands_on_the_threads_that_waited_for_it() {
        let mut report = explain();
        let window = report.window.clone();
        let segment = &mut report.segments[0];
        (segment.tid, segment.comm) = (9, "disk".to_owned());
        segment.chain = [
            "firecracker(19251) waits in futex for fc_vcpu 0(19256)",
            "fc_vcpu 0(19256) waits in read for disk(9)",
            "disk(9) waits in futex for somebody(11)",
        ]
        .map(str::to_owned)
        .to_vec();
        (segment.user_stack, segment.kernel_stack) = (vec!["main".to_owned()], Vec::new());
        segment.cause = Some("timer".to_owned());
        assert_eq!(waits(segment).len(), 2, "what the thread itself waited for is its cause");
        let frames = &lines(&report)[0].frames;
        assert_eq!(frames[0], format!("{}-{}", window.comm, window.tid));
        assert_eq!(frames[1], "firecracker(19251) waits in futex for fc_vcpu 0(19256)");
        assert_eq!(frames[3..], ["disk-9", "main", "[timer]"]);
    }

    #[test]
    fn every_line_stands_on_the_windows_thread_and_its_own_time_directly() {
        let report = explain();
        let own = format!("{}-{}", report.window.comm, report.window.tid);
        for (line, segment) in lines(&report).iter().zip(&report.segments) {
            assert_eq!(line.frames[0], own);
            let of_thread = line.frames.contains(&format!("{}-{}", segment.comm, segment.tid));
            assert!(of_thread, "{:?}", line.frames);
        }
        let followed = report.segments.iter().find(|segment| segment.tid != report.window.tid).unwrap();
        assert_eq!(waits(followed), &followed.chain[..1]);
    }
}
