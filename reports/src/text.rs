//! Text that fits a terminal of 80 columns.

/// Columns of the narrowest terminal that every table must fit.
pub const COLUMNS: usize = 80;

/// `text`, or its begin and an ellipsis in `width` columns.
pub fn clip(text: &str, width: usize) -> String {
    match text.chars().count() <= width {
        true => text.to_owned(),
        false => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// `text` in lines of at most [`COLUMNS`], each ended by `\n`, broken after `separator` only; lines after
/// the first begin with `indent`. A piece that is too long for a line is clipped.
pub fn wrap(text: &str, separator: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    // The separator stays at the line's end, less its trailing blanks, and shows that more follows.
    let room = COLUMNS - separator.trim_end().chars().count();
    for piece in text.split_inclusive(separator) {
        let width = line.chars().count() + piece.trim_end().chars().count();
        let started = line.trim() != "" && line != indent;
        if started && width > room {
            out.push_str(line.trim_end());
            out.push('\n');
            line = indent.to_owned();
        }
        line.push_str(&clip_piece(piece, separator, room - line.chars().count().min(room)));
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

fn clip_piece(piece: &str, separator: &str, room: usize) -> String {
    match piece.strip_suffix(separator) {
        Some(bare) => clip(bare, room) + separator,
        None => clip(piece, room),
    }
}

#[cfg(test)]
mod tests {
    use super::{clip, wrap};

    #[test]
    fn clipped_text_says_so() {
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("abcd", 3), "ab…");
    }

    #[test]
    fn lines_break_after_a_separator_and_go_on_indented() {
        let frames = ["a".repeat(50), "b".repeat(50), "c".to_owned()].join(" < ");
        assert_eq!(wrap(&frames, " < ", "  "), format!("{} <\n  {} < c\n", "a".repeat(50), "b".repeat(50)));
    }

    #[test]
    fn a_piece_wider_than_a_line_is_clipped_to_it() {
        let wrapped = wrap(&format!("{} tail", "x".repeat(200)), " ", "  ");
        assert!(wrapped.lines().all(|line| line.chars().count() <= 80), "{wrapped}");
        assert!(wrapped.contains("…\n  tail\n"), "{wrapped}");
    }
}
