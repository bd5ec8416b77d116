//! The forms in which every report can be had.

use std::str::FromStr;

use serde::Serialize;

/// The forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text of at most 80 columns for a terminal.
    Table,
    /// One line a stack, outermost frame first, in microseconds: the input of flame graph tools.
    Folded,
    /// A flame graph that opens in any browser.
    Svg,
    /// The model itself.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "table" => Ok(Self::Table),
            "folded" => Ok(Self::Folded),
            "svg" => Ok(Self::Svg),
            "json" => Ok(Self::Json),
            _ => Err(format!("no format is called '{name}': use table, folded, svg or json")),
        }
    }
}

/// Why a report could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Nothing lasted half a microsecond or more, and a flame graph of nothing is an error message in red.
    #[error("nothing to draw: nothing of half a microsecond or more was recorded in {} ms", window_ns / 1_000_000)]
    Empty {
        /// Length of the window.
        window_ns: u64,
    },
    /// The report holds no stacks.
    #[error("this report has no stacks to fold or draw: use table or json")]
    NoStacks,
    /// The flame graph could not be laid out.
    #[error("the flame graph could not be drawn: {0}")]
    FlameGraph(std::io::Error),
    /// The model could not be serialised.
    #[error("the report could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The model itself, as a file.
pub(crate) fn json<T: Serialize>(report: &T) -> Result<Vec<u8>, RenderError> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn formats_go_by_their_names() {
        assert_eq!("svg".parse(), Ok(Format::Svg));
        assert!("png".parse::<Format>().unwrap_err().contains("use table, folded, svg or json"));
    }
}
