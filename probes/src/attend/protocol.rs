//! What a daemon and the process that holds its probes say to each other: a line of JSON each.

use reports::explain::Explain;
use serde::{Deserialize, Serialize};

/// From the daemon. Each is shorter than `PIPE_BUF`, so that a write is whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Record from now on, for the window `id` of these processes.
    Arm {
        /// Its name, which the answers carry.
        id: String,
        /// The processes whose threads take part in it.
        pids: Vec<u32>,
    },
    /// The window `id` is over: record no more for it, and account for it; or for nothing, where it never opened.
    Disarm {
        /// Its name.
        id: String,
        /// Where it lay.
        window: Option<Bounds>,
    },
}

/// Where a window lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Its first nanosecond, of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread that ended it.
    pub tid: u32,
}

/// To the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The probes are attached. The first line, and the only one but for [`Self::Refused`] that is no answer.
    Ready,
    /// They cannot be attached. The last line.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// [`Request::Arm`] was done.
    Armed {
        /// The window's name.
        id: String,
    },
    /// [`Request::Disarm`] was done, and this is what came of it.
    Explained {
        /// The window's name.
        id: String,
        /// Without its segments, which have a size that nobody bounds.
        explain: Box<Explain>,
    },
    /// What was asked for the window could not be done.
    Failed {
        /// The window's name.
        id: String,
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::{Answer, Bounds, Request};

    #[test]
    fn a_request_is_one_short_line() {
        let window = Some(Bounds { start_ns: u64::MAX, end_ns: u64::MAX, tid: u32::MAX });
        let id = "0199a5b0-4c1e-7d10-9c2f-0123456789ab".to_owned();
        let disarm = Request::Disarm { id: id.clone(), window };
        for request in [disarm, Request::Arm { id, pids: vec![u32::MAX; 16] }] {
            let line = serde_json::to_string(&request).unwrap();
            // PIPE_BUF of Linux is 4096: pipe(7).
            assert!(line.len() < 4095 && !line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        let answer = Answer::Failed { id: "a".to_owned(), reason: "two\nlines".to_owned() };
        let line = serde_json::to_string(&answer).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
    }
}
