//! The windows that are reported on, and how.

use reports::explain::{Explain, Form, one_line, render};

use super::Format;

/// The slowest windows so far, the slowest first.
#[derive(Debug)]
pub struct Slowest {
    kept: Vec<Explain>,
    most: usize,
    seen: u64,
}

impl Slowest {
    /// Keeps `most` of them.
    pub const fn new(most: usize) -> Self {
        Self { kept: Vec::new(), most, seen: 0 }
    }

    /// Tells of a window, and keeps it where it is one of the slowest.
    pub fn add(&mut self, explain: Explain) {
        eprintln!("{}", one_line(&explain));
        self.seen += 1;
        let at = self.kept.partition_point(|known| known.window_ns >= explain.window_ns);
        self.kept.insert(at, explain);
        self.kept.truncate(self.most);
    }

    /// How many windows there were.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Draws those that are kept, of which there is one at least.
    pub fn draw(&self, format: Format) -> anyhow::Result<Vec<u8>> {
        // What reads a list must not meet something else where fewer windows came.
        let is_list = self.most > 1;
        match format {
            Format::Text => self.text(),
            Format::Json if is_list => {
                let mut json = serde_json::to_vec_pretty(&self.kept)?;
                json.push(b'\n');
                Ok(json)
            }
            Format::Json => Ok(render(&self.kept[0], Form::Json)?),
            Format::Svg => Ok(render(&self.kept[0], Form::Svg)?),
            Format::Perfetto => Ok(render(&self.kept[0], Form::Perfetto)?),
        }
    }

    fn text(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        for (number, explain) in self.kept.iter().enumerate() {
            if number > 0 {
                text.extend(format!("\n{}\n\n", "=".repeat(80)).bytes());
            }
            text.extend(render(explain, Form::Text)?);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use reports::explain::Explain;
    use serde_json::{Value, json};

    use super::{Format, Slowest};

    fn window(window_ns: u64) -> Explain {
        let explain = json!({
            "schema": "forkd.explain/1",
            "window": {"label": "f", "start_ns": 0, "end_ns": window_ns, "pid": 1, "process": "p", "tid": 1,
                       "comm": "p", "clamped": false},
            "window_ns": window_ns, "segments": [], "causes": [], "unexplained_ns": window_ns,
            "passive_waiters": [],
            "verdict": {"cause": null, "share": 1.0, "sentence": "", "sound": true, "lost": 0, "advice": []},
            "loss": {}, "attach": [], "cause_table": "forkd.causes/1", "probe_overhead_ns": 0, "warnings": [],
        });
        serde_json::from_value(explain).unwrap()
    }

    fn drawn(most: usize, lengths_ns: &[u64]) -> Value {
        let mut slowest = Slowest::new(most);
        lengths_ns.iter().for_each(|ns| slowest.add(window(*ns)));
        assert_eq!(slowest.seen(), lengths_ns.len() as u64);
        serde_json::from_slice(&slowest.draw(Format::Json).unwrap()).unwrap()
    }

    #[test]
    fn whoever_asks_for_several_windows_gets_a_list_however_many_came() {
        let lengths = |json: Value| -> Vec<u64> {
            let windows = json.as_array().unwrap();
            windows.iter().map(|window| window["window_ns"].as_u64().unwrap()).collect()
        };
        assert_eq!(lengths(drawn(3, &[5])), [5]);
        assert_eq!(lengths(drawn(2, &[5, 9, 7])), [9, 7]);
        assert_eq!(drawn(1, &[5, 9, 7])["window_ns"], 9, "one is no list");
    }
}
